"""One pass over whole scenes gives every protocol; what cannot be scored is refused early, or null, never a crash."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ssl_rs.data.dataset import IGNORE, Dataset, SceneArrays, SceneSource, SegmentationClass
from ssl_rs.data.prepare import prepare
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.splits import CUT_IT
from ssl_rs.data.store import Store
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.segmentation.protocols import protocols_of
from ssl_rs.segmentation.sliding_window import WindowSettings, window_starts
from ssl_rs.stages.evaluation import EvaluationSettings, Evaluator

NAMES = ("a", "b", "clutter", "never")
SIZES = ((19, 23), (31, 17), (16, 16))
WINDOW = WindowSettings(size=8, overlap=0.5, batch_size=3)
SIX = [protocol.name for protocol in protocols_of("clutter", eroded=True)]


def blocks(generator, height, width, side=7):
    """Random classes but the last in blocks, and some pixels without a label."""
    small = generator.integers(0, len(NAMES) - 1, (height // side + 1, width // side + 1))
    mask = np.kron(small, np.ones((side, side), int))[:height, :width].astype(np.uint8)
    mask[generator.random(mask.shape) < 0.005] = IGNORE
    return mask


@pytest.fixture
def make_store(tmp_path):
    """Prepare test scenes of the given masks; the only band of an image is the class that the network answers."""

    def make(masks, eroded=True):
        generator = np.random.default_rng(1)
        answers = []
        for mask in masks:
            wrong = generator.integers(0, len(NAMES) - 1, mask.shape).astype(np.uint8)
            answers.append(np.where((generator.random(mask.shape) < 0.6) & (mask != IGNORE), mask, wrong)[None])
        arrays = [SceneArrays(answer, mask) for answer, mask in zip(answers, masks, strict=True)]
        train = SceneArrays(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), np.zeros((8, 8), np.uint8))
        files = [tmp_path / f"{place}.bin" for place in range(len(masks) + 1)]
        for path in files:
            path.write_bytes(path.name.encode())

        class Tiny(Dataset):
            band_names = ("answer",)
            classes = tuple(SegmentationClass(name, (place, 0, 0)) for place, name in enumerate(NAMES))
            erodes = eroded

            def scenes(self):
                splits = ["test"] * len(masks) + ["train"]
                return [
                    SceneSource(path.stem, split, (SourceFile(path),))
                    for path, split in zip(files, splits, strict=True)
                ]

            def read(self, scene):
                return [*arrays, train][int(scene.id)]

        shared = {"root": None, "crop_size": 8, "tile_size": 8, "tile_shift": 0.0, "protocol": "all_classes"}
        more = {"value_scale": None, "on_bad_scene": "error", "transductive": False}
        return prepare(Tiny(name="tiny", **shared, **more), tmp_path / "stores", num_workers=0)

    return make


class Oracle(nn.Module):
    """Says the class that stands in the image, and counts the windows it was asked about."""

    windows = 0

    def logits(self, images):
        self.windows += len(images)
        classes = (images[:, 0] * 255).round().long()  # [b, S, S]
        return 9.0 * nn.functional.one_hot(classes, len(NAMES)).permute(0, 3, 1, 2).float()


def evaluator_of(store, protocol="all_classes", clutter="clutter"):
    return Evaluator(store, scored(protocol=protocol, clutter=clutter), torch.device("cpu"), "fp32")


def scored(**of_data):
    known = {"protocol": "all_classes", "clutter": "clutter", "group_of": str, "how_to_validate": ""}
    return EvaluationSettings("test", WINDOW, SimpleNamespace(**{**known, **of_data}))


@pytest.fixture
def masks():
    generator = np.random.default_rng(0)
    return [blocks(generator, *size) for size in SIZES]


def slow_counts(store, read):
    """Count pixel by pixel what the images answer against the labels that `read` gives."""
    counts = [[0] * len(NAMES) for _ in NAMES]
    for index in store.scenes_of("test"):
        for true, answer in zip(read(index).ravel().tolist(), store.image(index)[0].ravel().tolist(), strict=True):
            if true != IGNORE:
                counts[true][answer] += 1
    return counts


def test_one_pass_counts_both_kinds_of_labels(make_store, masks, tmp_path):
    store, network = make_store(masks), Oracle()
    result = evaluator_of(store).score(network, Processes(), tmp_path / "samples.npz")
    assert network.windows == sum(
        len(window_starts(height, WINDOW)) * len(window_starts(width, WINDOW)) for height, width in SIZES
    )
    assert result["confusions"] == {"full": slow_counts(store, store.mask), "eroded": slow_counts(store, store.eroded)}
    assert 0 < np.sum(result["confusions"]["eroded"]) < np.sum(result["confusions"]["full"])
    assert list(result["protocols"]) == SIX
    json.dumps(result, allow_nan=False)


def test_the_groups_of_scenes_are_written(make_store, masks, tmp_path):
    store = make_store(masks)
    settings = scored(group_of=lambda scene: "both" if scene in "01" else scene)
    evaluator = Evaluator(store, settings, torch.device("cpu"), "fp32")
    result = evaluator.score(Oracle(), Processes(), tmp_path / "samples.npz")
    assert result["scene_groups"] == {"0": "both", "1": "both"}
    assert {"0", "1"} < result["scene_confusions"]["full"].keys()


def test_scores_are_those_of_the_labels_and_pixels_that_their_protocol_counts(make_store, masks, tmp_path):
    store = make_store(masks)
    result = evaluator_of(store).score(Oracle(), Processes(), tmp_path / "samples.npz")
    for name, found in result["protocols"].items():
        read = store.eroded if name.endswith("_eroded") else store.mask
        truth, answer = (
            np.concatenate([np.asarray(part(index)).ravel() for index in store.scenes_of("test")])
            for part in (read, lambda index: store.image(index)[0])
        )
        counted = (truth != IGNORE) & ~(name.startswith("clutter_ignored") & (truth == 2))
        truth, answer = truth[counted], answer[counted]
        scored = [k for k in range(3) if name.startswith("all") or k != 2]  # "never" is absent
        iou = {NAMES[k]: ((truth == k) & (answer == k)).sum() / ((truth == k) | (answer == k)).sum() for k in scored}
        assert found["miou"] == pytest.approx(sum(iou.values()) / len(iou)), name
        assert found["class_iou"] == {**{key: pytest.approx(value) for key, value in iou.items()}, "never": None}
        assert found["overall_accuracy"] == pytest.approx((truth == answer).mean())
        assert found["absent_classes"] == ["never"]
    assert len({found["miou"] for found in result["protocols"].values()}) == 6


@pytest.mark.parametrize("protocol", SIX)
def test_the_top_of_the_result_is_the_data_sets_own_protocol(make_store, masks, tmp_path, protocol):
    result = evaluator_of(make_store(masks), protocol).score(Oracle(), Processes(), tmp_path / "samples.npz")
    metrics = ("miou", "overall_accuracy", "mean_f1", "kappa", "class_iou", "absent_classes")
    assert {key: result[key] for key in metrics} == {key: result["protocols"][protocol][key] for key in metrics}
    assert result["protocol"] == protocol
    assert result["confusion"] == result["confusions"][result["protocols"][protocol]["labels"]]
    assert "excluded" not in result


def test_the_counts_of_ranks_add_up(make_store, masks, tmp_path):
    evaluator = evaluator_of(make_store(masks))
    whole = evaluator.score(Oracle(), Processes(), tmp_path / "samples.npz")["confusions"]
    parts = [evaluator.score(Oracle(), Processes(rank, 2), tmp_path / "samples.npz")["confusions"] for rank in (0, 1)]
    for labels in ("full", "eroded"):
        assert np.array_equal(np.add(*(part[labels] for part in parts)), whole[labels])


def test_a_data_set_without_clutter_and_eroded_labels_has_one_protocol(make_store, masks, tmp_path):
    evaluator = evaluator_of(make_store(masks, eroded=False), clutter=None)
    result = evaluator.score(Oracle(), Processes(), tmp_path / "samples.npz")
    assert list(result["protocols"]) == ["all_classes"]
    assert list(result["confusions"]) == ["full"]


@pytest.mark.parametrize("protocol", ["all_classes", "all_classes_eroded"])
def test_labels_of_which_nothing_is_left_have_no_score_and_lose_no_result(make_store, tmp_path, capsys, protocol):
    store = make_store([(np.indices((16, 16)).sum(axis=0) % 2).astype(np.uint8)])
    result = evaluator_of(store, protocol).score(Oracle(), Processes(), tmp_path / "samples.npz")
    for name, found in result["protocols"].items():
        scores = [found[key] for key in ("miou", "overall_accuracy", "mean_f1", "kappa")]
        assert all(value is None for value in scores) == name.endswith("_eroded")
    assert (result["miou"] is None) == protocol.endswith("_eroded")
    said = capsys.readouterr().err
    assert said.count("has no score") == 3
    assert "all_classes_eroded has no score" in said
    json.dumps(result, allow_nan=False)


def test_an_unknown_protocol_is_refused_with_the_names(make_store, masks):
    with pytest.raises(InputError, match=r"dataset\.protocol=six.*'all_classes', 'clutter_as_error'.*_eroded"):
        evaluator_of(make_store(masks), "six")
    with pytest.raises(InputError, match=r"dataset\.protocol=all_classes_eroded"):
        evaluator_of(make_store(masks, eroded=False), "all_classes_eroded")


def test_a_clutter_class_that_is_not_there_is_refused(make_store, masks):
    with pytest.raises(InputError, match="'rubbish'"):
        evaluator_of(make_store(masks), clutter="rubbish")


@pytest.mark.parametrize(("label", "protocol"), [(IGNORE, "all_classes"), (2, "clutter_ignored")])
def test_scenes_without_a_pixel_that_counts_are_refused_before_any_training(make_store, label, protocol):
    store = make_store([np.full((16, 16), label, np.uint8)])
    with pytest.raises(InputError, match=f"evaluation.split=test: .*dataset.protocol={protocol}"):
        evaluator_of(store, protocol)


def test_clutter_alone_has_a_score_where_it_counts(make_store):
    evaluator_of(make_store([np.full((16, 16), 2, np.uint8)]), "clutter_as_error")


def test_a_wrong_protocol_is_refused_before_the_data_is_prepared(command, unprepared, tmp_path):
    code, _, error = command("finetune", *unprepared, "dataset.protocol=clutter_ignored")
    assert code == 2
    assert "dataset.protocol=clutter_ignored" in error
    assert "['all_classes']" in error
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(("unlabeled", "told"), [(1, False), (2, True)])
def test_too_few_labeled_scenes_for_splits_are_to_be_cut(make_store, masks, unlabeled, told):
    """However many there are without labels."""
    store = make_store(masks)
    scenes = [
        replace(each, split="unlabeled") if place < unlabeled else each
        for place, each in enumerate(store.manifest.scenes)
    ]
    few = Store(store.path, replace(store.manifest, scenes=tuple(scenes)))
    settings = replace(scored(), split="val")
    with pytest.raises(InputError, match="tiny has no such scenes") as said:
        Evaluator(few, settings, torch.device("cpu"), "fp32")
    assert (CUT_IT in str(said.value)) == told
