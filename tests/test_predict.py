"""The predict command: maps of new images by a fine-tuned run, against its own evaluation and against the images."""

import errno
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio.control
import rasterio.rpc
import torch
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from safetensors.torch import load_file

from ssl_rs.command import main
from ssl_rs.data import map_writer
from ssl_rs.data.dataset import SceneSource
from ssl_rs.data.folder import Folder
from ssl_rs.data.map_writer import Grid, MapWriter, enlarged
from ssl_rs.data.new_scenes import NewScenes
from ssl_rs.data.scene_writer import write_scene
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import array_file
from ssl_rs.errors import InputError
from ssl_rs.files import sha256_of
from ssl_rs.run_directory import RunDirectory, read_metadata, save_tensors
from ssl_rs.stages import mapping, prepared_store
from ssl_rs.weights_metadata import read_weights_metadata

QUICK = (
    "dataset.crop_size=32",
    "evaluation.window.size=32",
    "trainer.batch_size=4",
    "trainer.max_steps=4",
    "logger=none",
)
PLACE = rasterio.Affine(0.5, 0, 389000, 0, -0.5, 5819000)
"""Pixels of half a meter somewhere in Berlin, in EPSG:32633."""


def write_tiff(path, values, **profile):
    """Write [C, H, W] as a GeoTIFF that lies in PLACE."""
    path.parent.mkdir(exist_ok=True)
    count, height, width = values.shape
    profile = {"crs": "EPSG:32633", "transform": PLACE, **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **profile
    ) as file:
        file.write(values)
    return path


def read_map(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read(), file.profile


def tune(root, folder, *overrides):
    """Fine-tune on the tiny data set for four steps."""
    threads = torch.get_num_threads()
    given = ("dataset=folder", f"dataset.root='{root}'", *QUICK, *overrides)
    assert main("finetune", [*given, f"output_dir={folder}", f"run_dir={folder / 'run'}"]) == 0
    torch.set_num_threads(threads)
    return RunDirectory(folder / "run")


@pytest.fixture(scope="module")
def tuned(folder_dataset, tmp_path_factory):
    """The run that most tests map by."""
    return tune(folder_dataset, tmp_path_factory.mktemp("tuned"))


@pytest.fixture
def image(folder_dataset):
    """The only test scene: uint8 [3, 96, 96], its mask, and its path."""
    path = folder_dataset / "images/test/scene5.png"
    mask = np.array(Image.open(folder_dataset / "masks/test/scene5.png"))
    return np.array(Image.open(path)).transpose(2, 0, 1), mask, path


@pytest.fixture
def mapped(command, tuned, tmp_path, monkeypatch):
    """Map images: the path that is printed, and what was said."""
    monkeypatch.chdir(tmp_path)

    def predict(images, *overrides):
        code, out, err = command("predict", f"run={tuned.path}", f"images={images}", *overrides)
        assert code == 0, err
        return Path(out.strip().splitlines()[-1]), err

    return predict


@pytest.fixture
def refused(command, tuned, tmp_path, monkeypatch):
    """Map images, which must fail: the one message."""
    monkeypatch.chdir(tmp_path)

    def predict(images, *overrides):
        code, _, err = command("predict", f"run={tuned.path}", f"images={images}", *overrides)
        assert code == 2
        return err

    return predict


def test_the_map_of_a_test_scene_has_the_confusion_of_the_runs_own_evaluation(mapped, tuned, image):
    _, mask, path = image
    classes, profile = read_map(mapped(path)[0])
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (mask, classes[0]), 1)
    assert counts.tolist() == tuned.read_result()["confusion"]
    assert profile["crs"] is None
    assert (profile["dtype"], profile["nodata"]) == ("uint8", 255)


def test_the_map_lies_where_its_image_lies_and_tells_what_is_in_it(mapped, image, tmp_path):
    values, _, _ = image
    scene = write_tiff(tmp_path / "a scene.tif", values[:, :70, :50])
    made, _ = mapped(scene, "probabilities=true")
    assert made.name == "a scene.tif"
    (classes,), profile = read_map(made)
    assert (profile["height"], profile["width"]) == (70, 50)
    assert (profile["crs"].to_string(), profile["transform"]) == ("EPSG:32633", PLACE)
    likely, profile = read_map(made.with_suffix(".probabilities.tif"))
    assert (profile["transform"], likely.shape, likely.dtype) == (PLACE, (3, 70, 50), np.float32)
    np.testing.assert_allclose(likely.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(likely.argmax(axis=0), classes)

    about = json.loads(made.with_suffix(".json").read_text())
    assert [each["name"] for each in about["classes"]] == ["a", "b", "c"]
    assert [each["value"] for each in about["classes"]] == [0, 1, 2]
    assert [each["pixels"] for each in about["classes"]] == [int((classes == index).sum()) for index in range(3)]
    assert sum(each["square_meters"] for each in about["classes"]) == pytest.approx(70 * 50 / 4)
    assert about["pixels_without_data"] == 0
    with rasterio.open(made) as file:
        assert file.tags()["model_sha256"] == about["model_sha256"]
        colors = {index: file.colormap(1)[index][:3] for index in range(3)}
    assert colors == {index: tuple(each["color"]) for index, each in enumerate(about["classes"])}
    picture = np.array(Image.open(made.with_suffix(".png")).convert("RGB"))
    assert np.array_equal(picture, np.array(list(colors.values()), np.uint8)[classes])
    assert sorted(path.name for path in made.parent.iterdir() if path.name != ".lock") == [
        "a scene.json", "a scene.overview.png", "a scene.png", "a scene.probabilities.tif", "a scene.tif",
        "predict.json",
    ]  # fmt: skip


def test_what_has_no_data_has_no_class(mapped, image, tmp_path):
    values = image[0].copy()
    values[:, 10:20, 30:] = 0
    made, _ = mapped(write_tiff(tmp_path / "scene.tif", values, nodata=0), "probabilities=true")
    (classes,), _ = read_map(made)
    empty = np.zeros((96, 96), bool)
    empty[10:20, 30:] = True
    assert np.array_equal(classes == 255, empty)
    likely, _ = read_map(made.with_suffix(".probabilities.tif"))
    assert np.array_equal(np.isnan(likely).all(axis=0), empty)
    about = json.loads(made.with_suffix(".json").read_text())
    assert about["pixels_without_data"] == empty.sum()
    assert sum(each["share"] for each in about["classes"]) == pytest.approx(1)
    assert np.array_equal(np.array(Image.open(made.with_suffix(".png")).convert("RGBA"))[..., 3] == 0, empty)


def test_an_image_without_data_has_a_map_without_classes(mapped, image, tmp_path):
    """A tile at the rim of a mosaic: the others of a folder are mapped, and it is no hole among them."""
    made, _ = mapped(write_tiff(tmp_path / "empty.tif", np.zeros_like(image[0]), nodata=0), "probabilities=true")
    assert (read_map(made)[0] == 255).all()
    assert np.isnan(read_map(made.with_suffix(".probabilities.tif"))[0]).all()
    about = json.loads(made.with_suffix(".json").read_text())
    assert about["pixels_without_data"] == 96 * 96
    assert {(each["pixels"], each["share"]) for each in about["classes"]} == {(0, 0.0)}
    assert made.with_suffix(".overview.png").is_file()


def test_a_sheet_that_is_missing_is_made(mapped, image, tmp_path):
    """Maps of earlier versions have none."""
    made, _ = mapped(write_tiff(tmp_path / "scene.tif", image[0]))
    sheet = made.with_suffix(".overview.png")
    drawn = sheet.read_bytes()
    sheet.unlink()
    mapped(tmp_path / "scene.tif")
    assert sheet.read_bytes() == drawn


def test_bands_are_chosen_by_number(mapped, image, tmp_path):
    values = image[0]
    plain, _ = mapped(write_tiff(tmp_path / "plain.tif", values))
    more = np.stack([values[2], values[0] // 2, values[1], values[0]])
    chosen, _ = mapped(write_tiff(tmp_path / "more.tif", more), "bands=[4,3,1]")
    assert np.array_equal(read_map(chosen)[0], read_map(plain)[0])
    assert chosen.parent != plain.parent


def test_values_of_another_type_are_divided_by_what_is_said(mapped, refused, image, tmp_path):
    values = image[0]
    plain, _ = mapped(write_tiff(tmp_path / "plain.tif", values))
    scene = write_tiff(tmp_path / "wide.tif", values.astype(np.uint16) * 40)
    assert (
        f"{scene} has values of type uint16, the run was trained on uint8, divided by 255. Convert the image, or give "
        "the value that is as bright in it as 255 in the images of the training: value_scale=..."
    ) in refused(scene)
    wide, _ = mapped(scene, "value_scale=10200")
    assert np.array_equal(read_map(wide)[0], read_map(plain)[0])


def test_an_image_brighter_than_the_run_knows_is_told(command, tuned, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = write_tiff(tmp_path / "wide.tif", image[0].astype(np.uint16) * 40)
    given = (f"run={tuned.path}", f"images={scene}")
    with pytest.warns(
        UserWarning, match="of its values lie above value_scale=255, by which the run divides, and count"
    ):
        code, out, _ = command("predict", *given, "value_scale=255")
    assert code == 0
    about = json.loads(Path(out.strip().splitlines()[-1]).with_suffix(".json").read_text())
    assert about["share_clipped"] > 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        code, out, _ = command("predict", *given, "value_scale=10200")
    assert json.loads(Path(out.strip().splitlines()[-1]).with_suffix(".json").read_text())["share_clipped"] == 0


def test_an_image_far_darker_than_those_of_the_training_is_told(command, tuned, image, tmp_path, monkeypatch):
    """As where its values are of another unit."""
    monkeypatch.chdir(tmp_path)
    scene = write_tiff(tmp_path / "wide.tif", image[0].astype(np.uint16) * 40)
    given = (f"run={tuned.path}", f"images={scene}")
    with pytest.warns(UserWarning, match=r"nearly all of its values lie below 9\.4e\+03, the mean of the training is"):
        assert command("predict", *given, "value_scale=1000000")[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert command("predict", *given, "value_scale=20400")[0] == 0  # half as bright


def test_the_mean_that_darkness_is_told_by_is_that_of_the_training_and_not_of_imagenet(
    command, tuned, image, tmp_path, monkeypatch
):
    """A run from ImageNet's weights normalizes by the statistics of ImageNet, whatever its images are like."""
    monkeypatch.chdir(tmp_path)
    known = read_weights_metadata(tuned.model)
    assert known.data_mean == pytest.approx(sum(known.statistics.mean) / 3)
    run = RunDirectory(Path(shutil.copytree(tuned.path, tmp_path / "run")))
    metadata = {**read_metadata(run.model), "data_mean": "0.01"}  # with the mean of brighter images beside it
    scene = write_tiff(tmp_path / "night.tif", (image[0] // 20).astype(np.uint8))
    for told in (False, True):
        save_tensors(run.model, load_file(run.model), metadata)
        run.result.write_text(json.dumps({**run.read_result(), "model_sha256": sha256_of(run.model)}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert command("predict", f"run={run.path}", f"images={scene}")[0] == 0
        assert any("nearly black to the network" in str(each.message) for each in caught) == told
        metadata["data_mean"] = "0.9"


def test_of_many_images_of_one_mistake_some_are_told(refused, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(13):
        write_tiff(tmp_path / "many" / f"{number:02}.tif", np.full((2, 9, 9), number, np.uint8))
    said = refused(tmp_path / "many")
    assert said.count("has 2 bands, the run was trained on 3") == 10
    assert "... and so on, 3 more\n13 of 13 images were not mapped." in said


def test_a_file_of_a_run_is_not_taken_for_the_run(command, tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tuned.path / "model.safetensors"
    for name, key, more in (
        ("predict", "run", ["images=a.tif"]),
        ("export", "run", []),
        ("evaluate", "run", []),
        ("finetune", "initialization.run", ["initialization=finetuned"]),
        ("finetune", "initialization.run", ["initialization=pretrained"]),
    ):
        code, _, err = command(name, f"{key}={model}", *more)
        assert code == 2
        assert f"{key}={model} is a file, no folder of a run. Name its folder: {key}={tuned.path}" in err, (name, err)


def test_a_run_at_a_coarser_resolution_maps_at_the_images_own(command, folder_dataset, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tune(folder_dataset, tmp_path, "dataset.downsample=2")
    scene = write_tiff(tmp_path / "odd.tif", image[0][:, :95, :93])
    code, out, err = command("predict", f"run={run.path}", f"images={scene}")
    assert code == 0, err
    (classes,), profile = read_map(out.strip().splitlines()[-1])
    assert (profile["height"], profile["width"], profile["transform"]) == (95, 93, PLACE)
    small = np.floor(image[0][:, :94, :92].reshape(3, 47, 2, 46, 2).mean(axis=(2, 4)) + 0.5).astype(np.uint8)
    coarse = write_tiff(tmp_path / "coarse.tif", small)
    code, out, err = command("predict", f"run={run.path}", f"images={coarse}", "downsample=1")
    assert code == 0, err
    (expected,), _ = read_map(out.strip().splitlines()[-1])
    assert np.array_equal(classes[:94:2, :92:2], expected)
    assert np.array_equal(classes[1::2, :92:2], classes[:94:2, :92:2])
    assert np.array_equal(classes[94], classes[93])
    assert np.array_equal(classes[:, 92], classes[:, 91])


def test_a_folder_of_images_is_mapped_once(mapped, folder_dataset, tmp_path):
    folder, said = mapped(folder_dataset / "images")
    names = [f"train/scene{index}" for index in range(4)] + ["val/scene4", "test/scene5"]
    maps = [folder / f"{name}.tif" for name in names]
    assert sorted(folder.rglob("*.tif")) == sorted(maps)
    assert "mapped 6/6 scenes" in said
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name not in (".lock", "predict.json")
    }
    again, _ = mapped(folder_dataset / "images")
    assert again == folder
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("fault", ["another image", "no picture", "damaged", "half-written"])
def test_a_map_that_is_not_whole_or_of_another_image_is_made_again(mapped, image, tmp_path, fault):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene)
    expected, about = read_map(made)[0], made.with_suffix(".json")
    if fault == "another image":
        write_tiff(scene, image[0][:, ::-1])
    elif fault == "no picture":
        made.with_suffix(".png").unlink()
    elif fault == "damaged":
        about.write_text('["image_sha256"]')
    else:
        made.unlink()
        about.unlink()
        (made.parent / ".scene.tif.77.partial").write_bytes(b"II")
        (made.parent / ".image.partial").mkdir()
    mapped(scene)
    assert np.array_equal(read_map(made)[0], expected) == (fault != "another image")
    assert made.with_suffix(".png").is_file()
    assert json.loads(about.read_text())["image"] == str(scene)
    assert not list(made.parent.glob(".*partial"))


def test_what_cannot_be_mapped_is_refused(refused, image, tmp_path):
    values, _, path = image
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    four = write_tiff(tmp_path / "four.tif", np.concatenate([values, values[:1]]))
    cases = {
        tmp_path / "none.tif": "none.tif does not exist. Name an image",
        tmp_path / "empty": "empty holds no .jpg",
        tmp_path / "text.txt": "text.txt is no folder and no image (.jpg",
        tmp_path / "broken.tif": "broken.tif cannot be read as an image",
        four: "has 4 bands, the run was trained on 3 (red, green, blue). Say which they are, e.g. bands=",
        "[]": "images is not set",
    }  # fmt: skip
    for images, said in cases.items():
        assert said in refused(images), images
    assert "asks for more" in refused(four, "bands=[1,2,5]")
    assert "expected 3 numbers from 1 on, one for each of red, green, blue" in refused(four, "bands=[1,2]")
    assert "expected 3 numbers from 1 on" in refused(four, "bands=[0,1,2]")
    assert "value_scale must be a number above 0" in refused(path, "value_scale=0")
    assert "evaluation.window: size and batch_size must be at least 1" in refused(path, "evaluation.window.size=0")
    assert "seeds: predict has no such key. Did you mean 'seed'?" in refused(path, "seeds=3")
    assert "downsample must be 1 to 64 pixels, or null for that of the run; got 0" in refused(path, "downsample=0")
    assert "trainer.precision must be one of auto, bf16, fp32" in refused(path, "trainer.precision=fp8")
    other = tmp_path / "other"
    other.mkdir()
    os.link(path, other / "scene5.png")
    assert "would both become scene5.tif" in refused(f"[{json.dumps(str(path))},{json.dumps(str(other))}]")


def test_a_long_image_is_told_in_parts_and_one_that_failed_not_at_all(mapped, refused, image, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_store, "SILENCE", 0.0)
    _, said = mapped(image[2])
    told = [int(share) for share in re.findall(r"mapped (\d+) % of scene5\n", said)]
    assert told
    assert told == sorted(told)
    assert "mapped 1/1 scenes (scene5)" in said
    one_band = write_tiff(tmp_path / "one.tif", image[0][:1])
    assert "mapped" not in refused(one_band).replace("were not mapped", "")


def test_masks_beside_images_are_not_mapped(mapped, folder_dataset):
    folder, _ = mapped(folder_dataset)
    assert len(list(folder.rglob("*.tif"))) == 6


def test_an_alpha_band_leaves_out_what_it_hides(mapped, refused, image, tmp_path):
    values, _, path = image
    plain = read_map(mapped(path)[0])[0]
    opaque = np.ones((1, *values.shape[1:]), np.uint8)
    opaque[0, :, :40] = 0
    hidden = write_tiff(tmp_path / "hidden.tif", np.concatenate([values[[2, 1, 0]], opaque, values[:1]]))
    found, _ = read_map(mapped(hidden, "bands=[3,2,1]", "alpha=4")[0])
    assert np.array_equal(found[0, :, :40], np.full((values.shape[1], 40), 255))
    far = found[0, :, 40 + 32 :]  # windows that the hidden pixels do not reach
    assert (far == plain[0, :, 40 + 32 :]).mean() > 0.9
    assert "alpha=6 asks for more" in refused(hidden, "bands=[3,2,1]", "alpha=6")
    assert "of a band that is none of `bands`" in refused(hidden, "bands=[3,2,1]", "alpha=1")
    assert "of a band that is none of `bands`" in refused(hidden, "alpha=0")
    last = write_tiff(tmp_path / "last.tif", np.concatenate([values, opaque]))
    with_alpha, _ = read_map(mapped(last, "alpha=4")[0])
    assert np.array_equal(with_alpha, found)


def test_alpha_is_not_taken_for_a_band_of_the_run(command, folder_dataset, image, tmp_path, monkeypatch):
    """What drones write: red, green, blue and alpha, for a run that was trained on near infrared."""
    monkeypatch.chdir(tmp_path)
    values, _, _ = image
    root = Path(shutil.copytree(folder_dataset, tmp_path / "data"))
    for path in sorted(root.rglob("images/**/*.png")):
        with Image.open(path) as picture:
            pixels = np.array(picture).transpose(2, 0, 1)
        write_tiff(path.with_suffix(".tif"), np.concatenate([pixels, pixels[:1]]), photometric="MINISBLACK")
        path.unlink()
    run = tune(root, tmp_path / "tuned", "dataset.bands=[red,green,blue,nir]")
    opaque = np.full((1, *values.shape[1:]), 255, np.uint8)
    drone = write_tiff(tmp_path / "drone.tif", np.concatenate([values, opaque]), photometric="RGB", alpha="YES")
    given = ("predict", f"run={run.path}", f"images={drone}")
    code, _, err = command(*given)
    assert code == 2
    assert (
        "drone.tif calls the last of its 4 bands alpha, and that band holds nothing but 0 and the largest value" in err
    )
    assert "would take it for nir. If it is data, say so: bands=[1,2,3,4]." in err
    assert command(*given, "bands=[1,2,3,4]")[0] == 0
    rim, empty = np.concatenate([values, values[:1]]), np.zeros((4, 40, 40), np.uint8)
    rim[:, 10:] = 0  # where tiles of a mosaic hold no data, all bands are 0
    for name, pixels in {"real": np.concatenate([values, values[:1]]), "rim": rim, "empty": empty}.items():
        tile = write_tiff(tmp_path / f"{name}.tif", pixels, photometric="RGB", alpha="YES", nodata=0)
        code, _, err = command("predict", f"run={run.path}", f"images={tile}")
        assert code == 0, err


def test_a_run_that_knew_alpha_knows_it_in_new_images(command, folder_dataset, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values, _, path = image
    run = tune(folder_dataset, tmp_path / "tuned", "dataset.bands=[red,green,blue,alpha]")
    opaque = np.ones((1, *values.shape[1:]), np.uint8)
    opaque[0, 10:20] = 0
    last = write_tiff(tmp_path / "last.tif", np.concatenate([values, opaque]))
    for images, chosen, missing in ((last, [], range(10, 20)), (path, [], []), (last, ["bands=[1,2,3]"], [])):
        code, out, err = command("predict", f"run={run.path}", f"images={images}", *chosen)
        assert code == 0, err
        found, _ = read_map(out.strip().splitlines()[-1])
        assert np.flatnonzero((found[0] == 255).all(axis=1)).tolist() == list(missing)


def test_runs_that_do_not_tell_their_classes_are_refused(command, tuned, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(Path(shutil.copytree(tuned.path, tmp_path / "run")))
    result = run.read_result()
    for classes in (None, [], [{"name": "a"}] * 3, [{**each, "color": [0, 0, 300]} for each in result["classes"]]):
        run.result.write_text(json.dumps({**result, "classes": classes}))
        code, _, err = command("predict", f"run={run.path}", f"images={image[2]}")
        assert code == 2
        assert f"{run.result} does not tell name and color of each of the classes ['a', 'b', 'c']" in err


def test_one_image_that_cannot_be_read_does_not_keep_the_others_from_their_maps(refused, image, tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    (folder / "a.tif").write_bytes(b"II*")
    write_tiff(folder / "b.tif", image[0])
    write_tiff(folder / "c.tif", image[0][:2])
    said = refused(folder, f"run_dir={tmp_path / 'maps'}")
    assert f"{folder / 'a.tif'} cannot be read as an image" in said
    assert f"{folder / 'c.tif'} has 2 bands" in said
    assert said.rstrip().endswith("2 of 3 images were not mapped.")
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.json")) == ["b.json", "predict.json"]


def test_one_of_several_that_was_not_mapped_is_counted_and_the_only_one_is_not(refused, image, tmp_path):
    write_tiff(tmp_path / "a.tif", image[0][:2])
    write_tiff(tmp_path / "b.tif", image[0])
    assert refused(f"[{tmp_path / 'a.tif'},{tmp_path / 'b.tif'}]").rstrip().endswith("1 of 2 images were not mapped.")
    assert "images were not mapped" not in refused(tmp_path / "a.tif")


def test_what_lies_among_images_and_cannot_be_used_does_not_keep_them_from_their_maps(
    refused, image, tmp_path, monkeypatch
):
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("b.tif", "shut.tif", f"{'n' * 235}.tif"):
        write_tiff(folder / name, image[0][:, :40, :40])
    (folder / "labels.zip").write_bytes(b"PK")
    (folder / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    readable = SourceFile.sha256

    def shut(self):
        if self.name == "shut.tif":
            raise PermissionError(errno.EACCES, "Permission denied", str(self.path))
        return readable(self)

    monkeypatch.setattr(SourceFile, "sha256", shut)
    said = refused(folder, f"run_dir={tmp_path / 'maps'}")
    assert f"{folder / 'labels.zip'} cannot be read as a zip archive" in said
    assert f"{folder / 'gone.tif'} links to {tmp_path / 'nowhere.tif'}, which is not there" in said
    assert f"{folder / 'shut.tif'} cannot be read: Permission denied. Make it readable, or take it out." in said
    assert f"has too long a name: {'n' * 235}.json could not be written. Rename it." in said
    assert "gone.txt" not in said
    assert said.rstrip().endswith("2 of 3 images were not mapped.")
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.json")) == ["b.json", "predict.json"]


def test_pixels_of_another_size_than_those_of_the_training_are_told(command, folder_dataset, tmp_path, recwarn):
    root = tmp_path / "located"
    shutil.copytree(folder_dataset, root)
    for path in [*root.glob("images/*/*.png")]:
        write_tiff(path.with_suffix(".tif"), np.array(Image.open(path)).transpose(2, 0, 1))
        path.unlink()
    run = tune(root, tmp_path / "tuned")
    image = np.full((3, 40, 40), 100, np.uint8)
    a, b, c, d, e, f = PLACE[:6]
    for name, factor, told in (("alike", 1.2, False), ("coarse", 2, True), ("fine", 0.5, True)):
        place = rasterio.Affine(a * factor, b, c, d, e * factor, f)
        path = write_tiff(tmp_path / f"{name}.tif", image, transform=place)
        code, _, err = command("predict", f"run={run.path}", f"images={path}", f"run_dir={tmp_path / name}")
        assert code == 0, err
        expected = f"{path}: pixels are of {0.5 * factor:g} m on the ground, those of the training were of 0.5 m"
        assert any(str(each.message).startswith(expected) for each in recwarn) == told


def test_a_link_to_nothing_that_fits_a_pattern_keeps_the_others_from_nothing(refused, image, tmp_path):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    gone = tmp_path / "scene_gone.tif"
    gone.symlink_to(tmp_path / "nowhere.tif")
    said = refused(tmp_path / "scene*.tif", f"run_dir={tmp_path / 'maps'}")
    assert f"{gone} links to {tmp_path / 'nowhere.tif'}, which is not there" in said
    assert (tmp_path / f"maps/{scene.stem}.json").is_file()


def test_a_pattern_that_links_to_nothing_alone_fit_is_refused(refused, tmp_path):
    (tmp_path / "scene_gone.tif").symlink_to(tmp_path / "nowhere.tif")
    said = refused(tmp_path / "scene*.tif", f"run_dir={tmp_path / 'maps'}")
    assert f"links to {tmp_path / 'nowhere.tif'}, which is not there" in said
    assert f"images={tmp_path / 'scene*.tif'}: no image is left. Repair those, or name others." in said
    assert not (tmp_path / "maps").exists()


def test_a_file_of_the_users_that_is_called_like_a_map_is_none(mapped, image):
    path = write_tiff(Path("a.overview.tif"), image[0])
    made, _ = mapped(path, "run_dir=maps")
    (made.parent / "a.json").write_text('{"mine": 1}')
    mapped(path, "run_dir=maps", "value_scale=300")


@pytest.mark.parametrize(("first", "second"), [("a.tif", "a.overview.tif"), ("a.overview.tif", "a.tif")])
def test_a_map_is_not_written_over_what_belongs_to_a_map_of_another_name(
    refused, mapped, image, tmp_path, first, second
):
    made, _ = mapped(write_tiff(tmp_path / first, image[0]), "run_dir=maps")
    before = {path: path.read_bytes() for path in made.parent.glob("a.*")}  # .lock tells the time
    said = refused(write_tiff(tmp_path / second, image[0]), "run_dir=maps")
    assert f"{made.parent / 'a.overview.png'}, which belongs to the map {made}. Rename the image" in said
    assert {path: path.read_bytes() for path in made.parent.glob("a.*")} == before


def test_the_map_of_another_image_of_the_same_name_is_kept(command, tuned, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, scale in (("one", 1), ("other", 2)):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "scene.tif", image[0] // scale)
    given = (f"run={tuned.path}", "run_dir=maps")
    assert command("predict", *given, "images=one/scene.tif")[0] == 0
    first = (tmp_path / "maps/scene.tif").read_bytes()
    code, _, err = command("predict", *given, "images=other/scene.tif")
    assert code == 2
    places = [tmp_path / folder / "scene.tif" for folder in ("one", "other")]
    assert f"maps/scene.tif is the map of {places[0]}, another image of this name than {places[1]}" in err
    monkeypatch.chdir(tmp_path / "other")  # where it has the name that the first one would have in its own folder
    assert command("predict", f"run={tuned.path}", "run_dir=../maps", "images=scene.tif")[0] == 2
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "maps/scene.tif").read_bytes() == first
    shutil.copy(tmp_path / "other/scene.tif", tmp_path / "one/scene.tif")  # the same image, which has changed
    assert command("predict", *given, "images=one/scene.tif")[0] == 0
    assert (tmp_path / "maps/scene.tif").read_bytes() != first


def test_a_name_that_is_no_utf_8_keeps_no_other_image_from_its_map(refused, tmp_path):
    (tmp_path / "scenes").mkdir()
    path = tmp_path / "scenes" / os.fsdecode(b"sc\xe9ne.png")
    Image.new("RGB", (40, 40)).save(path.with_name("a.png"))
    path.with_name("a.png").rename(path)
    assert "is no UTF-8, which GDAL needs. Rename it." in refused(tmp_path / "scenes")
    Image.new("RGB", (40, 40)).save(path.with_name("b.png"))
    said = refused(tmp_path / "scenes", "run_dir=maps")
    assert "is no UTF-8, which GDAL needs. Rename it." in said
    assert [path.name for path in Path("maps").glob("*.tif")] == ["b.tif"]


def test_a_pattern_names_the_images_that_fit_it(mapped, refused, image, tmp_path):
    for name in ("scenes/a1.tif", "scenes/a2.tif", "scenes/b.tif", "more [1]/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tiff(tmp_path / name, image[0][:, :40, :40])
    (tmp_path / "scenes/a3.txt").write_text("no image")
    mapped("scenes/a*")
    assert sorted(path.name for path in (tmp_path / "outputs").rglob("*.tif")) == ["a1.tif", "a2.tif"]
    mapped("scenes/**")  # the folder, and what lies in it
    mapped("[scenes/b.tif,scenes/b.tif]")
    assert len(list((tmp_path / "outputs").rglob("b.tif"))) == 1
    mapped("more [1]/c.tif")  # a folder of that name, and no pattern
    assert len(list((tmp_path / "outputs").rglob("c.tif"))) == 1
    said = refused("scenes/*.txt")
    assert "images=scenes/*.txt fits no folder and no image (.jpg" in said


def test_an_image_that_was_moved_is_mapped_again(mapped, image, tmp_path):
    scene = tmp_path / "scene.tif"
    write_tiff(scene, image[0], crs=None, transform=None)
    assert read_map(mapped(scene)[0])[1]["transform"] == rasterio.Affine.identity()
    assert "Mapped before, and left as they were: 1 of 1 maps." in mapped(scene)[1]
    scene.with_suffix(".tfw").write_text("0.5\n0\n0\n-0.5\n389000.25\n5818999.75\n")
    moved, said = mapped(scene)
    assert read_map(moved)[1]["transform"] == PLACE
    assert "mapped before" not in said


def test_a_run_that_does_not_tell_its_type_or_tells_nonsense_is_refused(command, tuned, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(Path(shutil.copytree(tuned.path, tmp_path / "run")))
    metadata = read_metadata(run.model)
    del metadata["dtype"]
    save_tensors(run.model, load_file(run.model), metadata)
    run.result.write_text(json.dumps({**run.read_result(), "model_sha256": sha256_of(run.model)}))
    given = (f"run={run.path}", f"images={image[2]}")
    code, _, err = command("predict", *given)
    assert code == 2
    assert "does not tell the type of the values it was trained on" in err
    assert "value_scale=255" in err
    assert command("predict", *given, "value_scale=255")[0] == 0
    run.config.write_text(run.config.read_text().replace("downsample: 1", "downsample: half"))
    code, _, err = command("predict", *given, "value_scale=255")
    assert code == 2
    assert f"{run.config} has dataset.downsample='half': it is damaged." in err


def test_images_are_never_overwritten(refused, mapped, image, tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    scene = write_tiff(folder / "scene.tif", image[0])
    before = scene.read_bytes()
    assert f"run_dir={folder} holds scene.tif, and no predict.json" in refused(image[2], f"run_dir={folder}")
    assert "lies where maps are written" in refused(scene, f"run_dir={folder}")
    assert scene.read_bytes() == before
    for _ in range(2):  # maps below the folder of images are no images
        made, _ = mapped(folder, f"run_dir={folder / 'maps'}")
        assert made == folder / "maps/scene.tif"
    assert "lies where maps are written" in refused(made, f"run_dir={folder / 'maps'}")
    assert f"{folder / 'maps'} holds maps alone: {folder / 'maps'}/scene." in refused(
        folder / "maps", "run_dir=elsewhere"
    )
    write_tiff(folder / "scene.probabilities.tif", image[0])
    assert "would both write scene.probabilities.tif" in refused(folder)


def test_what_lies_beside_a_map_of_ours_is_not_ours_for_that(refused, mapped, image, tmp_path):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene, "run_dir=maps")
    own = made.with_name("scene.probabilities.tif")
    own.write_text("mine")
    made.with_suffix(".json").unlink()
    assert f"would be written over {own}, which predict did not write" in refused(scene, "run_dir=maps")
    assert own.read_text() == "mine"
    own.unlink()
    Image.new("L", (15000, 13000)).save(made.with_name("other.overview.png"))
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name in ("other.tif", "third.tif"):
        write_tiff(folder / name, image[0])
    said = refused(folder, "run_dir=maps")
    assert "other.overview.png, which predict did not write" in said
    assert said.rstrip().endswith("1 of 2 images were not mapped.")


def test_why_no_image_was_found_is_told(refused, image, tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    (folder / "all.zip").write_bytes(b"PK")
    said = refused(folder)
    assert f"{folder / 'all.zip'} cannot be read as a zip archive" in said
    assert "holds no .jpg" in said
    write_tiff(folder / "a.tif", image[0])
    assert refused(folder, "run_dir=maps").rstrip().endswith("All others were mapped: maps")
    assert (tmp_path / "maps/a.json").is_file()


@pytest.mark.parametrize("end", [".tif", ".png", ".overview.png", ".json", ".probabilities.tif"])
def test_what_predict_did_not_write_is_never_overwritten(refused, mapped, image, tmp_path, end):
    mapped(write_tiff(tmp_path / "first.tif", image[0]), "run_dir=maps")
    own = tmp_path / f"maps/point{end}"
    if end.endswith(".tif"):
        write_tiff(own, image[0][:1])
    elif end.endswith(".png"):
        Image.new("RGB", (4, 4)).save(own)
    else:
        own.write_text('{"my": "notes"}')
    before = own.read_bytes()
    point = write_tiff(tmp_path / "point.tif", image[0])
    said = refused(point, "run_dir=maps")
    assert f"{point}: its map would be written over {own.relative_to(tmp_path)}, which predict did not write" in said
    assert own.read_bytes() == before
    assert [path.name for path in (tmp_path / "maps").glob("point*")] == [own.name]
    own.unlink()
    mapped(point, "run_dir=maps")


def test_an_image_that_is_damaged_in_its_middle_leaves_the_map_before(refused, mapped, image, tmp_path, monkeypatch):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene)
    before = {path: path.read_bytes() for path in made.parent.glob("scene*")}
    content = scene.read_bytes()
    scene.write_bytes(content[: len(content) // 2])
    assert "scene.tif cannot be read as an image" in refused(scene)
    assert {path: path.read_bytes() for path in made.parent.glob("scene*")} == before


def test_a_long_picture_is_every_nth_pixel(tmp_path, mapped, image):
    values = np.tile(image[0][:, :16], (1, 1, 30))[:, :, :2500]
    made, _ = mapped(write_tiff(tmp_path / "long.tif", values, crs="EPSG:3857"), "evaluation.window.overlap=0")
    (classes,), _ = read_map(made)
    about = json.loads(made.with_suffix(".json").read_text())
    palette = np.array([each["color"] for each in about["classes"]], np.uint8)
    picture = np.array(Image.open(made.with_suffix(".png")).convert("RGB"))
    assert picture.shape == (6, 834, 3)
    assert np.array_equal(picture, palette[classes[::3, ::3]])
    assert "square_meters" not in about["classes"][0]  # pixels of web maps are no lengths on the ground


def test_a_map_by_other_settings_is_not_taken_for_this_one(mapped, image, tmp_path):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    given = (f"run_dir={tmp_path / 'maps'}", "probabilities=true")
    made, _ = mapped(scene, *given)
    turned, _ = mapped(scene, f"run_dir={tmp_path / 'maps'}", "bands=[3,2,1]")
    assert turned == made
    expected, _ = mapped(scene, "bands=[3,2,1]")
    assert np.array_equal(read_map(made)[0], read_map(expected)[0])
    assert not made.with_suffix(".probabilities.tif").exists()  # those were of the other map


def test_a_map_in_another_precision_is_another_one(mapped, image):
    maps = {mapped(image[2], f"trainer.precision={precision}")[0] for precision in ("fp32", "bf16")}
    assert len(maps) == 2


@pytest.mark.parametrize(("factor", "height", "width"), [(1, 3, 4), (2, 6, 8), (2, 7, 9), (3, 8, 12)])
def test_enlarging_gives_each_pixel_its_block(factor, height, width):
    rows = np.random.default_rng(0).integers(0, 9, (2, 3, 4))
    large = enlarged(rows, factor, height, width)
    assert large.shape == (2, height, width)
    for row in range(height):
        for column in range(width):
            nearest = rows[:, min(row // factor, 2), min(column // factor, 3)]
            assert np.array_equal(large[:, row, column], nearest)


@pytest.mark.parametrize(("dtype", "bands", "height", "width"), [("uint8", 1, 700, 300), ("float32", 9, 768, 512)])
def test_a_map_written_in_rows_of_any_height_is_that_written_at_once(
    tmp_path, monkeypatch, dtype, bands, height, width
):
    monkeypatch.setattr(map_writer, "CACHE_BYTES", 2**16)  # a row of tiles is larger
    values, names = np.random.default_rng(0).integers(0, 5, (bands, height, width)).astype(dtype), ["class"] * bands
    with MapWriter(tmp_path / "map.tif", Grid(height, width, None, None), names, dtype, 255) as writer:
        for top in range(0, height, 37):
            writer.write(top, values[:, top : top + 37])
        assert not (tmp_path / "map.tif").exists()
        writer.complete()
        writer.finish()
    assert np.array_equal(read_map(tmp_path / "map.tif")[0], values)
    with MapWriter(tmp_path / "once.tif", Grid(height, width, None, None), names, dtype, 255) as writer:
        writer.write(0, values)
        writer.complete()
        writer.finish()
    sizes = [(tmp_path / name).stat().st_size for name in ("map.tif", "once.tif")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)  # no tile was compressed twice


@pytest.mark.parametrize(
    ("height", "width", "levels"), [(200, 256, []), (200, 257, [2]), (512, 300, [2]), (1100, 40, [2, 4, 8])]
)
def test_overviews_go_down_to_one_tile(tmp_path, height, width, levels):
    with MapWriter(tmp_path / "map.tif", Grid(height, width, None, None), ["class"], "uint8", 255) as writer:
        writer.write(0, np.zeros((1, height, width), np.uint8))
        writer.complete()
        writer.finish()
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.overviews(1) == levels


def test_an_overview_shows_the_commonest_class_and_the_mean_probability(tmp_path):
    """Of blocks of two by two, most with three pixels of one class; one in sixteen has no data, another one little."""
    common = np.random.default_rng(0).integers(0, 5, (1, 150, 200)).astype(np.uint8)
    values = common.repeat(2, axis=1).repeat(2, axis=2)
    values[:, ::2, 1::2] = (values[:, ::2, 1::2] + 1) % 5
    common[:, ::4, ::4], values[:, ::8, ::8], values[:, 1::8, ::8] = 255, 255, 255
    values[:, ::8, 1::8], values[:, 1::8, 1::8] = 255, 255
    values[:, 4, 4:6], values[:, 5, 4] = 255, 255  # the only pixel of its block that has data
    common[:, 2, 2] = values[:, 5, 5]
    shares = np.where(values == 255, np.float32("nan"), values / np.float32(7))
    for name, dtype, nodata, array in (("map", "uint8", 255, values), ("likely", "float32", float("nan"), shares)):
        with MapWriter(tmp_path / f"{name}.tif", Grid(300, 400, None, None), ["a"], dtype, nodata) as writer:
            writer.write(0, array)
            writer.complete()
            writer.finish()
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as made:
        assert np.array_equal(made.read(), common)
    with rasterio.open(tmp_path / "likely.tif", overview_level=0) as made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of blocks without data
            means = np.nanmean(shares.reshape(1, 150, 2, 200, 2), axis=(2, 4))
        np.testing.assert_allclose(made.read(), means, rtol=1e-6)


def test_nothing_is_left_of_a_map_that_failed(tmp_path):
    def fail():
        with MapWriter(tmp_path / "map.tif", Grid(10, 10, None, None), ["class"], "uint8", 255) as writer:
            writer.write(0, np.zeros((1, 4, 10), np.uint8))
            raise InputError("the image is damaged")

    with pytest.raises(InputError, match="damaged"):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*of its values lie")
def test_values_below_zero_are_in_the_share_that_is_clipped(tmp_path):
    np.save(tmp_path / array_file(0, "image"), np.array([[[-5, 0, 50, 120]]], np.float32))
    file = SourceFile(tmp_path / "a.tif")
    assert mapping._share_clipped(SimpleNamespace(value_scale=100.0, mean=0.5), tmp_path, file) == 0.5


def with_infrared(image):
    """Return [4, H, W] of int16: another band before the given three, of which some values are below 0."""
    return np.concatenate([255 - image[:1].astype(np.int16), image]) * 20 - 60


def with_infrared_scenes(folder_dataset, root, alpha=False):
    """Copy the tiny data set with such images, of which the first 30 columns may be hidden by a fifth band."""
    shutil.copytree(folder_dataset, root)
    for path in root.glob("images/*/*.png"):
        values = with_infrared(np.array(Image.open(path)).transpose(2, 0, 1))
        opaque = np.ones((1, *values.shape[1:]), np.int16)
        opaque[..., :30] = 0
        write_tiff(path.with_suffix(".tif"), np.concatenate([values, opaque]) if alpha else values)
        path.unlink()
    return root


def test_new_images_give_the_channels_that_training_read(command, folder_dataset, tmp_path, image):
    """From files of four bands of 16 bits with a sign, of which the last three are read, backwards."""
    root = with_infrared_scenes(folder_dataset, tmp_path / "data")
    run = tune(root, tmp_path, "dataset.channels=[4,3,2]", "dataset.value_scale=5000")
    metadata = read_weights_metadata(run.model)
    assert (metadata.dtype, metadata.bands) == ("int16", ("band_4", "band_3", "band_2"))
    out = f"output_dir={tmp_path}"
    new = write_tiff(tmp_path / "new.tif", with_infrared(image[0]))
    code, printed, err = command("predict", f"run={run.path}", f"images={new}", out)
    assert code == 0, err
    made = Path(printed.strip().splitlines()[-1])
    classes, _ = read_map(made)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (image[1], classes[0]), 1)
    assert counts.tolist() == run.read_result()["confusion"]
    about = json.loads(made.with_suffix(".json").read_text())
    assert (about["bands"], about["alpha"]) == ([4, 3, 2], None)
    alone = write_tiff(tmp_path / "alone.tif", with_infrared(image[0])[[3, 2, 1]])
    code, _, err = command("predict", f"run={run.path}", f"images={alone}", out)
    assert code == 2
    assert "alone.tif has 3 bands: bands=[4,3,2] (dataset.channels of the run) asks for more" in err
    code, printed, err = command("predict", f"run={run.path}", f"images={alone}", "bands=[1,2,3]", out)
    assert code == 0, err
    assert np.array_equal(read_map(Path(printed.strip().splitlines()[-1]))[0], classes)


def test_other_files_are_scored_with_channels_of_their_own(command, folder_dataset, tmp_path):
    root = with_infrared_scenes(folder_dataset, tmp_path / "data")
    run = tune(root, tmp_path, "dataset.channels=[4,3,2]", "dataset.value_scale=5000")
    other = tmp_path / "other"
    shutil.copytree(root, other)
    for path in other.glob("images/*/*.tif"):
        write_tiff(path, rasterio.open(path).read()[[1, 2, 3]])
    given = ("evaluate", f"run={run.path}", f"dataset.root={other}", f"output_dir={tmp_path}")
    code, _, err = command(*given)
    assert code == 2
    assert "has 3 bands: dataset.channels=[4,3,2] asks for more" in err
    code, printed, err = command(*given, "bands=[3,2,1]")
    assert code == 0, err
    scored = RunDirectory(Path(printed.strip().splitlines()[-1])).read_result()
    assert scored["confusion"] == run.read_result()["confusion"]
    code, _, err = command(*given, "bands=[3,2]")
    assert code == 2
    assert "bands=[3,2]: expected a channel for each of band_4, band_3, band_2" in err
    stored = run.config.read_text()
    run.config.write_text(stored.replace("ssl_rs.data.folder.Folder", "ssl_rs.data.mbrsc.MbrscDubai"))
    code, _, err = command(*given, "bands=[3,2,1]")
    assert code == 2
    assert "bands=[3,2,1]: dataset=folder reads its own. Leave it out." in err


def test_alpha_of_the_channels_is_that_of_new_images_too(command, folder_dataset, tmp_path, image):
    root = with_infrared_scenes(folder_dataset, tmp_path / "data", alpha=True)
    named = "dataset.bands=[red,green,blue,alpha]"
    run = tune(root, tmp_path, "dataset.channels=[2,3,4,5]", named, "dataset.value_scale=5000")

    def predict(path, *overrides):
        code, printed, err = command(
            "predict", f"run={run.path}", f"images={path}", f"output_dir={tmp_path}", *overrides
        )
        return (read_map(Path(printed.strip().splitlines()[-1]))[0] if code == 0 else None), err

    hidden, _ = predict(root / "images/test/scene5.tif")
    assert (hidden[0, :, :30] == 255).all()
    assert (hidden[0, :, 30:] != 255).all()
    bare, said = predict(root / "images/test/scene5.tif", "bands=[2,3,4]")
    assert (bare != 255).all()
    assert "With bands=[...] none does: alpha=NUMBER names it." in said
    again, said = predict(root / "images/test/scene5.tif", "bands=[2,3,4]", "alpha=5")
    assert np.array_equal(again, hidden)
    assert "none does" not in said
    _, said = predict(root / "images/test/scene5.tif", "alpha=3")
    assert "of a band that is none of `bands`, [2,3,4] (dataset.channels of the run)" in said
    _, said = predict(root / "images/test/scene5.tif", "alpha=9")
    assert "scene5.tif has 5 bands: alpha=9 asks for more" in said
    four = write_tiff(tmp_path / "four.tif", with_infrared(image[0]))
    _, said = predict(four)
    assert "four.tif has 4 bands: alpha=5 (dataset.channels of the run) asks for more" in said


def test_a_file_that_is_read_whole_says_itself_where_it_has_data(tmp_path):
    """The color of a palette whose index means nodata does not mean it. With alpha, as in training, the bands that are
    left count: of an opaque pixel, too, all of them may say so."""
    values = np.full((4, 6, 5), 255, np.uint8)
    values[:3, 2, 3] = 0
    colors = write_tiff(tmp_path / "opaque.tif", values, nodata=0)
    indices = np.zeros((1, 6, 5), np.uint8)
    indices[0, 1, 1] = 255
    palette = write_tiff(tmp_path / "palette.tif", indices, nodata=255)
    with rasterio.open(palette, "r+") as file:
        file.write_colormap(1, {0: (255, 255, 255, 255), 255: (255, 255, 255, 255)})

    def missing(path, **settings):
        known = {"name": "x", "expected": ("red", "green", "blue"), "chosen": None, "trained_dtype": "uint8"}
        scenes = NewScenes(**(known | settings))
        (strip,) = scenes.read(SceneSource("a", "test", (SourceFile(path),))).strips
        return [] if strip.valid is None else np.argwhere(~strip.valid).tolist()

    assert missing(colors, alpha=4) == [[2, 3]]
    assert missing(colors, chosen=[3, 2, 1], alpha=4) == [[2, 3]]  # of the bands that are read, all say so
    assert missing(palette) == [[1, 1]]


@pytest.mark.parametrize(("bands", "count", "nodata"), [
    (None, 3, -9999), (["red", "green", "blue", "alpha"], 4, 0), (["a", "b"], 2, -9999), (["a", "alpha"], 2, 7),
])  # fmt: skip
@pytest.mark.parametrize("factor", [1, 2])
def test_new_images_are_read_as_those_of_the_training(tmp_path, bands, count, nodata, factor):
    """Whatever holds no data: all bands of some pixels, and single bands of others."""
    values = np.random.default_rng(0).integers(1, 2000, (count, 8, 8)).astype(np.int16)
    values[:, :2, :3] = nodata
    values[0, 4, 4] = nodata
    if bands and bands[-1] == "alpha":
        values[-1] = 255
        values[-1, 6:, 6:] = 0
    (tmp_path / "data/images").mkdir(parents=True)
    path = write_tiff(tmp_path / "data/images/a.tif", values, nodata=nodata)
    shared = {"name": "x", "downsample": factor}
    trained = Folder(
        **shared, root=str(tmp_path / "data"), crop_size=32, tile_size=32, tile_shift=0.0, protocol="full",
        value_scale=2000.0, on_bad_scene="error", transductive=False, bands=bands, val_share=0.0, test_share=0.0,
        split_seed=0,
    )  # fmt: skip
    expected = trained.band_names
    new = NewScenes(
        **shared, expected=expected, chosen=None, trained_dtype="int16", trained_alpha=len(expected) < count
    )
    for name, dataset in {"train": trained, "new": new}.items():
        (tmp_path / name).mkdir()
        write_scene(dataset, 0, SceneSource("a", "test", (SourceFile(path),)), tmp_path / name)
    for kind in ("image", "valid"):
        stored = [np.load(tmp_path / name / array_file(0, kind)) for name in ("train", "new")]
        np.testing.assert_array_equal(*stored)
    assert not stored[0].all()


POINTS = [
    rasterio.control.GroundControlPoint(row, column, x, y, 3.5)
    for row, column, x, y in ((0, 0, 13.1, 52.6), (0, 96, 13.2, 52.61), (96, 0, 13.11, 52.5), (96, 96, 13.2, 52.5))
]
POLYNOMIALS = rasterio.rpc.RPC(
    height_off=100.5, height_scale=500, lat_off=52.5, lat_scale=0.1, long_off=13.4, long_scale=0.2, line_off=48,
    line_scale=48, samp_off=48, samp_scale=48, line_num_coeff=[0.1 * each for each in range(20)],
    line_den_coeff=[1.0] + [1e-7] * 19, samp_num_coeff=[0.3] * 20, samp_den_coeff=[1.0] + [2e-7] * 19,
    err_bias=None, err_rand=None,
)  # fmt: skip


def test_what_places_an_image_without_a_transform_places_its_map(mapped, image, tmp_path):
    """Ground control points, also those that do not say in which system, and rational polynomials."""
    by_points = write_tiff(tmp_path / "points.tif", image[0], transform=None, crs="EPSG:4326", gcps=POINTS)
    nowhere = write_tiff(tmp_path / "nowhere.tif", image[0], transform=None, crs=CRS(), gcps=POINTS)
    by_polynomials = write_tiff(tmp_path / "rpc.tif", image[0], transform=None, crs=None, rpcs=POLYNOMIALS)
    for name, scene in (("gcps", by_points), ("gcps", nowhere), ("rpcs", by_polynomials)):
        made, _ = mapped(scene, "probabilities=true")
        for path in (made, made.with_suffix(".probabilities.tif")):
            with rasterio.open(scene) as source, rasterio.open(path) as written:
                assert written.transform.is_identity
                assert str(getattr(written, name)) == str(getattr(source, name))
                assert (written.gcps[0] != []) == (name == "gcps")
                assert (written.rpcs is None) == (name == "gcps")
        assert "Mapped before" in mapped(scene, "probabilities=true")[1]
    about = json.loads(made.with_suffix(".json").read_text())
    assert about["ground_control"]["rpc"]["HEIGHT_OFF"] == "100.5"


def test_polynomials_that_cannot_be_read_keep_no_other_image_from_its_map(mapped, refused, image, tmp_path):
    scene = write_tiff(tmp_path / "scenes" / "scene.tif", image[0], transform=None, crs=None)
    write_tiff(tmp_path / "scenes" / "other.tif", image[0])
    beside = scene.with_name("scene_RPC.TXT")
    fields = {}
    for name, value in POLYNOMIALS.to_gdal().items():
        numbers = value.split()
        fields |= {name: value} if len(numbers) == 1 else {f"{name}_{i}": each for i, each in enumerate(numbers, 1)}
    beside.write_text("".join(f"{name}: {value}\n" for name, value in (fields | {"HEIGHT_OFF": ""}).items()))
    with pytest.warns(UserWarning, match=r"scene\.tif: its RPC cannot be read"):
        made, _ = mapped(scene)
    assert made.is_file()
    beside.write_text("HEIGHT_OFF: 3\n")
    said = refused(scene.parent, "run_dir=maps")
    assert "scene.tif cannot be read as an image" in said
    assert "scene_RPC.TXT file found, but missing LINE_OFF field" in said
    assert [path.name for path in Path("maps").glob("*.tif")] == ["other.tif"]


@pytest.mark.parametrize("end", [".tif", ".png", ".overview.png", ".probabilities.tif"])
def test_a_map_whose_file_was_cut_short_is_made_again(mapped, image, tmp_path, end):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene, "probabilities=true")
    path = made.with_suffix(end)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert "Mapped before" not in mapped(scene, "probabilities=true")[1]
    assert path.read_bytes() == whole


def test_a_map_without_its_probabilities_is_whole_where_nobody_wants_them(mapped, image, tmp_path):
    """They are large, and may be deleted."""
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene, "probabilities=true")
    made.with_suffix(".probabilities.tif").unlink()
    assert "Mapped before" in mapped(scene)[1]
    assert "Mapped before" not in mapped(scene, "probabilities=true")[1]
    assert made.with_suffix(".probabilities.tif").is_file()


def test_an_earlier_map_stays_until_the_next_one_is_whole(command, mapped, tuned, image, tmp_path, monkeypatch):
    scene = write_tiff(tmp_path / "scene.tif", image[0])
    made, _ = mapped(scene)
    before = {path: path.read_bytes() for path in made.parent.glob("scene*")}
    assert len(before) == 4
    given = (f"run={tuned.path}", f"images={scene}", "probabilities=true")

    def stop(*arguments, **more):
        raise KeyboardInterrupt

    for owner, name in ((MapWriter, "write"), (MapWriter, "complete"), (Image.Image, "save")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stop)
            assert command("predict", *given)[0] == 130
        assert {path: path.read_bytes() for path in made.parent.glob("scene*")} == before
    again, _ = mapped(scene, "probabilities=true")
    assert again == made
    assert made.read_bytes() == before[made]


def test_an_archive_is_mapped_by_its_name(mapped, refused, image, tmp_path):
    for name in ("a/one.tif", "two.tif"):
        (tmp_path / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        write_tiff(tmp_path / "scenes" / name, image[0][:, :40, :40])
    shutil.make_archive(str(tmp_path / "scenes"), "zip", tmp_path / "scenes")
    folder, _ = mapped(tmp_path / "scenes.zip")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tif")) == ["a/one.tif", "two.tif"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no image")
    shutil.make_archive(str(tmp_path / "other"), "zip", tmp_path / "other")
    said = refused(tmp_path / "other.zip")
    assert f"images={tmp_path / 'other.zip'} holds no .jpg" in said
    assert "notes.txt" in said


def test_complex_values_are_refused_with_a_remedy_that_helps(refused, image, tmp_path):
    scene = write_tiff(tmp_path / "scene.tif", image[0].astype(np.complex64))
    for given in ((), ("value_scale=255",)):
        said = refused(scene, *given)
        assert "scene.tif has complex values (complex64), which no run reads. Give it their magnitude." in said
        assert "value_scale" not in said
