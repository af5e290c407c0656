"""Which run a config is: the settings in which two differ."""

import json

import pytest

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.errors import InputError
from ssl_rs.randomness import Rows
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.finetuning_plan import read_plan as finetuning
from ssl_rs.stages.identified import Identified, changed_settings
from ssl_rs.stages.pretraining_plan import read_plan as pretraining
from ssl_rs.stages.probing import read_plan as probing
from ssl_rs.stages.site import Site


def test_a_key_that_came_later_is_no_difference_to_a_run_before_it():
    before = {"trainer": {"max_steps": 5}}
    assert changed_settings(before, {"trainer": {"max_steps": 6, "encoder_lr_factor": 1.0}}) == [
        "trainer.max_steps was 5, is 6"
    ]
    assert changed_settings(before, {"trainer": {"max_steps": 5, "encoder_lr_factor": 0.1}}) == [
        "trainer.encoder_lr_factor was 1.0, is 0.1"
    ]


def test_of_many_settings_that_differ_the_first_are_told(tmp_path):
    run = RunDirectory(tmp_path)
    run.result.write_text(
        json.dumps({"command": "finetune", "config_hash": "a", "settings": {f"key{place}": 0 for place in range(9)}})
    )
    settings = {f"key{place}": 1 for place in range(9)}
    with pytest.raises(InputError, match="key4 was 0, is 1; and 4 more") as told:
        Identified(run, "b", settings, ()).is_finished("finetune")
    assert "key5" not in str(told.value)


@pytest.mark.parametrize(("command", "read_plan"), [("finetune", finetuning), ("pretrain", pretraining)])
def test_the_batch_of_all_processes_makes_another_run_and_another_row(tiny, monkeypatch, command, read_plan):
    def hashes(processes):
        monkeypatch.setattr(Site, "rows", property(lambda site: Rows.of_rank(0, processes, site.trainer.batch_size)))
        plan = read_plan(Settings(command, resolve(compose_config(command, [*tiny, "trainer.device=cpu"]))))
        return plan.run.hash, plan.settings_hash

    one, two, again = map(hashes, (1, 2, 1))
    assert one == again
    assert not {*one} & {*two}


@pytest.fixture
def hashes_of(tiny):
    """The hash of a run, and that of what a row has in common."""

    def make(command, *overrides):
        settings = Settings(command, resolve(compose_config(command, [*tiny[:2], "trainer.device=cpu", *overrides])))
        plan = {"finetune": finetuning, "pretrain": pretraining, "evaluate": probing}[command](settings)
        return plan.run.hash, plan.settings_hash

    return make


@pytest.mark.parametrize(
    ("command", "change", "same_run", "same_row"),
    [
        ("pretrain", "dataset.tile_size=48", True, True),  # no label is read
        ("pretrain", "seed=1", False, True),
        ("pretrain", "dataset.crop_size=64", False, False),
        ("finetune", "dataset.transductive=true", True, True),  # no pretraining is here
        ("finetune", "seed=1", False, True),
        ("finetune", "label_fraction=50pct", False, True),
        ("finetune", "dataset.tile_size=48", False, False),
    ],
)
def test_what_a_table_varies_makes_another_run_of_one_row(hashes_of, command, change, same_run, same_row):
    before, after = hashes_of(command, "dataset.crop_size=32"), hashes_of(command, "dataset.crop_size=32", change)
    assert [one == other for one, other in zip(before, after, strict=True)] == [same_run, same_row]


def test_probes_of_other_seeds_and_backbones_are_others(hashes_of):
    """Random weights have no file that tells two encoders apart."""
    given = ("encoder=random", "probe=linear", "evaluation.window.size=32", "backbone=resnet18")
    found = [hashes_of("evaluate", *given, *more) for more in ((), ("seed=1",), ("backbone=resnet34",))]
    assert len({run for run, _ in found}) == 3
    assert found[0][1] == found[1][1] != found[2][1]
