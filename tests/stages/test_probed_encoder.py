"""What `encoder=...` of evaluate stands for."""

import pytest

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.encoder import Backbone, Statistics
from ssl_rs.initialization import Pretrained
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
