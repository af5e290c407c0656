"""A check reads every byte of a store and of its source files again, and names what differs."""

import hashlib
import json
import os
import zipfile

import numpy as np
import pytest

from ssl_rs.data.dataset import Dataset, SceneArrays, SceneSource, SegmentationClass
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.prepare import prepare
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store_location import locate_store
from ssl_rs.data.verify import TOLD, verify
from ssl_rs.errors import InputError


def arrays(seed):
    rng = np.random.default_rng(seed)
    return SceneArrays(rng.integers(1, 200, (2, 9, 7)).astype(np.uint8), rng.integers(0, 3, (9, 7)).astype(np.uint8))


def entries(count):
    return [(f"scene {index}", "train", arrays(index)) for index in range(count)]


def overwrite(path, change):
    """Change bytes but neither size nor time, so that only the content tells."""
    times = path.stat().st_mtime_ns
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(times, times))


def flip_last(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture
def prepared(made_up, tmp_path):
    dataset = made_up(entries(3))
    return dataset, prepare(dataset, tmp_path / "stores")


def message(dataset, folder):
    with pytest.raises(InputError) as caught:
        verify(dataset, folder)
    return str(caught.value)


def test_a_whole_store_passes_and_every_byte_is_counted(prepared, tmp_path):
    dataset, store = prepared
    dataset.reads.clear()
    reported = []
    found = verify(dataset, tmp_path / "stores", lambda *done: reported.append(done))
    files = [*store.path.glob("*.npy"), *(tmp_path / "sources").iterdir()]
    assert (found.num_arrays, found.num_sources) == (6, 3)
    assert found.size == sum(path.stat().st_size for path in files)
    assert found.store.path == store.path
    assert reported == [(1, 3, "scene 0"), (2, 3, "scene 1"), (3, 3, "scene 2")]
    assert dataset.reads == []


def test_one_bit_of_an_array_is_named_with_both_hashes_and_the_remedy(prepared, tmp_path):
    dataset, store = prepared
    path = store.path / "00001_mask.npy"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    overwrite(path, flip_last)
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    prepare(dataset, tmp_path / "stores")  # opening a store cannot tell
    said = message(dataset, tmp_path / "stores")
    assert f"{path}: expected sha256 {expected[:12]}, got {got[:12]}" in said
    assert expected[:13] not in said
    assert "1 of 6 arrays" in said
    assert f"delete the folder {store.path} and run prepare again" in said
    assert "not those that the store was made from" not in said


def test_a_changed_source_of_the_same_size_and_time_is_named(prepared, tmp_path):
    dataset, store = prepared
    overwrite(tmp_path / "sources" / "2.bin", flip_last)
    said = message(dataset, tmp_path / "stores")
    assert f"{tmp_path / 'sources' / '2.bin'}: expected sha256 " in said
    assert "1 of 3 files are not those that the store was made from" in said
    assert f"Bring them back, or delete the folder {store.path}" in said
    assert "arrays" not in said


def test_all_differences_are_found_and_the_first_are_listed(made_up, tmp_path):
    dataset = made_up(entries(8))
    store = prepare(dataset, tmp_path / "stores")
    for path in sorted(store.path.glob("*_image.npy")):
        overwrite(path, flip_last)
    overwrite(tmp_path / "sources" / "0.bin", flip_last)
    said = message(dataset, tmp_path / "stores")
    assert said.count("_image.npy: expected") == TOLD
    assert "8 of 16 arrays" in said
    assert f"and {8 - TOLD} more" in said
    assert "0.bin: expected" in said


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_missing_or_cut_array_is_one_of_the_differences(prepared, tmp_path, damage):
    dataset, store = prepared
    damage(store.path / "00000_image.npy")
    overwrite(store.path / "00002_image.npy", flip_last)
    said = message(dataset, tmp_path / "stores")
    assert "2 of 6 arrays" in said
    assert "00000_image.npy" in said
    assert "00002_image.npy" in said


def edit(path, change):
    """Change a manifest and the hash beside it: as by somebody who knows both."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    path.with_name("manifest.sha256").write_text(Manifest.read(path.parent).sha256)


def test_a_manifest_that_names_other_sources_is_refused(prepared, tmp_path):
    dataset, store = prepared

    def rename(content):
        content["scenes"][1]["sources"][0]["name"] = "other.bin"
        return content

    edit(store.path / "manifest.json", rename)
    said = message(dataset, tmp_path / "stores")
    assert "scene 1" in said
    assert "other.bin" in said


def test_one_changed_number_of_the_manifest_is_noticed(prepared, tmp_path):
    dataset, store = prepared
    path = store.path / "manifest.json"
    content = json.loads(path.read_text())
    content["mean"][0] += 0.001
    path.write_text(json.dumps(content))
    assert "manifest.json is not what manifest.sha256 beside it says" in message(dataset, tmp_path / "stores")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_a_store_without_a_readable_manifest_is_damaged(prepared, tmp_path, damage):
    dataset, store = prepared
    damage(store.path / "manifest.json")
    assert f"Delete the folder {store.path} and run prepare again" in message(dataset, tmp_path / "stores")


def test_without_a_store_nothing_is_built(made_up, tmp_path):
    dataset = made_up(entries(2))
    said = message(dataset, tmp_path / "stores")
    assert "nothing to check" in said
    assert str(locate_store(dataset, tmp_path / "stores")[0]) in said
    assert "check=true" in said
    assert dataset.reads == []
    assert not (tmp_path / "stores").exists()


def test_a_store_of_other_files_is_named_when_there_is_none_of_these(prepared, tmp_path):
    dataset, store = prepared
    os.utime(tmp_path / "sources" / "0.bin", ns=(1, 1))
    assert store.path.name in message(dataset, tmp_path / "stores")


def test_scenes_that_were_left_out_are_not_missed(made_up, tmp_path):
    bad = SceneArrays(np.ones((3, 4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    twice = [*entries(2), ("bad", "train", bad), entries(1)[0]]  # of two scenes with one id, the first is taken
    dataset = made_up(twice, on_bad_scene="skip")
    prepare(dataset, tmp_path / "stores")
    found = verify(dataset, tmp_path / "stores")
    assert (found.num_arrays, found.num_sources) == (4, 2)
    overwrite(tmp_path / "sources" / "0.bin", flip_last)
    assert "0.bin: expected" in message(dataset, tmp_path / "stores")


SIZE = 400_000  # bytes: more than an archive that is still open has in its buffer


class Archived(Dataset):
    """Two scenes that share the member of an archive, which holds their values."""

    band_names = ("gray",)
    classes = (SegmentationClass("a", (0, 0, 0)),)

    def scenes(self):
        archive = self.folder("scenes.zip") / "scenes.zip"
        return [
            SceneSource(name, "train", (SourceFile(archive, f"{name}.bin"), SourceFile(archive, "shared.bin")))
            for name in ("a", "b")
        ]

    def read(self, scene):
        values = np.frombuffer(scene.files[0].read(), np.uint8)[None, None]
        return SceneArrays(values, np.zeros(values.shape[1:], np.uint8))


def test_members_of_archives_are_read_once_and_damaged_ones_named(shared, tmp_path):
    archive = tmp_path / "scenes.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("a", "b", "shared"):
            file.writestr(f"{name}.bin", name[0].encode() * SIZE)
    dataset = Archived(**{**shared, "name": "archived", "root": str(tmp_path)})
    prepare(dataset, tmp_path / "stores")
    found = verify(dataset, tmp_path / "stores")
    assert found.num_sources == 3
    overwrite(archive, lambda content: content.replace(b"b" * SIZE, b"b" * (SIZE - 1) + b"c"))
    said = message(dataset, tmp_path / "stores")
    assert f"{archive}/b.bin: expected sha256 " in said
    assert "cannot be read" in said  # the archive's own checksum tells
    assert "1 of 3 files" in said
