"""Damaged files: what can be had from an older one is, with a warning; all else is one message that names the file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ssl_rs
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages import pretraining

pytestmark = pytest.mark.slow


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path, place=None):
    """Change one bit, in the middle unless another byte is named."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def garbage(path):
    path.write_bytes(os.urandom(200))


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def empty(path):
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def stopped(folder_dataset, tmp_path_factory, whole):
    """The run of `whole`, stopped before its fifth line, with checkpoints after steps 2 and 4."""
    return tmp_path_factory.mktemp("stopped") / "run"


@pytest.fixture
def broken(stopped, tmp_path, quick, fails, at_step):
    """A copy of it that a test may damage, and the command that goes on with it."""
    if not stopped.exists():

        def stop():
            raise OSError("stopped by the test")

        at_step(5, stop)
        assert "stopped by the test" in fails("pretrain", *quick, f"run_dir={stopped}")
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(stopped, run.path)
    assert sorted(os.listdir(run.checkpoints)) == ["step-00000002.ckpt", "step-00000004.ckpt"]
    return run, (*quick, f"run_dir={run.path}")


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_run_ends_the_same(
    broken, damage, command, ends_as_whole
):
    run, overrides = broken
    damage(run.checkpoints / "step-00000004.ckpt")
    with pytest.warns(UserWarning, match=r"step-00000004\.ckpt is damaged .*going back"):
        assert command("pretrain", *overrides)[0] == 0
    ends_as_whole(run)


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_without_a_whole_checkpoint_nothing_starts_over(broken, fails):
    run, overrides = broken
    cut(run.checkpoints / "step-00000004.ckpt")
    flip(run.checkpoints / "step-00000002.ckpt")
    before = {path: path.read_bytes() for path in (*run.checkpoints.iterdir(), run.metrics)}
    assert f"No checkpoint in {run.checkpoints} is whole. Delete the folder {run.path}" in fails("pretrain", *overrides)
    assert {path: path.read_bytes() for path in (*run.checkpoints.iterdir(), run.metrics)} == before
    assert not run.result.exists()


def test_a_run_whose_data_changed_is_told_so(broken, fails, folder_dataset, tmp_path):
    _, overrides = broken
    changed = shutil.copytree(folder_dataset, tmp_path / "changed")
    image = min(path for path in (changed / "images").rglob("*") if path.is_file())
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    said = fails("pretrain", *overrides, f"dataset.root='{changed}'")
    assert "belongs to another run: config_hash was " in said
    assert "Settings that differ: none, so its data, the weights it starts from or the number of processes" in said


def test_a_checkpoint_of_another_config_is_refused_and_nothing_of_it_is_changed(broken, fails, command, ends_as_whole):
    run, overrides = broken
    written = [path for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in written}
    said = fails("pretrain", *overrides, "optimizer.lr=0.02", "trainer.gradient_clip=1.5", "trainer.num_workers=1")
    assert "belongs to another run: config_hash was " in said
    assert "choose another run_dir" in said
    assert "Settings that differ: optimizer.lr was 0.01, is 0.02; trainer.gradient_clip was null, is 1.5." in said
    assert {path: path.read_bytes() for path in written} == before
    assert command("pretrain", *overrides)[0] == 0
    ends_as_whole(run)


def test_a_checkpoint_of_another_version_is_refused_until_it_is_accepted(broken, fails, command, monkeypatch):
    run, overrides = broken
    monkeypatch.setattr(ssl_rs, "__version__", "99.0")
    said = fails("pretrain", *overrides)
    assert "ssl_rs_version was " in said
    assert ", is 99.0" in said
    assert "trainer.accept_other_versions=true" in said
    assert '"ssl_rs": "99.0"' not in (run.path / "environment.json").read_text()
    with pytest.warns(UserWarning, match="is 99.0: the run goes on, but not bit for bit"):
        assert command("pretrain", *overrides, "trainer.accept_other_versions=true")[0] == 0
    assert run.result.exists()


def test_a_half_written_line_is_written_again(broken, command, ends_as_whole):
    run, overrides = broken
    with open(run.metrics, "a") as file:
        file.write('{"step": 5, "lo')
    assert command("pretrain", *overrides)[0] == 0
    ends_as_whole(run)


@pytest.mark.parametrize("line", ["\0\0\0\0", '{"step": "two"}', "null"])
def test_a_damaged_line_is_named_and_may_be_deleted(broken, fails, command, whole, line):
    run, overrides = broken
    written = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join([written[0], f"{line}\n", *written[2:]]))
    assert f"{run.metrics} is damaged: line 2 is '" in fails("pretrain", *overrides)
    if line == "null":
        run.metrics.write_text("".join([written[0], *written[2:]]))
        assert command("pretrain", *overrides)[0] == 0
        assert run.encoder.read_bytes() == whole.encoder.read_bytes()
        assert [found["step"] for found in run.read_metrics()] == [1, 3, 4, 5, 6]


def test_a_trained_run_whose_lines_are_gone_ends_with_its_weights(quick, tmp_path, fails, command, whole, monkeypatch):
    """As when its end failed, say for a full disk, and its lines were deleted since."""
    run = RunDirectory(tmp_path / "run")
    write = pretraining.write_result

    def no_room(*arguments):
        raise OSError("stopped by the test")

    monkeypatch.setattr(pretraining, "write_result", no_room)
    assert "stopped by the test" in fails("pretrain", *quick, f"run_dir={run.path}")
    monkeypatch.setattr(pretraining, "write_result", write)
    run.metrics.unlink()
    assert command("pretrain", *quick, f"run_dir={run.path}")[0] == 0
    result = run.read_result()
    assert (result["final_losses"], result["final_metrics"]) == ({}, {})
    assert result["encoder_sha256"] == whole.read_result()["encoder_sha256"]
    code, _, err = command("report", f"runs={tmp_path}", f"run_dir={tmp_path / 'report'}")
    assert code == 0, err


@pytest.fixture
def scored(tuned, tmp_path):
    """A copy of a finished fine-tuning that a test may damage, and what evaluates it."""
    shutil.copytree(tuned.path, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy")
    return run, (f"run={run.path}", f"output_dir={tuned.path.parent}", f"run_dir={tmp_path / 'scores'}")


def test_the_undamaged_run_can_be_evaluated(scored, command):
    run, overrides = scored
    code, _, err = command("evaluate", *overrides)
    assert code == 0, err
    new = json.loads(Path(overrides[-1].partition("=")[2], "result.json").read_text())
    assert new["confusion"] == run.read_result()["confusion"]


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_model_is_named(scored, fails, damage):
    run, overrides = scored
    damage(run.model)
    said = fails("evaluate", *overrides)
    assert str(run.model) in said
    assert f"Delete {run.result}: the command that made the run then trains anew." in said


def test_one_bit_of_a_weight_is_noticed(scored, fails):
    """The last byte is that of a number: every reader takes it for good."""
    run, overrides = scored
    flip(run.model, -1)
    assert f"{run.model} is not the file that its result.json names" in fails("evaluate", *overrides)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "a: b\n", "dataset: 3\n", "a: ${b}\n", "\0", "- " * 3000, "&a [*a]"]
)
def test_a_damaged_config_is_named(scored, fails, content):
    run, overrides = scored
    run.config.write_text(content)
    assert str(run.config) in fails("evaluate", *overrides)


@pytest.mark.parametrize("key", ["dataset", "trainer", "decoder", "evaluation"])
def test_a_config_that_lacks_a_part_is_named(scored, fails, key):
    run, overrides = scored
    run.config.write_text(run.config.read_text().replace(f"\n{key}:", "\nother:"))
    assert f"{run.config} lacks ['{key}']" in fails("evaluate", *overrides)


@pytest.mark.parametrize("damage", [cut, garbage, empty, lambda path: path.write_text("[" * 100_000)])
@pytest.mark.parametrize("name", ["evaluate", "pretrain"])
def test_a_damaged_result_is_named(scored, quick, fails, damage, name):
    run, overrides = scored
    damage(run.result)
    said = fails(name, *(overrides if name == "evaluate" else (*quick, f"run_dir={run.path}")))
    assert f"{run.result} cannot be read" in said
    assert "Delete it" in said


def test_a_report_names_a_damaged_result_and_goes_on(scored, command, tmp_path):
    run, _ = scored
    shutil.copytree(run.path, tmp_path / "runs" / "good")
    shutil.copytree(run.path, tmp_path / "runs" / "bad")
    cut(tmp_path / "runs" / "bad" / "result.json")
    garbage(tmp_path / "runs" / "good" / "samples.npz")
    assert command("report", f"runs={tmp_path / 'runs'}", f"run_dir={tmp_path / 'page'}")[0] == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert str(tmp_path / "runs" / "bad" / "result.json") in page
    assert str(tmp_path / "runs" / "good" / "samples.npz") in page


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_encoder_is_named(whole, tmp_path, quick, fails, damage):
    run = RunDirectory(tmp_path / "pretrained")
    shutil.copytree(whole.path, run.path)
    damage(run.encoder)
    given = [item for item in quick if not item.startswith("pretext")]
    said = fails("finetune", *given, "initialization=pretrained", f"initialization.run={run.path}")
    assert f"{run.encoder} is not the file that its result.json names" in said


@pytest.fixture
def store(tuned, tmp_path):
    """A copy of a store that a test may damage, and the settings of its data."""
    shutil.copytree(tuned.path.parent / "stores", tmp_path / "stores")
    (path,) = (tmp_path / "stores").glob("folder-*")
    return path


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("manifest.json", cut),
        ("manifest.json", garbage),
        ("manifest.json", empty),
        ("manifest.json", Path.unlink),
        ("manifest.json", lambda path: path.write_text("[" * 100_000)),
        ("manifest.json", lambda path: edit(path, '"number": 1', '"number": 2')),
        ("0000", lambda path: edit(path.with_name("manifest.json"), '"height": 96', '"height": 960')),
        ("00001_image.npy", cut),
        ("00001_image.npy", empty),
        ("00001_mask.npy", garbage),
        ("00001_mask.npy", Path.unlink),
        ("00001_mask.npy", lambda path: flip(path, 20)),
    ],
)
def test_a_damaged_store_is_named(store, quick, fails, name, damage):
    damage(store / name)
    said = fails("pretrain", *quick, f"store_dir={store.parent}")
    assert name in said
    assert "Delete the folder" in said
    assert str(store) in said


def test_one_bit_of_an_image_is_found_by_a_check(store, quick, fails, command):
    flip(store / "00001_image.npy")
    assert command("prepare", *quick[:2], f"store_dir={store.parent}")[0] == 0  # a start reads sizes, not gigabytes
    said = fails("prepare", *quick[:2], f"store_dir={store.parent}", "check=true")
    assert f"{store / '00001_image.npy'}: expected sha256" in said
