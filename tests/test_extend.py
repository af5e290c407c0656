"""The whole examples of docs/extend.md run as they stand there."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

DOC = Path(__file__).parent.parent / "docs/extend.md"
SHORT = ("dataset.crop_size=32", "trainer.batch_size=4", "trainer.max_steps=2", "logger=none")


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """Write the files of the document into an empty working directory, and return its commands as arguments."""
    text = DOC.read_text(encoding="utf-8")
    for name, content in re.findall(r"^`(my_[\w/.]+)`:\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
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


def test_the_documented_parts_run(documented, command, folder_dataset):
    write_arrays(Path("my_arrays"))
    ran = []
    for module, *arguments in documented:
        name = module.removeprefix("ssl_rs.")
        own = [] if "dataset=arrays" in arguments else ["dataset=folder", f"dataset.root='{folder_dataset}'"]
        code, out, err = command(name, *arguments, *own, *(SHORT if name != "prepare" else ()))
        assert code == 0, err
        ran.append((name, Path(out.splitlines()[-1])))
    assert [name for name, _ in ran] == ["pretrain", "prepare", "finetune"]
    pretrained, prepared, tuned = (path for _, path in ran)
    assert "mean_color/error" in (pretrained / "metrics.jsonl").read_text()
    assert "nir" in (prepared / "manifest.json").read_text()
    assert (tuned / "result.json").is_file()
