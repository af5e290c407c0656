"""The whole examples of docs/extend.md run as they stand there."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_rs.randomness import Rows
from ssl_rs.views.base import crop_view, make_views

DOC = Path(__file__).parent.parent / "docs/extend.md"
SHORT = ("dataset.crop_size=32", "trainer.batch_size=4", "trainer.max_steps=2", "logger=none")


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """Write the files of the document into an empty working directory, and return its commands as arguments."""
    text = DOC.read_text(encoding="utf-8")
    file = r"^`(my_[\w/.]+)`:\n```\w+\n(.*?)^```$"
    for name, content in re.findall(file, text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield [shlex.split(line)[2:] for line in re.findall(r"^python -m ssl_rs.*$", text, re.MULTILINE)]
    for name in [each for each in sys.modules if each.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def write_arrays(root):
    generator = np.random.default_rng(0)
    for index in range(4):
        folder = root / ("test" if index == 3 else "train")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"scene{index}.npy", generator.integers(1, 3000, (4, 80, 96)).astype(np.uint16))
        np.save(folder / f"scene{index}_mask.npy", generator.integers(0, 2, (80, 96)))


def test_the_documented_view_is_the_crop_where_its_geometry_says_under_haze_to_the_right(documented):
    maker = importlib.import_module("my_package.hazy").HazyMaker(source="crop", share=0.5, strength=(0.5, 0.5))
    image = torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    valid = image[:, :1] > 0.2
    view = make_views(crop_view(image, valid=valid), {"hazy": maker}, seed=0, step=0, rows=Rows(0, 16, 16))["hazy"]

    def seen(crop):
        grid = F.affine_grid(view.geometry, (16, 1, 8, 8), align_corners=False)
        return F.grid_sample(crop, grid, mode="nearest", align_corners=False)

    assert torch.equal(view.valid, seen(valid.float()).bool())
    below, haze = seen(image), torch.linspace(0, 0.5, 8)
    clear = torch.isclose(view.image, below * view.valid, atol=1e-6).flatten(1).all(dim=1)
    under = torch.isclose(view.image, (below + haze * (1 - below)) * view.valid, atol=1e-6).flatten(1).all(dim=1)
    assert (clear ^ under).all()
    assert clear.any()
    assert under.any()
    assert not torch.equal(view.geometry, crop_view(image).geometry)


def test_the_documented_parts_run(documented, command, folder_dataset):
    write_arrays(Path("my_arrays"))
    ran = []
    for module, *arguments in documented:
        name = module.removeprefix("ssl_rs.")
        own = [] if "dataset=arrays" in arguments else ["dataset=folder", f"dataset.root='{folder_dataset}'"]
        code, out, err = command(name, *arguments, *own, *(SHORT if name != "prepare" else ()))
        assert code == 0, err
        ran.append((name, Path(out.splitlines()[-1])))
    assert [name for name, _ in ran] == ["pretrain", "preview", "pretrain", "prepare", "finetune", "pretrain"]
    pretrained, picture, hazy, prepared, tuned, following = (path for _, path in ran)
    assert "mean_color/error" in (pretrained / "metrics.jsonl").read_text()
    assert picture.name == "views.png"
    assert "HazyMaker" in (hazy / "config.yaml").read_text()
    assert "following/agreement" in (following / "metrics.jsonl").read_text()
    assert "nir" in (prepared / "manifest.json").read_text()
    assert (tuned / "result.json").is_file()
