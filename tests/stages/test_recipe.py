"""What pretraining and fine-tuning share of settings: what is refused of where weights start."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ssl_rs.data.folder import Folder
from ssl_rs.data.prepare import prepare
from ssl_rs.files import write_json
from ssl_rs.several_pretrainings import SeveralPretrainingsError
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import SiteSettings
from ssl_rs.training.schedule import Constant
from ssl_rs.training.settings import TrainerSettings


def test_of_several_pretrainings_those_of_the_present_data_are_told(folder_dataset, tmp_path):
    data = Folder(
        name="city", root=str(folder_dataset), crop_size=32, tile_size=32, tile_shift=0.25, protocol="all_classes",
        value_scale=None, on_bad_scene="error", transductive=False, bands=None, val_share=0.1, test_share=0.2,
        split_seed=0,
    )  # fmt: skip
    surroundings = SiteSettings(TrainerSettings(1, 2), data, 0, tmp_path, tmp_path / "stores")
    folders = [tmp_path / "pretrain/city/resnet18/simclr" / name for name in ("seed0-aa", "seed0-bb")]

    def fail(*_):
        raise SeveralPretrainingsError("there are", folders, surroundings.pretrainings("resnet18"))

    recipe = Recipe(
        SimpleNamespace(name="resnet18"), SimpleNamespace(check=fail), partial(torch.optim.SGD), Constant(), None, None
    )  # fmt: skip
    for folder in folders:
        folder.mkdir(parents=True)
        write_json(folder / "result.json", {"manifest_sha256": "a" * 64})
    with pytest.raises(SeveralPretrainingsError, match=r"2 finished pretrainings; name one:\n.*seed0-aa  \(ended "):
        recipe.check(surroundings)  # nothing is prepared: it is not known what the present data are
    write_json(folders[1] / "result.json", {"manifest_sha256": prepare(data, surroundings.store_dir).manifest.sha256})
    with pytest.raises(SeveralPretrainingsError) as error:
        recipe.check(surroundings, planned=True)
    assert "seed0-aa  (made from other data than the present, ended " in str(error.value)
    assert "seed0-bb  (made from the present data, ended " in str(error.value)
    assert "'initialization.run=simclr/seed0-bb*'" in str(error.value)
    alike = [folder.with_name(f"seed0-cccc{number}") for number in (1, 2)]
    for folder in alike:
        folder.mkdir()
        write_json(folder / "result.json", {})
    said = str(SeveralPretrainingsError("there are", alike, surroundings.pretrainings("resnet18")))
    assert "A pattern" not in said  # none that is short fits one of them alone


def test_of_several_pretrainings_what_their_tasks_differ_in_is_told(tmp_path):
    folders = []
    for name, decoder, weight in (
        ("aa", "AdditiveDecoder", 10.0),
        ("bb", "SegmentationDecoder", 10.0),
        ("cc", None, 1),
    ):
        task = "contrastive" if decoder is None else "inpainting"
        settings = {f"pretext.{task}.weight": weight, "trainer.max_steps": 5, "optimizer.lr": 0.1}
        settings |= {} if decoder is None else {"pretext.inpainting.task.decoder._target_": f"ssl_rs.x.{decoder}"}
        folders.append(tmp_path / "city/resnet18" / task / f"seed0-{name}")
        folders[-1].mkdir(parents=True)
        write_json(folders[-1] / "result.json", {"settings": settings, "seed": 0, "steps": 5})
    said = str(SeveralPretrainingsError("there are", folders, tmp_path / "city/resnet18"))
    assert "seed0-aa  (pretext.inpainting.task.decoder=AdditiveDecoder, ended" in said
    assert "seed0-bb  (pretext.inpainting.task.decoder=SegmentationDecoder, ended" in said
    assert "seed0-cc  (ended" in said  # its folder tells
