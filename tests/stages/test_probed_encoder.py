"""What `encoder=...` of evaluate stands for."""

import pytest
import torch

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.encoder import Backbone, Statistics
from ssl_rs.errors import InputError
from ssl_rs.initialization import Pretrained, Target
from ssl_rs.run_directory import RunDirectory, save_tensors
from ssl_rs.stages import probing
from ssl_rs.stages.probed_encoder import EncoderFile, initialization_of
from ssl_rs.weights_metadata import WeightsMetadata


def test_only_the_encoder_of_a_finished_pretraining_stands_for_it(tmp_path):
    """Another file that lies there is probed itself, not the encoder beside it."""
    run, own = RunDirectory(tmp_path / "run"), tmp_path / "run/mine.safetensors"
    run.path.mkdir()
    for path in (run.encoder, run.result, own):
        path.write_text("{}")
    for chosen in (run.path, run.encoder):
        assert initialization_of(str(chosen), None, "mine") == Pretrained(run=str(run.path), label="mine")
    assert initialization_of(str(own), None, "mine") == EncoderFile(own, "mine")
    run.result.unlink()
    assert initialization_of(str(run.encoder), None, None) == EncoderFile(run.encoder)


class FittedError(Exception):
    """The encoder is as it is probed."""


@pytest.mark.parametrize(("own_weights", "measured"), [(False, 1), (True, 0)])
def test_random_weights_alone_have_their_statistics_measured(tiny, tmp_path, monkeypatch, own_weights, measured):
    """The baseline would be handicapped without, and trained weights changed with them."""
    calls = []

    def fit(plan, features):
        raise FittedError

    monkeypatch.setattr(probing, "measure_batch_norm", lambda *given: calls.append(given))
    monkeypatch.setattr(probing, "fit_probe", fit)
    chosen = ["encoder=random", "backbone=resnet18"]
    if own_weights:
        statistics = Statistics((0.5,) * 3, (0.5,) * 3, "a test")
        texts = WeightsMetadata("resnet18", ("red", "green", "blue"), 255.0, statistics).texts()
        save_tensors(tmp_path / "own.safetensors", Backbone("resnet18").build(3).state_dict(), texts)
        chosen = [f"encoder={tmp_path / 'own.safetensors'}"]
    given = [*tiny[:2], *chosen, "probe=linear", "evaluation.window.size=32", "trainer.device=cpu"]
    plan = probing.read_plan(Settings("evaluate", resolve(compose_config("evaluate", given))))
    with pytest.raises(FittedError):
        probing._fit_and_score(plan)
    assert len(calls) == measured


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"bands": ("nir", "red", "green")}, "was trained on the bands nir"),
        ({"value_scale": 100.0}, "was trained on values divided by 100"),
        ({"backbone": "resnet34"}, "is an encoder resnet34"),
    ],
)
def test_a_file_of_other_images_is_refused(tmp_path, odd, said):
    """Its tensors may fit all the same."""
    path = tmp_path / "own.safetensors"
    statistics = Statistics((0.5,) * 3, (0.5,) * 3, "a test")
    whole = {"backbone": "resnet18", "bands": ("red", "green", "blue"), "value_scale": 255.0}
    target = Target("folder", "resnet18", whole["bands"], "uint8", statistics, 255.0, tmp_path)
    save_tensors(path, {"a": torch.zeros(1)}, WeightsMetadata(**whole, statistics=statistics).texts())
    assert EncoderFile(path).locate(target).label == "own"
    EncoderFile(path).check("folder", "resnet18", tmp_path, 255.0)
    save_tensors(path, {"a": torch.zeros(1)}, WeightsMetadata(**{**whole, **odd}, statistics=statistics).texts())
    with pytest.raises(InputError, match=said):
        EncoderFile(path).locate(target)
    if "bands" not in odd:  # else it is known before any data is prepared
        with pytest.raises(InputError, match=said):
            EncoderFile(path).check("folder", "resnet18", tmp_path, 255.0)
