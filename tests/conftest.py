"""What tests of whole commands share: a tiny labeled data set, and commands run in this process."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_rs.command import main

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as commands do, before a GPU's first product

COLORS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


def write_scene(folder: Path, split: str, stem: str, seed: int, size: int = 96) -> None:
    """Write an image of colored rectangles with noise, and the mask that names them."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(12):
        top, left = generator.integers(0, size - 16, 2)
        height, width = generator.integers(8, 40, 2)
        mask[top : top + height, left : left + width] = generator.integers(0, 3)
    noise = generator.integers(-40, 40, (size, size, 3))
    image = np.clip(np.array(COLORS)[mask] + noise, 0, 255).astype(np.uint8)
    for kind, array in (("images", image), ("masks", mask)):
        path = folder / kind / split / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture(scope="session")
def draw_scene() -> Callable[..., None]:
    """Write an image and its mask, see `write_scene`."""
    return write_scene


@pytest.fixture(scope="session")
def folder_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 6 scenes of 96 px with 3 classes that can be learnt from their color."""
    root = tmp_path_factory.mktemp("data") / "my images"
    for index in range(4):
        write_scene(root, "train", f"scene{index}", index)
    write_scene(root, "val", "scene4", 4)
    write_scene(root, "test", "scene5", 5)
    classes = "classes:\n" + "".join(
        f"  - {{name: {name}, index: {i}, color: {list(COLORS[i])}}}\n" for i, name in enumerate("abc")
    )
    (root / "classes.yaml").write_text(classes)
    return root


TINY = (
    "dataset.crop_size=32",
    "trainer.batch_size=4",
    "trainer.max_steps=4",
    "trainer.log_every_steps=2",
    "backbone=mobilenet_v2",  # a fifth of the default's parameters, which each run hashes and writes several times
    "logger=none",
)


def on_dataset(root: Path) -> tuple[str, str]:
    """Return the overrides that choose a data set in a folder of `write_scene`'s."""
    return "dataset=folder", f"dataset.root={json.dumps(str(root))}"


@pytest.fixture(scope="session")
def stores(folder_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the tiny data set, prepared."""
    folder = tmp_path_factory.mktemp("stores")
    assert main("prepare", [*on_dataset(folder_dataset), f"store_dir={folder}"]) == 0
    return folder


@pytest.fixture
def unprepared(folder_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides for a run of seconds on the tiny data set, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return (*on_dataset(folder_dataset), *TINY)


@pytest.fixture
def tiny(unprepared: tuple[str, ...], stores: Path, tmp_path: Path) -> tuple[str, ...]:
    """The same overrides, and the data set is prepared: a copy takes a fraction of the time."""
    shutil.copytree(stores, tmp_path / "outputs" / "stores")
    return unprepared


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        threads = torch.get_num_threads()
        code = main(name, list(arguments))
        torch.set_num_threads(threads)
        out, err = capsys.readouterr()
        return code, out, err

    return run
