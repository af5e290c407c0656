"""Pretraining that starts from ImageNet or an earlier run, and fine-tuning that takes encoder and decoder over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_initialization import torchvision_file

pytestmark = pytest.mark.slow

STILL = ("optimizer.lr=0.0", "trainer.max_steps=1", "trainer.log_every_steps=1")  # weights stay as they began


def run(command, name, *arguments):
    code, out, err = command(name, *arguments)
    assert code == 0, err
    path = Path(out.strip().splitlines()[-1])
    return path, json.loads((path / "result.json").read_text())


def trained(tensors, prefix=""):
    """Tensors that a step moves: no statistics of BatchNorm."""
    moments = ("running_mean", "running_var", "num_batches_tracked")
    return {
        name.removeprefix(prefix): tensors[name]
        for name in tensors
        if name.startswith(prefix) and not name.endswith(moments)
    }


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_imagenet_then_contrast_then_inpainting_then_fine_tuning(command, tiny, tmp_path):
    network, file = torchvision_file(tmp_path, "mobilenet_v2")
    still = (*tiny, *STILL)
    first, result = run(
        command,
        "pretrain",
        *still,
        "pretext=[contrastive]",
        "initialization=imagenet",
        f"initialization.weights={file}",
    )
    assert result["provenance"]["label"] == "imagenet"
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier.")}
    assert equal(trained(load_file(first / "encoder.safetensors")), trained(kept))

    second, result = run(
        command,
        "pretrain",
        *still,
        "pretext=[inpainting_unet]",
        "initialization=pretrained",
        "initialization.run=contrastive",
    )
    assert result["initialization"] == "pretrained"
    assert result["provenance"]["label"] == "imagenet, then contrastive"
    assert result["provenance"]["source"] == str(first)
    assert result["decoder"] == "unet"
    assert equal(trained(load_file(second / "encoder.safetensors")), trained(kept))

    tuned, result = run(
        command, "finetune", *still, "initialization=pretrained", "initialization.run=inpainting",
        "initialization.parts=encoder_and_decoder",
    )  # fmt: skip
    assert result["label"] == "imagenet, then contrastive, then inpainting with decoder"
    chain = result["provenance"]
    assert chain["source"] == str(second)
    assert chain["pretraining"]["provenance"]["pretraining"]["provenance"]["source"] == file.name
    assert chain["statistics"]["mean"] == [0.485, 0.456, 0.406]  # ImageNet's go along
    model = load_file(tuned / "model.safetensors")
    assert equal(trained(model, "encoder."), trained(kept))
    assert equal(trained(model, "decoder."), trained(load_file(second / "decoder.safetensors")))

    code, _, err = command(
        "finetune", *still, "decoder=fpn", "initialization=pretrained", "initialization.run=inpainting",
        "initialization.parts=encoder_and_decoder",
    )  # fmt: skip
    assert code == 2
    assert "has a decoder unet, this run has decoder=fpn" in err


def test_a_decoder_that_dilates_its_encoder_cannot_paint(command, tiny):
    code, _, err = command(
        "pretrain", *tiny, "pretext=[inpainting_unet]", "decoder@pretext.inpainting.task.decoder.model=deeplabv3plus"
    )
    assert code == 2
    assert "deeplabv3plus reads levels of [3, 16, 24, 32, 96, 1280] channels down to stride 16" in err
    assert "Choose pretext=[inpainting_unet,...] or [inpainting_fpn,...]" in err


def test_the_encoder_of_a_momentum_method_is_the_bare_online_one(command, tiny):
    settings = (*tiny, "pretext=[byol]", "pretext.byol.task.widths=[16,8]", "pretext.byol.task.predictor_widths=[16]")
    path, _ = run(command, "pretrain", *settings)
    other, _ = run(
        command, "pretrain", *settings, "pretext.byol.task.momentum.start=0.5", "pretext.byol.task.momentum.final=0.5"
    )
    encoders = [load_file(each / "encoder.safetensors") for each in (path, other)]
    from ssl_rs.encoder import Backbone

    assert encoders[0].keys() == Backbone("mobilenet_v2").build(3).state_dict().keys()
    assert not equal(trained(encoders[0]), trained(encoders[1]))  # the rule matters


def test_views_that_no_task_reads_do_not_count(command, tiny):
    from ssl_rs.config import Settings, compose_config, resolve
    from ssl_rs.stages.pretraining import place

    named = ("views=[clean,transformed,corrupted]", "views=[byol,corrupted,transformed,clean]")
    places = {
        place(Settings("pretrain", resolve(compose_config("pretrain", [*tiny, *given]))))()[0]
        for given in ((), named[:1], named[1:])
    }
    assert len(places) == 1


def test_a_view_that_is_not_made_is_refused_with_the_option_that_makes_it(command, tiny):
    code, _, err = command("pretrain", *tiny, "pretext=[byol]", "views=[clean]")
    assert code == 2
    assert "reads the view 'byol_first', but the views made are ['clean']" in err
    assert "Add byol to views=[...], or" in err


def test_methods_whose_momentum_differs_are_refused_together(command, tiny):
    code, _, err = command("pretrain", *tiny, "pretext=[moco_v2,byol]")
    assert code == 2
    assert "'moco_v2' from 0.99 to 0.99, 'byol' from 0.97 to 1" in err
