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
    assert [name for name, _ in ran] == [
        "pretrain",
        "preview",
        "pretrain",
        "pretrain",
        "prepare",
        "finetune",
        "pretrain",
    ]
    pretrained, picture, hazy, blurry, prepared, tuned, following = (path for _, path in ran)
    assert "mean_color/error" in (pretrained / "metrics.jsonl").read_text()
    assert picture.name == "views.png"
    assert "HazyMaker" in (hazy / "config.yaml").read_text()
    assert "random_apply: 2" in (blurry / "config.yaml").read_text()
    assert "following/agreement" in (following / "metrics.jsonl").read_text()
    assert "nir" in (prepared / "manifest.json").read_text()
    assert (tuned / "result.json").is_file()


def test_a_task_without_partial_is_told_to_have_it(documented, command):
    path = Path("my_conf/pretext/mean_color.yaml")
    path.write_text(re.sub(r"  _partial_.*\n", "", path.read_text()))
    code, _, err = command("pretrain", *documented[0][1:])
    assert code == 2
    assert "pretext.mean_color.task: MeanColor gets its last arguments from the code" in err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "(PretextTask)",
            "(nn.Module)",
            " is a MeanColor, expected a class derived from ssl_rs.pretext.base.PretextTask",
        ),
        ('views = ("clean",)', 'views = "clean"', ': MeanColor has to say which views it reads: views = ("clean",)'),
        ('views = ("clean",)', "seen = ()", ": MeanColor has to say which views it reads"),
        (
            "channels: Sequence[int], bands: int, hidden: int) -> None:",
            "hidden: int) -> None:\n        channels, bands = [512], 3",
            ": MeanColor.__init__ does not take channels. Every task is given channels, those of each level",
        ),
        ("return TaskOutput(", "return (", ": it returns a tuple, expected an ssl_rs TaskOutput"),
        ("F.mse_loss(guessed,", "F.l1_loss(guessed,", None),
        (
            "image.mean(dim=(-2, -1)))",
            'image.mean(dim=(-2, -1)), reduction="none")',
            ": its loss is [4, 3], expected a",
        ),
        ("loss.detach().sqrt()", "0.5", ": its metric 'error' is 0.5, expected a detached tensor"),
    ],
)
def test_a_task_that_breaks_the_contract_is_told_which_and_how(documented, command, folder_dataset, old, new, said):
    path = Path("my_package/mean_color.py")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    _, *arguments = documented[0]
    code, _, err = command("pretrain", *arguments, "dataset=folder", f"dataset.root='{folder_dataset}'", *SHORT)
    if said is None:
        assert code == 0, err
        return
    assert code == 2
    assert f"pretext.mean_color.task{said}" in err


def test_a_task_whose_file_changed_trains_another_run(documented, command, folder_dataset):
    def run():
        _, *arguments = documented[0]
        code, out, err = command("pretrain", *arguments, "dataset=folder", f"dataset.root='{folder_dataset}'", *SHORT)
        assert code == 0, err
        return out.splitlines()[-1]

    first = run()
    assert run() == first
    path = Path("my_package/mean_color.py")
    path.write_text(path.read_text().replace("F.mse_loss(", "10 * F.mse_loss("))
    for name in [each for each in sys.modules if each.partition(".")[0] == "my_package"]:
        del sys.modules[name]
    assert run() != first


ARRAYS = "my_package/arrays.py"


def test_what_shows_while_strips_are_read_is_about_the_scene_too(prepare_arrays):
    text = Path(ARRAYS).read_text()
    line = "        return SceneArrays(image, mask.astype(np.uint8))"
    assert line in text
    strips = """        def strips():
            if scene.id == "scene1":
                raise ValueError("broken strip")
            yield SceneArrays(image, mask.astype(np.uint8))

        return Scene(*image.shape[1:], None, None, strips())"""
    text = text.replace(line, strips).replace("import Dataset,", "import Dataset, Scene,")
    Path(ARRAYS).write_text(text)
    code, _, err = prepare_arrays()
    assert code == 2
    assert "scene1_mask.npy cannot be read: ValueError: broken strip" in err
    code, _, err = prepare_arrays("dataset.on_bad_scene=skip")
    assert code == 0, err
    assert "broken strip" in err


def test_a_disk_that_fails_is_no_bad_scene(prepare_arrays):
    text = Path(ARRAYS).read_text()
    broken = text.replace(
        "        image, mask = (np", "        raise OSError(5, 'Input/output error')\n        image, mask = (np"
    )
    assert broken != text
    Path(ARRAYS).write_text(broken)
    code, _, err = prepare_arrays("dataset.on_bad_scene=skip")
    assert code == 2
    assert "Input/output error" in err
    assert not list(Path("outputs").rglob("manifest.json"))


@pytest.fixture
def prepare_arrays(documented, command):
    def run(*overrides):
        for name in [each for each in sys.modules if each.partition(".")[0] == "my_package"]:
            del sys.modules[name]
        own = ("--config-dir", "my_conf", "trusted_packages=[my_package]", "dataset=arrays", "dataset.root=my_arrays")
        return command("prepare", *own, "num_workers=0", *overrides)

    write_arrays(Path("my_arrays"))
    return run


def test_a_data_set_whose_file_changed_makes_another_store(prepare_arrays):
    code, out, err = prepare_arrays()
    assert code == 0, err
    first = out.splitlines()[-1]
    assert prepare_arrays()[1].splitlines()[-1] == first
    path = Path(ARRAYS)
    path.write_text(path.read_text() + "\n# another\n")
    code, out, err = prepare_arrays()
    assert code == 0, err
    assert out.splitlines()[-1] != first


def test_masks_of_other_whole_numbers_and_images_of_other_byte_orders_are_stored_as_they_are_meant(prepare_arrays):
    assert prepare_arrays()[0] == 0
    first = sorted(path.read_bytes() for path in Path("outputs/stores").rglob("*.npy"))
    for path in Path("my_arrays").rglob("*.npy"):
        array = np.load(path)
        np.save(path, array.astype(">i8") if path.stem.endswith("_mask") else array.astype(">u2"))
    text = Path(ARRAYS).read_text()
    assert ".astype(np.uint8)" in text
    Path(ARRAYS).write_text(text.replace(".astype(np.uint8)", ""))
    code, _, err = prepare_arrays("store_dir=outputs/others")
    assert code == 0, err
    assert sorted(path.read_bytes() for path in Path("outputs/others").rglob("*.npy")) == first


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("float", "the mask is of float64, expected class indices as whole numbers"),
        ("large", "the mask holds numbers from 0 to 300, expected class indices"),
        ("cut", "scene1.npy"),
        ("empty", "scene1.npy"),
        ("split", "has the split 'validation', expected one of train, val, test, unlabeled"),
    ],
)
def test_mistakes_of_a_data_set_of_ones_own_are_told_and_leave_no_store(prepare_arrays, kind, said):
    folder = Path("my_arrays/train")
    text = Path(ARRAYS).read_text()
    if kind in ("float", "large"):
        Path(ARRAYS).write_text(text.replace(".astype(np.uint8)", ""))
        mask = np.load(folder / "scene1_mask.npy")
        np.save(folder / "scene1_mask.npy", mask.astype(float) if kind == "float" else mask * 300)
    elif kind in ("cut", "empty"):
        content = (folder / "scene1.npy").read_bytes()
        (folder / "scene1.npy").write_bytes(content[: len(content) // 2] if kind == "cut" else b"")
    else:
        folder.joinpath("scene1.npy").parent.parent.joinpath("validation").mkdir()
        for name in ("scene1.npy", "scene1_mask.npy"):
            (folder / name).rename(Path("my_arrays/validation") / name)
    code, _, err = prepare_arrays()
    assert code == 2, err
    assert said in err
    assert "damaged" not in err
    assert not list(Path("outputs").rglob("manifest.json"))
    if kind in ("cut", "empty"):
        code, _, err = prepare_arrays("dataset.on_bad_scene=skip")
        assert code == 0, err


def test_a_backbone_of_ones_own_class_is_refused_before_it_trains_what_nothing_could_use(documented, command, tmp_path):
    Path("my_package/tiny.py").write_text(
        "from ssl_rs.encoder import Backbone\n\n\nclass Tiny(Backbone):\n    pass\n", encoding="utf-8"
    )
    Path("my_conf/backbone").mkdir()
    Path("my_conf/backbone/tiny.yaml").write_text("# Mine.\n_target_: my_package.tiny.Tiny\nname: resnet18\n")
    own = ("--config-dir", "my_conf", "trusted_packages=[my_package]", "backbone=tiny")
    code, _, err = command("pretrain", *own, "dataset=folder", f"dataset.root={tmp_path}")
    assert code == 2
    assert "backbone._target_=my_package.tiny.Tiny: encoders are those of segmentation-models-pytorch and timm" in err


READ = "return SceneArrays(image, mask.astype(np.uint8))"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (READ, "return image", ".read of scene 'scene0' gives a ndarray, expected ssl_rs.data.dataset.SceneArrays"),
        (READ, "return image, mask", ".read of scene 'scene0' gives a tuple, expected"),
        (READ, "return SceneArrays(image.tolist(), mask)", "gives image as a list, expected a numpy array"),
        (READ, "return SceneArrays(image, mask.tolist())", "gives mask as a list, expected a numpy array"),
        (
            READ,
            "return SceneArrays(image, mask, crs=32632)",
            'gives crs=32632, expected a text that PROJ knows, e.g. "',
        ),
        (READ, "return SceneArrays(image, mask, crs='EPSG:nope')", "gives crs='EPSG:nope', expected a text"),
        (READ, "return SceneArrays(image, mask, transform=(1.0, 2.0))", "gives transform=(1.0, 2.0), expected six"),
        (
            READ,
            "return SceneArrays(image, mask, valid=mask[1:] > 0)",
            "gives valid as bool [79, 96], expected bool [80",
        ),
        (READ, "return SceneArrays(image, mask, valid=mask)", "gives valid as int64 [80, 96], expected bool [80, 96]"),
        (READ, "return SceneArrays(image[0], mask)", "expected an image of bands, rows and columns, got the shape [80"),
        (
            "(SourceFile(image), SourceFile(mask))",
            "(image, mask)",
            ".scenes: the files of scene 'scene3' are (PosixPath",
        ),
        ("found.append(SceneSource(", "found.append((", ".scenes gives ('scene3', 'test', "),
        ("return found", "return iter(found)", ".scenes gives a list_iterator, expected a list of SceneSource"),
        ('SegmentationClass("land", (0, 160, 0))', '"land"', ".classes holds 'land', expected"),
    ],
)
def test_what_a_data_set_of_ones_own_gives_is_told_by_class_and_scene(prepare_arrays, old, new, said):
    text = Path(ARRAYS).read_text()
    assert old in text
    Path(ARRAYS).write_text(text.replace(old, new))
    code, _, err = prepare_arrays()
    assert code == 2, err
    assert "Arrays" in err
    assert said in err
    assert "damaged" not in err
    assert not list(Path("outputs").rglob("manifest.json"))


def test_a_strip_of_another_width_than_its_scene_is_told(prepare_arrays):
    text = Path(ARRAYS).read_text()
    scene = "return Scene(80, 97, None, None, iter([SceneArrays(image, mask)]))"
    Path(ARRAYS).write_text(text.replace(READ, scene).replace("import Dataset,", "import Dataset, Scene,"))
    code, _, err = prepare_arrays()
    assert code == 2, err
    assert "Arrays.read of scene 'scene3': a strip has 96 columns, expected the width of its scene, 97" in err
