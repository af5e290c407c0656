"""Files of strangers: nothing in them is run, nothing is written where they say, and no bomb is decoded."""

import io
import json
import pickle
import shutil
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from ssl_rs.data.finding_files import find_files
from ssl_rs.data.image_files import open_raster, read_raster
from ssl_rs.data.manifest import Manifest
from ssl_rs.data.matching_files import describe_files, match_files
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.store import Store
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.training.state import SEAL

pytestmark = pytest.mark.slow


class Attack:
    """Unpickled by a trusting reader, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def attack(tmp_path):
    """An object with code in it, which is known to work; the test fails if the code was run."""
    mark = tmp_path / "attacked"
    pickle.loads(pickle.dumps(Attack(mark)))
    assert mark.exists()
    mark.unlink()
    yield Attack(mark)
    assert not mark.exists()


# Code in files of weights and arrays


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_code_in_a_checkpoint(quick, tmp_path, fails, at_step, attack):
    """Its checksum is right: whoever writes code into it can compute one."""
    import hashlib

    run = RunDirectory(tmp_path / "run")

    def stop():
        raise OSError("stopped by the test")

    at_step(3, stop)
    fails("pretrain", *quick, f"run_dir={run.path}")
    (path,) = run.checkpoints.iterdir()
    content = torch.load(path, weights_only=True)
    file = io.BytesIO()
    torch.save({**content, "optimizer": attack}, file)
    path.write_bytes(file.getvalue() + SEAL + hashlib.sha256(file.getvalue()).hexdigest().encode())
    assert f"No checkpoint in {run.checkpoints} is whole" in fails("pretrain", *quick, f"run_dir={run.path}")


@pytest.mark.parametrize("write", [torch.save, lambda weights, path: path.write_bytes(pickle.dumps(weights))])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_code_in_a_file_of_weights(quick, tmp_path, fails, attack, write, name):
    path = tmp_path / name
    write({"features.0.0.weight": attack}, path)
    given = [item for item in quick if not item.startswith("pretext")]
    said = fails("finetune", *given, "initialization=imagenet", f"initialization.weights={path}")
    assert f"{path} cannot be read as weights" in said


@pytest.mark.parametrize("member", ["images", "names"])
def test_code_in_samples_of_a_run(tuned, tmp_path, command, attack, member):
    run = RunDirectory(tmp_path / "runs" / "run")
    shutil.copytree(tuned.path, run.path)
    with np.load(run.path / "samples.npz") as archive:
        arrays = dict(archive)
    np.savez(run.path / "samples.npz", **{**arrays, member: np.array([attack], dtype=object)}, allow_pickle=True)
    assert command("report", f"runs={run.path.parent}", f"run_dir={tmp_path / 'page'}")[0] == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert f"<td>{run.path / 'samples.npz'}</td>" in page
    assert "allow_pickle=False" in page


def test_code_in_a_scene_of_ukis_clouds(tmp_path, fails, attack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "ukis"
    root.mkdir()
    mask = np.ones((8, 8, 1), np.uint8)
    for name in ("sentinel2", "landsat5", "landsat7"):
        np.savez(root / f"{name}.npz", img=np.array([attack], dtype=object), msk=mask)
    said = fails("prepare", "dataset=ukis_clouds", f"dataset.root={root}")
    assert "cannot be read as an .npz file with img" in said


# Targets


def test_a_target_on_the_command_line(quick, tmp_path, fails):
    for target in ("os.system", "subprocess.run", "ssl_rs.files.write_text", "torch.hub.load", "kornia.contrib.KMeans"):
        given = (f"optimizer._target_={target}", f"+optimizer.command='touch {tmp_path / 'mark'}'")
        assert f"optimizer._target_={target} is not admitted" in fails("pretrain", *quick, *given)
    assert not (tmp_path / "mark").exists()


def test_a_target_in_a_folder_of_configs(quick, tmp_path, fails):
    (tmp_path / "own" / "optimizer").mkdir(parents=True)
    (tmp_path / "own" / "optimizer" / "mine.yaml").write_text(
        f"# Mine.\n_target_: os.system\ncommand: touch {tmp_path / 'mark'}\n"
    )
    given = (*(item for item in quick if not item.startswith("optimizer")), "--config-dir", str(tmp_path / "own"))
    assert "optimizer._target_=os.system is not admitted" in fails("pretrain", *given, "optimizer=mine")
    (tmp_path / "own" / "experiment").mkdir()
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ntrusted_packages: [os, posix]\n"
        f"optimizer:\n  _target_: os.system\n  command: touch {tmp_path / 'mark'}\n"
    )
    assert "trusted_packages is set by a file" in fails("pretrain", *given, "experiment=mine")
    assert not (tmp_path / "mark").exists()


OF_OTHERS = {
    "callbacks": "hydra: {mode: MULTIRUN, callbacks: {x: {_target_: numpy.load, file: FILE, allow_pickle: true}}}",
    "callbacks of one run": "hydra: {callbacks: {x: {_target_: numpy.load, file: FILE, allow_pickle: true}}}",
    "logging": "hydra: {job_logging: {handlers: {x: {(): numpy.load, file: FILE, allow_pickle: true}}}}",
    "launcher": "hydra: {launcher: {_target_: numpy.load}}",
    "sweeper": "hydra: {sweeper: {_target_: numpy.load}}",
    "environment": "hydra: {job: {env_set: {WANDB_BASE_URL: 'http://elsewhere'}}}",
    "folder": "hydra: {sweep: {dir: FOLDER}}",
    "sweep of callbacks": "hydra: {mode: MULTIRUN, sweeper: {params: {+hydra.callbacks.x._target_: numpy.load}}}",
    "sweep of trust": "hydra: {mode: MULTIRUN, sweeper: {params: {trusted_packages: '[os]'}}}",
}


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
@pytest.mark.parametrize("kind", OF_OTHERS)
def test_settings_of_hydra_in_a_folder_of_configs(quick, tmp_path, fails, attack, kind, sweep):
    """Hydra itself builds what they name, and asks no allow-list."""
    (tmp_path / "array.npy").write_bytes(pickle.dumps(attack))
    text = OF_OTHERS[kind].replace("FILE", str(tmp_path / "array.npy")).replace("FOLDER", str(tmp_path / "elsewhere"))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    said = fails("pretrain", *quick, "--config-dir", str(tmp_path / "own"), "experiment=mine", *sweep)
    assert "Only the command line can say which code may be run" in said
    assert not (tmp_path / "elsewhere").exists()


def test_own_files_may_say_what_a_sweep_is_over_and_the_command_line_may_say_more(quick, tmp_path, command):
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    (tmp_path / "own" / "sweep" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
    )
    given = ("--config-dir", str(tmp_path / "own"), "sweep=mine", "trainer.max_steps=1")
    folder = f"hydra.sweep.dir={tmp_path / 'sweeps'}"
    code, out, err = command("pretrain", *quick, *given, "+hydra.job.env_set.SSL_RS_SAID=here", folder)
    assert code == 0, err
    assert "2 of 2 runs are finished" in out
    assert (tmp_path / "sweeps" / "multirun.yaml").is_file()


@pytest.mark.parametrize("key", ["dataset", "trainer", "decoder", "evaluation.window"])
def test_a_target_in_the_config_of_a_run(tuned, tmp_path, fails, key):
    run = RunDirectory(tmp_path / "copy")
    shutil.copytree(tuned.path, run.path)
    text = run.config.read_text()
    node = text[text.index(f"\n{key.split('.')[0]}:") :]
    target = node.partition("_target_: ")[2].split()[0]
    changed = node.replace(target, "os.system", 1)
    run.config.write_text(text.replace(node, changed).replace("trusted_packages: []", "trusted_packages: [os, posix]"))
    said = fails("evaluate", f"run={run.path}", f"output_dir={tuned.path.parent}", f"run_dir={tmp_path / 'scores'}")
    assert f"{key}._target_=os.system is not admitted" in said


def test_the_config_of_a_pretraining_is_not_even_read(whole, tmp_path, quick, command):
    run = RunDirectory(tmp_path / "copy")
    shutil.copytree(whole.path, run.path)
    run.config.write_text(f"optimizer: {{_target_: os.system, command: 'touch {tmp_path / 'mark'}'}}\n")
    given = [item for item in quick if not item.startswith("pretext")]
    short = ("trainer.max_steps=1", "evaluation.window.size=64", "evaluation.window.overlap=0")
    assert command("finetune", *given, *short, "initialization=pretrained", f"initialization.run={run.path}")[0] == 0
    assert not (tmp_path / "mark").exists()


# Names


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/passwd", "00001_image.npy", "a/00000_image.npy", "manifest.json"]
)
def test_an_array_of_a_manifest_with_a_name_that_leads_elsewhere(tuned, tmp_path, name, quick, fails):
    (path,) = (tuned.path.parent / "stores").glob("folder-*")
    store = tmp_path / "stores" / path.name
    shutil.copytree(path, store)
    content = json.loads((store / "manifest.json").read_text())
    content["scenes"][0]["arrays"][0]["name"] = name
    (store / "manifest.json").write_text(json.dumps(content))
    for read in (Manifest.read, Store.open):
        with pytest.raises(InputError, match="a scene has arrays that are not its own"):
            read(store)
    said = fails("prepare", *quick[:2], f"store_dir={store.parent}", "check=true")
    assert "a scene has arrays that are not its own" in said


HOSTILE = [
    "../x",
    "/x",
    "a/../../x",
    "a/..",
    "..",
    "C:\\x",
    "c:/x",
    "C:x",
    "..\\x",
    "a\\..\\x",
    "//x",
    "\\\\host\\x",
    ".hidden/../../x",
]


@pytest.mark.parametrize("suffix", [".png", ".tif", "/"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_member_of_an_archive_with_a_name_that_leads_elsewhere(tmp_path, name, suffix, fails):
    """Its data set is refused, whether or not anything would have looked at the member."""
    name = name if name.endswith("..") else name + suffix
    root = tmp_path / "in" / "root"
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        archive.writestr("a.png", b"1")
        archive.writestr(zipfile.ZipInfo(name), b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        find_files(root)
    assert f"{root / 'images.zip'} holds {name!r}" in str(caught.value)
    for dataset in ("loveda", "potsdam"):
        said = fails(
            "prepare", f"dataset={dataset}", f"dataset.root={root}", f"store_dir={tmp_path}", f"output_dir={tmp_path}"
        )
        assert f"{root / 'images.zip'} holds {name!r}" in said
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".lock"] == before


def test_a_name_that_is_cut_by_a_zero_byte_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png#.txt", b"1")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"a.png#", b"a.png\0"))
    with pytest.raises(InputError, match=r"holds 'a\.png\\x00\.txt'"):
        find_files(tmp_path)


def test_names_that_only_look_odd_are_read(tmp_path):
    names = ["a..b.png", "x/./a.png", "10:30/a.png", "ä.png", "x..", "\n.png"]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    files = find_files(tmp_path)
    assert sorted(file.read().decode() for file in files) == sorted(names)
    assert match_files(files, tmp_path, r"/images/(a..b)\.png")
    assert "images (zip): " in describe_files(tmp_path, files)


# Bombs


def png(width, height, bits, color, rows=b"\0" * 1000):
    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    ended = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ended


def jpeg(width, height):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    content = file.getvalue()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def tiff(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", count=3, height=60000, width=60000, dtype="uint8", sparse_ok=True, tiled=True
        ):
            pass
    return path.read_bytes()


BOMBS = {
    "rgb.png": lambda path: png(60000, 60000, 8, 2),
    "gray16.png": lambda path: png(60000, 60000, 16, 0),
    "rgba16.png": lambda path: png(40000, 40000, 16, 6),
    "gray4.png": lambda path: png(60000, 60000, 4, 0),
    "palette.png": lambda path: png(60000, 60000, 8, 3),
    "a.jpg": lambda path: jpeg(60000, 60000),
    "a.tif": tiff,
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path, name, zipped):
    path = tmp_path / name
    path.write_bytes(BOMBS[name](path))
    file = SourceFile(path)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, name)
        file = SourceFile(tmp_path / "a.zip", name)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=name) as caught:
            read_raster(file)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert any(word in str(caught.value) for word in ("exceeds limit", "claims"))


def with_claim(path, size):
    """Let an archive say that its only member has so many bytes when unpacked."""
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.index(mark) + place
        content[start : start + 4] = struct.pack("<I", size)
    path.write_bytes(content)


def test_a_member_that_claims_gigabytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**7))
    with_claim(tmp_path / "a.zip", 4_000_000_000)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.zip/a\.png is 3\.7 GiB large"):
        open_raster(SourceFile(tmp_path / "a.zip", "a.png"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_a_member_that_is_larger_than_it_claims_is_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.tif", bytes(10**7))
    with_claim(tmp_path / "a.zip", 1000)
    with pytest.raises(InputError, match="cannot be unpacked: Bad CRC-32"):
        SourceFile(tmp_path / "a.zip", "a.tif").read()


def test_a_bomb_in_the_samples_of_a_run_is_left_out(tuned, tmp_path, command):
    run = RunDirectory(tmp_path / "runs" / "run")
    shutil.copytree(tuned.path, run.path)
    with (
        zipfile.ZipFile(run.path / "samples.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (3, 6000, 5000, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(270):
            file.write(bytes(10**6))
    assert (run.path / "samples.npz").stat().st_size < 10**6
    assert command("report", f"runs={run.path.parent}", f"run_dir={tmp_path / 'page'}")[0] == 0
    assert "it claims more than 256 MiB" in (tmp_path / "page" / "index.html").read_text()
