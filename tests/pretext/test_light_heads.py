"""Heads are there for the encoder: by default they have fewer parameters than it, unlike the paper's."""

import pytest
import torch

from ssl_rs.build import build
from ssl_rs.config import compose_config, resolve
from ssl_rs.config_files import conf_dir
from ssl_rs.pretext.network import build_task


def parameters_of(*overrides):
    """Parameters, in millions, of the encoder and of all heads together."""
    values = resolve(compose_config("pretrain", list(overrides)))
    with torch.device("meta"):
        encoder = build(values["backbone"], "backbone").build(3)
        tasks = [
            build_task(build(entry["task"], f"pretext.{name}.task"), channels=tuple(encoder.out_channels), bands=3)
            for name, entry in values["pretext"].items()
        ]
    counts = [sum(parameter.numel() for parameter in module.parameters()) / 1e6 for module in (encoder, *tasks)]
    return counts[0], sum(counts[1:])


@pytest.mark.parametrize("backbone", sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml")))
def test_heads_are_smaller_than_the_encoder(backbone):
    encoder, heads = parameters_of(f"backbone={backbone}")
    assert heads < 0.75 * encoder


def test_the_papers_heads_are_larger_than_its_encoder():
    encoder, heads = parameters_of("experiment=paper_resnet50")
    assert encoder == pytest.approx(23.5, abs=0.1)
    assert encoder + heads == pytest.approx(173, abs=1)  # million, as in the authors' code
