import copy
import json

import numpy as np
import pytest

from ssl_rs.reporting.comparing import compare
from ssl_rs.reporting.results import read_runs

CLASSES = [{"name": "water", "color": [0, 0, 255]}, {"name": "land", "color": [0, 128, 0]}]
PROTOCOLS = tuple(
    f"{base}{suffix}" for suffix in ("", "_eroded") for base in ("all_classes", "clutter_as_error", "clutter_ignored")
)
SCORE = {"overall_accuracy": 0.8, "mean_f1": 0.7, "kappa": 0.6, "class_iou": {"water": 0.9, "land": None}}


def result_of(label="random", fraction=0.1, seed=0, miou=0.5, **changes):
    """What finetune writes; `changes` replace or add keys."""
    score = {"miou": miou, **SCORE}
    result = {
        "command": "finetune",
        "dataset": "tiny",
        "backbone": "resnet18",
        "decoder": "unet",
        "initialization": label if label in ("random", "imagenet") else "pretrained",
        "label": label,
        "provenance": {"kind": "random", "label": label, "sha256": None if label == "random" else "ab" * 32},
        "label_fraction": fraction,
        "labeled_units": round(100 * fraction),
        "label_unit": "tile",
        "subset_sha256": "cd" * 32,
        "seed": seed,
        "steps": 20,
        "wall_seconds": 90.0,
        "protocols": {"all_classes": score},
        "manifest_sha256": "ef" * 32,
        "classes": CLASSES,
        **score,
    }
    return copy.deepcopy({**result, **changes})


@pytest.fixture
def six_protocols():
    """Make `protocols` of a data set with a clutter class, land, and eroded labels.

    The k-th protocol's scores are all `miou` + k/100, and undefined where `miou` is None.
    """

    def make(miou):
        return {
            name: protocol_of(name, None if miou is None else miou + place / 100)
            for place, name in enumerate(PROTOCOLS)
        }

    return make


def protocol_of(name, value):
    base, eroded, _ = name.partition("_eroded")
    return {
        **dict.fromkeys(("miou", "overall_accuracy", "mean_f1", "kappa"), value),
        "class_iou": dict.fromkeys(("water", "land") if base == "all_classes" else ("water",), value),
        "labels": "eroded" if eroded else "full",
        "excluded": [] if base == "all_classes" else ["land"],
        "excluded_pixels": {"clutter_as_error": "error", "clutter_ignored": "ignored"}.get(base),
    }


@pytest.fixture
def write_run(tmp_path):
    """Write RUN/result.json under tmp_path/runs and give its folder."""

    def write(name, **arguments):
        directory = tmp_path / "runs" / name
        directory.mkdir(parents=True)
        (directory / "result.json").write_text(json.dumps(result_of(**arguments)))
        return directory

    return write


@pytest.fixture
def tables_of(tmp_path):
    """Read the runs under tmp_path/runs and sort them into tables."""

    def read():
        return compare(read_runs(tmp_path / "runs")[0])

    return read


@pytest.fixture
def write_samples():
    """Write RUN/samples.npz with tiles of 8 x 8 pixels, of which the given number in each is predicted right."""

    def write(directory, names=("a", "b"), right=48):
        shape = (len(names), 8, 8)
        truth = np.zeros(shape, dtype=np.uint8)
        prediction = np.where(np.arange(64).reshape(8, 8) < right, truth, 1).astype(np.uint8)
        images = np.full((*shape, 3), 200, dtype=np.uint8)
        np.savez(directory / "samples.npz", images=images, truth=truth, prediction=prediction, names=np.array(names))

    return write
