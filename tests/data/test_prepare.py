"""From files to a store: what it holds, when it is built anew, what is refused, and what a kill leaves."""

import dataclasses
import json
import os
import pickle
import re
import resource
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ssl_rs.data.dataset import Scene, SceneArrays
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.prepare import prepare
from ssl_rs.data.store import Store, most_open_maps
from ssl_rs.errors import InputError
from ssl_rs.locks import hold


def arrays(seed, height=9, width=7, dtype=np.uint8, high=200, bands=2, **more):
    rng = np.random.default_rng(seed)
    image = rng.integers(1, high, (bands, height, width)).astype(dtype)
    mask = rng.integers(0, 3, (height, width)).astype(np.uint8)
    return SceneArrays(image, more.pop("mask", mask), **more)


def test_store_gives_back_the_arrays_and_what_is_known_about_them(made_up, tmp_path):
    valid = np.ones((9, 7), bool)
    valid[:3] = False
    first = arrays(0, crs="EPSG:4326", transform=(0.5, 0.0, 10.0, 0.0, -0.5, 20.0))
    second = arrays(1, valid=valid)
    store = prepare(made_up([("a/../b", "train", first), ("second", "test", second)]), tmp_path / "stores")
    assert np.array_equal(store.image(0), first.image)
    assert np.array_equal(store.mask(0), first.mask)
    assert isinstance(store.image(0), np.memmap)
    assert np.array_equal(store.image(1), np.where(valid, second.image, 0))  # no data becomes 0
    assert np.array_equal(store.mask(1), np.where(valid, second.mask, 255))  # and is ignored
    one, two = store.manifest.scenes
    assert (one.id, one.split, one.height, one.width) == ("a/../b", "train", 9, 7)
    assert (one.crs, one.transform, one.valid_share) == ("EPSG:4326", first.transform, 1.0)
    assert one.class_pixels == tuple((first.mask == k).sum() for k in range(3))
    assert two.class_pixels == tuple(((second.mask == k) & valid).sum() for k in range(3))
    assert two.valid_share == pytest.approx(42 / 63)
    assert [(source.name, len(source.sha256)) for source in one.sources] == [("0.bin", 64)]
    assert store.scenes_of("train") == (0,)
    assert store.scenes_of("test") == (1,)
    assert store.scenes_of("val") == ()


def test_only_the_manifest_and_the_arrays_stay(made_up, tmp_path):
    store = prepare(made_up([("a", "train", arrays(0))]), tmp_path / "stores")
    assert sorted(path.name for path in store.path.iterdir()) == [
        "00000_image.npy", "00000_mask.npy", "manifest.json", "manifest.sha256", "overview.png", "scenes.csv",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "stores").glob("[!.]*")] == [store.path.name]


def test_statistics_are_those_of_valid_training_pixels(made_up, tmp_path):
    valid = np.ones((9, 7), bool)
    valid[2:4, 1:] = False
    one, two, other = arrays(0, valid=valid), arrays(1, height=20), arrays(2, high=255)
    store = prepare(made_up([("one", "train", one), ("other", "val", other), ("two", "train", two)]), tmp_path)
    pixels = np.concatenate([one.image[:, valid], two.image.reshape(2, -1)], axis=1) / 255
    assert store.manifest.mean == pytest.approx(pixels.mean(axis=1), rel=1e-8)
    assert store.manifest.std == pytest.approx(pixels.std(axis=1), rel=1e-8)
    assert store.manifest.value_scale == 255


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_value_scale_is_the_largest_valid_training_value(made_up, tmp_path, dtype):
    valid = np.ones((9, 7), bool)
    valid[0] = False
    train = arrays(0, dtype=dtype, high=700, valid=valid)
    train.image[:, 0] = 60000
    test = arrays(1, dtype=dtype, high=900)
    store = prepare(made_up([("train", "train", train), ("test", "test", test)]), tmp_path)
    largest = train.image[:, 1:].max()
    assert store.manifest.value_scale == largest
    assert store.manifest.mean == pytest.approx((train.image[:, 1:] / largest).mean(axis=(1, 2)), rel=1e-6)
    assert store.image(1).dtype == dtype


def test_a_set_value_scale_clips_before_the_statistics(made_up, tmp_path):
    train = arrays(0, dtype=np.uint16, high=2000)
    store = prepare(made_up([("train", "train", train)], value_scale=1023.0), tmp_path)
    clipped = np.minimum(train.image / 1023, 1)
    assert store.manifest.value_scale == 1023
    assert store.manifest.mean == pytest.approx(clipped.mean(axis=(1, 2)), rel=1e-8)
    assert store.manifest.std == pytest.approx(clipped.std(axis=(1, 2)), rel=1e-8)


def test_second_call_reads_nothing_and_reports_nothing(made_up, tmp_path):
    reported = []
    entries = [("a", "train", arrays(0)), ("b", "val", arrays(1))]
    first = prepare(made_up(entries), tmp_path / "stores", lambda *done: reported.append(done))
    assert reported == [(1, 2, "a"), (2, 2, "b")]
    again = made_up(entries, crop_size=4, tile_size=4, tile_shift=0.0, protocol="other", root="/elsewhere")
    second = prepare(again, tmp_path / "stores", lambda *done: reported.append(done))
    assert len(reported) == 2
    assert again.reads == []
    assert second.path == first.path
    assert second.manifest == first.manifest


def test_changed_files_splits_and_settings_make_another_store(made_up, tmp_path):
    entries = [("a", "train", arrays(0)), ("b", "val", arrays(1))]
    paths = [prepare(made_up(entries), tmp_path / "stores").path]
    paths.append(prepare(made_up(entries, value_scale=99.0), tmp_path / "stores").path)
    paths.append(prepare(made_up([entries[0], ("b", "test", arrays(1))]), tmp_path / "stores").path)
    os.utime(tmp_path / "sources" / "1.bin", ns=(1, 1))
    paths.append(prepare(made_up(entries), tmp_path / "stores").path)
    assert len(set(paths)) == 4
    assert all(path.is_dir() for path in paths)


def test_manifest_is_equal_on_another_machine(made_up, tmp_path):
    entries = [("a", "train", arrays(0)), ("b", "val", arrays(1))]
    first = prepare(made_up(entries), tmp_path / "stores").manifest
    os.utime(tmp_path / "sources" / "0.bin", ns=(5, 5))
    second = prepare(made_up(entries), tmp_path / "elsewhere").manifest
    assert first.sha256 == second.sha256
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(first))
    (tmp_path / "sources" / "0.bin").write_bytes(b"other")
    assert prepare(made_up(entries), tmp_path / "stores").manifest.sha256 != first.sha256


def test_interrupted_build_goes_on_and_ends_the_same(made_up, tmp_path):
    entries = [(f"scene{i}", "train", arrays(i)) for i in range(4)]
    whole = prepare(made_up(entries), tmp_path / "whole")

    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(made_up(entries), tmp_path / "stores", stop)
    (partial,) = [path for path in (tmp_path / "stores").iterdir() if path.is_dir()]
    assert partial.name.startswith(".")
    (partial / "00002_image.npy").write_bytes(b"half")  # as if killed while it was copied in
    (partial / ".00003_image.npy.partial").write_bytes(b"half")
    resumed = made_up(entries)
    store = prepare(resumed, tmp_path / "stores")
    assert resumed.reads == ["scene2", "scene3"]
    assert store.manifest == whole.manifest
    for index in range(4):
        assert np.array_equal(store.image(index), whole.image(index))
        assert np.array_equal(store.mask(index), whole.mask(index))
    assert sorted(path.name for path in store.path.iterdir()) == sorted(path.name for path in whole.path.iterdir())


def test_what_a_stopped_build_left_is_told_where_it_is_not_gone_on_with(made_up, tmp_path):
    entries = [(f"scene{i}", "train", arrays(i)) for i in range(3)]

    def stop(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(made_up(entries), tmp_path / "stores", stop)
    (left,) = (tmp_path / "stores").glob(".*.partial")
    os.utime(tmp_path / "sources" / "1.bin", ns=(1, 1))
    with hold(left.with_suffix(".lock"), "x", "y"), warnings.catch_warnings():
        warnings.simplefilter("error")  # somebody builds it
        prepare(made_up(entries), tmp_path / "stores")
    os.utime(tmp_path / "sources" / "1.bin", ns=(2, 2))
    with pytest.warns(UserWarning, match=rf"{re.escape(str(left))} .* of a preparation that was stopped.* delete it"):
        prepare(made_up(entries), tmp_path / "stores")


def test_builders_of_the_same_store_wait_for_each_other(made_up, tmp_path):
    entries = [(f"scene{i}", "train", arrays(i)) for i in range(3)]
    datasets = [made_up(entries) for _ in range(3)]
    started = threading.Event()

    def build(dataset):
        report = (lambda *done: started.set() or time.sleep(0.05)) if dataset is datasets[0] else None
        if report is None:
            assert started.wait(10)
        return prepare(dataset, tmp_path / "stores", report)

    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(build, datasets))
    assert {store.manifest.sha256 for store in stores} == {stores[0].manifest.sha256}
    assert [len(dataset.reads) for dataset in datasets] == [3, 0, 0]
    assert [path.name for path in (tmp_path / "stores").glob("[!.]*")] == [stores[0].path.name]


def with_mask(mask):
    return [("a", "train", dataclasses.replace(arrays(0), mask=mask))]


def with_image(image, **more):
    return [("a", "train", SceneArrays(image, np.zeros(image.shape[1:], np.uint8), **more))]


BROKEN_FLOAT = np.ones((2, 4, 5), np.float32)
BROKEN_FLOAT[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], ["no scenes"]),
        ([("a", "test", arrays(0))], ["none in the training split"]),
        ([("a", "train", arrays(0)), ("a", "val", arrays(1))], ["more than one scene", "'a'"]),
        (with_mask(None), ["0.bin", "no mask"]),
        (with_mask(np.zeros((9, 8), np.uint8)), ["0.bin", "9 x 8", "9 x 7"]),
        (with_mask(np.full((9, 7), 3, np.uint8)), ["0.bin", "[3]", "0 to 2"]),
        (
            with_mask(np.full((9, 7), 256, np.int16)),
            ["0.bin", "numbers from 256 to 256", "255 where there is no label"],
        ),
        (with_mask(np.full((9, 7), -1, np.int16)), ["0.bin", "numbers from -1 to -1"]),
        (with_image(BROKEN_FLOAT), ["0.bin", "in 1 pixel,", "row 2, column 3"]),
        (with_image(np.ones((2, 4, 5))), ["0.bin", "float64"]),
        (with_image(np.zeros((2, 4, 5), np.uint8)), ["no training image has a value above 0"]),
        ([("a", "train", arrays(0, bands=3))], ["0.bin", "3 bands", "2 bands"]),
        (
            [("a", "train", arrays(0)), ("b", "train", arrays(1, bands=3))],
            ["1.bin", "3 bands of uint8", "expected 2 bands"],
        ),
        (
            [("a", "train", arrays(0)), ("b", "test", arrays(1, dtype=np.uint16))],
            ["1.bin", "uint16", "most scenes of uint8"],
        ),
    ],
)
def test_refused_scenes_are_named_and_leave_nothing_behind(made_up, tmp_path, entries, words):
    with pytest.raises(InputError) as caught:
        prepare(made_up(entries), tmp_path / "stores")
    assert [word for word in words if word not in str(caught.value)] == []
    left = list((tmp_path / "stores").glob("*")) if (tmp_path / "stores").exists() else []
    assert [path for path in left if path.is_dir()] == []


def test_nan_is_no_mistake_where_there_is_no_data(made_up, tmp_path):
    valid = ~np.isnan(BROKEN_FLOAT).any(axis=0)
    store = prepare(made_up(with_image(BROKEN_FLOAT, valid=valid)), tmp_path)
    assert store.image(0)[1, 2, 3] == 0
    assert store.manifest.mean == (1.0, 1.0)
    assert store.manifest.std == (0.0, 0.0)


def test_a_missing_source_file_is_named(made_up, tmp_path):
    dataset = made_up([("a", "train", arrays(0))])
    (tmp_path / "sources" / "0.bin").unlink()
    with pytest.raises(InputError, match=r"0\.bin, which is missing"):
        prepare(dataset, tmp_path / "stores")


def test_a_folder_that_cannot_be_written_names_store_dir(made_up, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="store_dir"):
        prepare(made_up([("a", "train", arrays(0))]), tmp_path / "file")


def test_unlabeled_data_needs_no_mask(made_up, tmp_path):
    entries = [("a", "train", SceneArrays(arrays(0).image))]
    store = prepare(made_up(entries, num_classes=0), tmp_path)
    assert store.manifest.classes == ()
    assert not list(store.path.glob("*mask*"))


@pytest.fixture
def small_store(made_up, tmp_path):
    return prepare(made_up([("a", "train", arrays(0)), ("b", "test", arrays(1))]), tmp_path / "stores")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_shape(path):
    np.save(path, np.load(path)[..., :-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"more")


def column_by_column(path):
    np.save(path, np.asfortranarray(np.load(path)))


def unlink(path):
    path.unlink()


def garbage(path):
    path.write_bytes(b"garbage")


@pytest.mark.parametrize("name", ["00000_image.npy", "00001_mask.npy"])
@pytest.mark.parametrize("damage", [cut_short, longer, other_shape, column_by_column, unlink, garbage])
def test_damaged_arrays_are_named_with_the_remedy(small_store, name, damage):
    damage(small_store.path / name)
    with pytest.raises(InputError, match=name) as caught:
        Store.open(small_store.path)
    assert f"Delete the folder {small_store.path} and run prepare again" in str(caught.value)


def change(**values):
    return lambda content: content | values


@pytest.mark.parametrize(
    "edit",
    [
        change(format_version=0),
        change(bands=["band_1"]),
        change(mean=[0.5, "x"]),
        change(mean=[0.5, float("nan")]),
        change(value_scale=0.0),
        change(dtype="float64"),
        change(scenes=[]),
        change(scenes=3),
        change(classes=[{"name": "a", "color": [1, 2]}]),
        change(more=1),
        lambda content: content | {"scenes": content["scenes"] * 2},
        lambda content: content | {"scenes": [content["scenes"][0] | {"height": "9"}]},
        lambda content: content | {"scenes": [content["scenes"][0] | {"split": "dev"}]},
        lambda content: {key: value for key, value in content.items() if key != "std"},
        lambda content: [content],
    ],
)
def test_manifests_that_make_no_sense_are_refused(small_store, edit):
    path = small_store.path / "manifest.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"manifest\.json"):
        Store.open(small_store.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_is_refused(small_store, content):
    (small_store.path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="run prepare again"):
        Store.open(small_store.path)


def test_a_folder_without_manifest_is_no_store(tmp_path):
    with pytest.raises(InputError, match="is no store"):
        Store.open(tmp_path)


def test_manifest_survives_the_disk(small_store):
    assert Manifest.read(small_store.path) == small_store.manifest
    assert Manifest.read(small_store.path).sha256 == small_store.manifest.sha256


def test_a_pickled_store_is_small_and_works(small_store):
    small_store.image(0)
    content = pickle.dumps(small_store)
    assert np.array_equal(pickle.loads(content).image(0), small_store.image(0))
    small_store._maps.clear()
    assert len(content) == len(pickle.dumps(small_store))


def test_a_file_that_changes_while_it_is_open_is_named(small_store):
    assert small_store.image(0) is small_store.image(0)
    path = small_store.path / "00000_image.npy"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match=rf"{path} was changed while it was read\. Run prepare with check=true"):
        small_store.image(0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "a/b"), ("crop_size", 0), ("tile_size", 0), ("tile_shift", 1.5), ("value_scale", 0.0)],
)
def test_settings_out_of_range_name_their_key(made_up, key, value):
    with pytest.raises(InputError, match=rf"dataset\.{key}"):
        made_up([], **{key: value})


@pytest.mark.parametrize(
    ("descriptors", "expected"), [(resource.RLIM_INFINITY, 2**14), (2**20, 2**14), (1024, 512), (1, 1)]
)
def test_half_of_the_files_a_process_may_open_are_arrays(descriptors, expected):
    assert most_open_maps(descriptors) == expected


def in_strips(dataset, *images):
    """Let every scene of a data set be read in strips of these images, without a label."""
    height, width = sum(image.shape[1] for image in images), images[0].shape[2]
    strips = [SceneArrays(image, np.full(image.shape[1:], 255, np.uint8)) for image in images]
    type(dataset).read = lambda self, source: Scene(height, width, None, None, iter(strips))
    return dataset


def test_the_row_that_is_told_is_that_of_the_scene_and_not_of_its_strip(made_up, tmp_path):
    first, second = np.zeros((2, 2, 4, 7), np.float32)
    second[0, 2, 5] = np.nan
    with pytest.raises(InputError, match="NaN or infinite in 1 pixel, the first at row 6, column 5"):
        prepare(in_strips(made_up([("a", "train", None)], value_scale=1.0), first, second), tmp_path / "stores")


def test_strips_of_another_type_than_the_first_are_refused(made_up, tmp_path):
    first, second = np.zeros((2, 4, 7), np.uint16), np.zeros((2, 4, 7), np.float32)
    with pytest.raises(InputError, match="expected values of type uint16, got float32"):
        prepare(in_strips(made_up([("a", "train", None)], value_scale=1.0), first, second), tmp_path / "stores")
