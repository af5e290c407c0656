"""What pretraining sees: bands with their colors, where data is, and test scenes only where that was asked for."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.scene_crops import Crops
from ssl_rs.data.store import Store
from ssl_rs.pretext.queue import KeyQueue
from ssl_rs.randomness import Rows
from ssl_rs.run_directory import RunDirectory
from ssl_rs.segmentation.augmentation import SegmentationAugmentation
from ssl_rs.stages import (
    finetuning,
    finetuning_plan,
    pretraining,
    pretraining_batches,
    pretraining_plan,
    pretraining_result,
)
from ssl_rs.training.cuda_graph import _tensors_and_shape
from ssl_rs.training.job import as_it_is
from ssl_rs.training.structure import map_tensors
from ssl_rs.views.base import all_in_two_parts
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.masked import MaskedMaker

TRANSDUCTIVE = "dataset.transductive=true"


def site(bands):
    store = SimpleNamespace(manifest=SimpleNamespace(bands=bands, value_scale=100.0, ignore_index=255))
    return SimpleNamespace(store=store, device=torch.device("cpu"), seed=0, rows=Rows(0, 2, 2))


def test_views_know_their_colors_and_where_data_is():
    plan = SimpleNamespace(site=site(("blue", "green", "red", "nir")), makers={"clean": CleanMaker("crop", 0, 0, 0)})
    images, valid = torch.full((2, 4, 8, 8), 50, dtype=torch.int32), torch.rand(2, 1, 8, 8) > 0.5
    view = pretraining_batches.views_of(plan, Crops(images, valid), 0, Rows(0, 2, 2))["clean"]
    assert view.rgb == (2, 1, 0)
    assert torch.equal(view.valid, valid)
    assert torch.equal(view.image, torch.where(valid, 0.5, 0.0).expand(2, 4, 8, 8))
    assert pretraining_batches.views_of(plan, Crops(images, None), 0, Rows(0, 2, 2))["clean"].valid is None


def plan_of(*overrides):
    return read_plan(pretraining, "pretrain", *overrides)


@pytest.mark.parametrize(
    "given", [[], ["views=[clean,masked]", "pretext=inpainting"], ["views=kornia", "pretext=contrastive"]]
)
def test_the_batch_of_a_step_is_the_views_of_its_crops(tiny, given):
    plan = plan_of(*tiny, *given)
    make_batch, complete = pretraining_batches.batch_making(plan)
    stored = pretraining_batches.scene_crops(plan, 0).batch(3, plan.site.rows)
    torch.manual_seed(0)
    batch = complete(make_batch(stored, 3))
    torch.manual_seed(0)
    views = pretraining_batches.views_of(plan, stored, 3, plan.site.rows)
    assert list(batch) == list(views) == list(plan.makers)
    assert all(torch.equal(batch[name].image, view.image) for name, view in views.items())
    assert (complete is as_it_is) == (not all_in_two_parts(plan.makers))


def labeled_batch(plan, stored, step):
    make_batch, complete = finetuning.batch_making(plan)
    return complete(make_batch(stored, step))


class Inverted(SegmentationAugmentation):
    def __call__(self, images, *rest):
        return super().__call__(1 - images, *rest)


@pytest.mark.parametrize("kind", [SegmentationAugmentation, Inverted])
def test_an_augmentation_of_ones_own_is_called_as_it_is(kind):
    augmentation = kind(0, 0, 0, (1.0, 1.0), ColorJitter())
    plan = SimpleNamespace(site=site(("red", "green", "blue")), augmentation=augmentation)
    stored = torch.full((2, 3, 8, 8), 25), torch.zeros(2, 8, 8, dtype=torch.int64)
    assert labeled_batch(plan, stored, 0).images.unique().tolist() == [0.75 if kind is Inverted else 0.25]
    assert (finetuning.batch_making(plan)[1] is as_it_is) == (kind is Inverted)


@pytest.mark.parametrize("kind", [SegmentationAugmentation, Inverted])
def test_labeled_crops_are_augmented_anew_at_each_step_and_for_each_seed(kind):
    augmentation = kind(0, 0, 0, (1.0, 1.0), ColorJitter(brightness=(0.5, 1.5)))
    stored = torch.full((2, 3, 8, 8), 25), torch.zeros(2, 8, 8, dtype=torch.int64)

    def drawn(step, seed):
        place = site(("red", "green", "blue"))
        place.seed = seed
        return labeled_batch(SimpleNamespace(site=place, augmentation=augmentation), stored, step).images

    assert torch.equal(drawn(1, 0), drawn(1, 0))
    assert len(torch.stack([drawn(1, 0), drawn(2, 0), drawn(1, 7)])[:, :, 0, 0, 0].unique()) == 6


class Own(CleanMaker):
    """A maker of another package than ours."""


@pytest.mark.parametrize(("cuda_graph", "splits"), [("auto", False), ("always", True), ("never", True)])
def test_a_recording_holds_makers_of_ones_own_only_where_that_is_asked_for(tiny, cuda_graph, splits):
    plan = plan_of(*tiny, f"trainer.cuda_graph={cuda_graph}")
    on_gpu = replace(plan, site=replace(plan.site, device=torch.device("cuda")))
    assert pretraining_batches.batch_making(on_gpu)[1] is not as_it_is
    own = replace(on_gpu, makers={**plan.makers, "own": Own("crop")})
    assert (pretraining_batches.batch_making(own)[1] is not as_it_is) == splits


def test_a_batch_that_is_held_and_overwritten_completes_as_the_other(tiny):
    plan = plan_of(*tiny)
    make_batch, complete = pretraining_batches.batch_making(plan)
    first, second = (make_batch(pretraining_batches.scene_crops(plan, 0).batch(n, plan.site.rows), n) for n in (0, 1))
    held = map_tensors(torch.Tensor.clone, first)
    tensors, shape = _tensors_and_shape(held)
    given, given_shape = _tensors_and_shape(second)
    assert shape == given_shape
    torch._foreach_copy_(tensors, given)
    expected = complete(second)
    assert all(torch.equal(view.image, expected[name].image) for name, view in complete(held).items())


def test_augmentation_of_labeled_crops_knows_the_colors():
    gray = SegmentationAugmentation(0, 0, 0, (1.0, 1.0), ColorJitter(grayscale=1.0))
    plan = SimpleNamespace(site=site(("nir", "blue", "green", "red")), augmentation=gray)
    images, masks = torch.randint(0, 100, (2, 4, 8, 8)), torch.zeros(2, 8, 8, dtype=torch.int64)
    batch = labeled_batch(plan, (images, masks), 0)
    torch.testing.assert_close(batch.images[:, 0], images[:, 0] / 100)
    luminance = (0.299 * images[:, 3] + 0.587 * images[:, 2] + 0.114 * images[:, 1]) / 100
    for band in (1, 2, 3):
        torch.testing.assert_close(batch.images[:, band], luminance, atol=1e-4, rtol=0)


def read_plan(stage, command, *overrides):
    return stage.read_plan(Settings(command, resolve(compose_config(command, overrides))))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("pretext.contrastive.weight=2", "pretext.contrastive.weight=2.0"),
        ("dataset.value_scale=255", "dataset.value_scale=255.0"),
        ("optimizer.weight_decay=0", "optimizer.weight_decay=0.0"),
        ("trainer.gradient_clip=1", "trainer.gradient_clip=1.0"),
        ("views.transformed.side=[0.5,1]", "views.transformed.side=[0.5,1.0]"),
    ],
)
def test_a_number_is_one_setting_however_it_is_written(tiny, one, same):
    plans = [read_plan(pretraining, "pretrain", *tiny, given) for given in (one, same, "trainer.max_steps=9")]
    assert plans[0].run.hash == plans[1].run.hash != plans[2].run.hash
    assert plans[0].site.store.path == plans[1].site.store.path


def test_runs_of_data_with_nodata_are_other_runs_than_before(tiny, monkeypatch):
    """Their crops lie otherwise; data without nodata keeps its hashes."""
    plan = read_plan(pretraining, "pretrain", *tiny)
    assert pretraining_plan._nodata(plan.site, list(plan.makers.values())) == {}
    manifest = plan.site.store.manifest
    part = [replace(scene, valid_share=0.9) for scene in manifest.scenes]
    partial = SimpleNamespace(store=SimpleNamespace(manifest=replace(manifest, scenes=part)))
    told = pretraining_plan._nodata(partial, list(plan.makers.values()))
    assert told.keys() == {"nodata", "transformed"}
    both = read_plan(pretraining, "pretrain", *tiny, "pretext=[simclr]").makers.values()
    assert pretraining_plan._nodata(partial, list(both)).keys() == {"nodata", "parts"}
    monkeypatch.setattr(pretraining_plan, "_nodata", lambda site, makers: told)
    with_nodata = read_plan(pretraining, "pretrain", *tiny)
    assert with_nodata.run.hash != plan.run.hash
    assert with_nodata.settings_hash != plan.settings_hash


def test_runs_of_images_smaller_than_two_crops_are_other_runs_than_before(tiny, monkeypatch):
    """They go through the images in passes; larger scenes keep their hashes."""
    plan = read_plan(pretraining, "pretrain", *tiny)
    extent = max(max(scene.height, scene.width) for scene in plan.site.store.manifest.scenes)
    for crop_size, told in ((extent // 2, False), (extent // 2 + 1, True)):
        site = SimpleNamespace(
            store=plan.site.store, dataset=SimpleNamespace(crop_size=crop_size, transductive=False)
        )  # fmt: skip
        assert bool(pretraining_plan._passes(site)) == told
    runs = []
    for found in ({}, {"crops": "in passes"}):
        monkeypatch.setattr(pretraining_plan, "_passes", lambda site, found=found: found)
        runs.append(read_plan(pretraining, "pretrain", *tiny))
    assert runs[0].run.hash != runs[1].run.hash
    assert runs[0].settings_hash != runs[1].settings_hash


def check_told(tell, plan, said, **statistics):
    """Check what is told of a pretraining whose images have other statistics; None: nothing."""
    other = replace(plan, site=SimpleNamespace(store=SimpleNamespace(manifest=SimpleNamespace(**statistics))))
    with pytest.warns(UserWarning, match=said) if said else warnings.catch_warnings():
        warnings.simplefilter("error" if said is None else "always")
        tell(other)


@pytest.mark.parametrize(("task", "std", "said"), [
    ("inpainting", 0.02, r"vary by 0\.02 .* pretext\.inpainting\.weight=1e\+02 makes up for it"),
    ("inpainting", 0.2, None),
    ("contrastive", 0.02, None),
])  # fmt: skip
def test_images_that_use_little_of_their_scale_are_told_where_inpainting_would_hardly_count(tiny, task, std, said):
    check_told(
        pretraining_plan.tell_of_small_values,
        read_plan(pretraining, "pretrain", *tiny, f"pretext=[{task}]"),
        said,
        std=(std, std),
    )


@pytest.mark.parametrize(("method", "more", "mean", "said"), [
    ("byol", (), 0.09, r"by up to 0\.4, .* mean of the images is 0\.09.*"
                   r"views\.byol_first\.color\.brightness_offset=\[-0\.08,0\.08\] views\.byol_second\.color\."),
    ("byol", ("views.byol_first.color.brightness_offset=[-0.6,0.1]",), 0.3, r"by up to 0\.6, .*"
                   r"brightness_offset=\[-0\.4,0\.067\]$"),
    ("byol", (), 0.3, None),
    ("simclr", (), 0.09, None),
])  # fmt: skip
def test_images_that_views_would_turn_black_are_told(tiny, method, more, mean, said):
    plan = read_plan(pretraining, "pretrain", *tiny, f"pretext=[{method}]", *more)
    check_told(pretraining_plan.tell_of_dark_views, plan, said, mean=(mean, mean))


def test_the_batch_of_all_processes_is_part_of_a_run(tiny, monkeypatch):
    """As many images a process on two processes as on one are other steps."""
    alone = read_plan(pretraining, "pretrain", *tiny)
    monkeypatch.setattr(Rows, "of_rank", lambda rank, processes, batch: Rows(0, batch, 2 * batch))
    both = read_plan(pretraining, "pretrain", *tiny)
    assert alone.run.hash != both.run.hash
    assert alone.run.directory.path != both.run.directory.path


def test_settings_of_a_view_that_no_task_reads_are_told(tiny):
    given = (*tiny, "pretext=[transform_prediction]", "views.corrupted.num_blocks=3")
    settings = Settings("pretrain", resolve(compose_config("pretrain", given)), given)
    with pytest.warns(
        UserWarning, match=r"views\.corrupted\.num_blocks=3 has no effect: no task of pretext=\[\.\.\.\]"
    ):
        pretraining_plan.draft(settings)
    read = ("views.corrupted.num_blocks=3",)  # by inpainting
    settings = Settings("pretrain", resolve(compose_config("pretrain", (*tiny, *read))), read)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretraining_plan.draft(settings)


def test_all_splits_are_drawn_from_only_where_that_was_asked_for(tiny, monkeypatch):
    read = set()
    image = Store.image
    monkeypatch.setattr(
        Store, "image", lambda store, index: (read.add(store.manifest.scenes[index].split), image(store, index))[1]
    )
    for overrides, splits in (((), ("train",)), ((TRANSDUCTIVE,), ("train", "val", "test"))):
        plan = read_plan(pretraining, "pretrain", *tiny, *overrides)
        assert plan.splits == splits
        read.clear()
        pretraining_batches.scene_crops(plan, 0).batch(0, Rows(0, 100, 100))
        assert read == set(splits)


def test_splits_without_scenes_are_not_named(tiny, monkeypatch):
    plan = read_plan(pretraining, "pretrain", *tiny, TRANSDUCTIVE)
    monkeypatch.setattr(Store, "scenes_of", lambda store, split: () if split == "val" else (0,))
    assert plan.splits == ("train", "test", "unlabeled")


def test_unlabeled_images_are_seen_by_pretraining_and_are_no_labels(tiny, tmp_path):
    """They share a folder with the labeled ones; to fine-tuning they are nothing but statistics of bands."""
    given = Path(json.loads(tiny[1].removeprefix("dataset.root=")))
    root = tmp_path / "mine"
    shutil.copytree(given, root)
    (root / "images" / "unlabeled").mkdir()
    pixels = np.random.default_rng(0).integers(1, 256, (3, 96, 96, 3)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(root / "images" / "unlabeled" / f"more{index}.png")
    mine = (tiny[0], f"dataset.root={root}", *tiny[2:], "dataset.tile_size=32")
    seen = []
    plan = read_plan(pretraining, "pretrain", *mine)
    store = plan.site.store
    source = pretraining_batches.scene_crops(plan, 0)
    image = store.image
    store.image = lambda index: (seen.append(store.manifest.scenes[index].split), image(index))[1]
    source.batch(0, Rows(0, 200, 200))
    assert plan.splits == ("train", "unlabeled")
    assert set(seen) == {"train", "unlabeled"}
    subsets = [read_plan(finetuning_plan, "finetune", *each).subset for each in (mine, (*tiny, mine[-1]))]
    assert subsets[0] == subsets[1]
    assert len(subsets[0].units) == 4 * 9


def test_the_hash_of_pretraining_counts_it_and_that_of_fine_tuning_does_not(tiny):
    hashes = {
        command: [read_plan(stage, command, *tiny, *overrides) for overrides in ((), (TRANSDUCTIVE,))]
        for command, stage in (("pretrain", pretraining), ("finetune", finetuning_plan))
    }
    before, after = (plan.run.hash for plan in hashes["pretrain"])
    assert before != after
    before, after = hashes["finetune"]
    assert before.run.hash == after.run.hash
    assert before.settings_hash == after.settings_hash
    assert before.run.directory.path == after.run.directory.path


@pytest.mark.slow
def test_results_say_that_test_scenes_were_seen(command, tiny):
    short = (*tiny, "trainer.max_steps=1", "dataset.tile_size=32", "label_fraction=50pct")
    code, out, err = command("pretrain", *tiny, "trainer.max_steps=1", TRANSDUCTIVE)
    assert code == 0, err
    run = RunDirectory(Path(out.strip().splitlines()[-1]))
    result = run.read_result()
    assert result["transductive"] is True
    assert result["splits"] == ["train", "val", "test"]
    code, out, err = command("finetune", *short, "initialization=pretrained")
    assert code == 0, err
    transferred = json.loads((Path(out.strip().splitlines()[-1]) / "result.json").read_text())
    assert transferred["label"] == "inpainting + transform_prediction + contrastive (transductive)"
    assert transferred["provenance"]["pretraining"]["transductive"] is True
    assert transferred["provenance"]["pretraining"]["splits"] == ["train", "val", "test"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*saw 2 of the 2 validation and test images")
def test_test_images_that_came_under_another_name_are_noticed(command, tiny, tmp_path):
    """A folder may hold the images that another data set tests on; a later pretraining does not hide it."""
    short = (*tiny, "trainer.max_steps=1")

    def run_of(name, *arguments):
        code, out, err = command(name, *arguments)
        assert code == 0, err
        return Path(out.strip().splitlines()[-1])

    other = tmp_path / "other"
    shutil.copytree(json.loads(tiny[1].removeprefix("dataset.root=")), other)
    for path in [*other.glob("*/val/*"), *other.glob("*/test/*")]:
        path.rename(path.parents[1] / "train" / path.name)
    first = run_of("pretrain", *short, "dataset.name=other", f"dataset.root={other}")
    clean = run_of("pretrain", *short)
    later = run_of("pretrain", *short, "initialization=pretrained", f"initialization.run={first}")
    for start, seen, is_new in ((clean, False, False), (first, True, True), (later, True, False)):
        given = ("dataset.tile_size=32", "label_fraction=50pct", "initialization=pretrained")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run = run_of("finetune", *short, *given, f"initialization.run={start}")
        result = json.loads((run / "result.json").read_text())
        assert ("transductive" in result["label"]) == seen
        assert any("saw 2 of the 2 validation and test images" in str(each.message) for each in told) == is_new


def test_pixels_without_data_stay_black_when_labeled_crops_are_augmented():
    jitter = SegmentationAugmentation(0, 0, 0, (1.0, 1.0), ColorJitter(contrast=(0.5, 0.5)))
    plan = SimpleNamespace(site=site(("red", "green", "blue")), augmentation=jitter)
    valid = torch.rand(2, 1, 8, 8) > 0.5
    images = torch.randint(1, 100, (2, 3, 8, 8)) * valid
    batch = labeled_batch(plan, (images, torch.zeros(2, 8, 8, dtype=torch.int64), valid), 0)
    assert torch.equal((batch.images > 0).any(dim=1, keepdim=True), valid)


class Called(SegmentationAugmentation):
    """One of another package than ours, which is called as it is."""

    def __call__(self, *given):
        return super().__call__(*given)


def test_an_augmentation_of_ones_own_knows_the_colors_and_where_data_is():
    gray = Called(0, 0, 0, (1.0, 1.0), ColorJitter(grayscale=1.0, contrast=(0.5, 0.5)))
    plan = SimpleNamespace(site=site(("blue", "green", "red", "nir")), augmentation=gray)
    valid = torch.arange(8).expand(2, 1, 8, 8) > 3
    images = torch.tensor([10, 20, 30, 40]).view(1, 4, 1, 1) * valid
    found = labeled_batch(plan, (images, torch.zeros(2, 8, 8, dtype=torch.int64), valid), 0).images
    luma = 0.114 * 0.1 + 0.587 * 0.2 + 0.299 * 0.3
    expected = torch.tensor([luma, luma, luma, 0.4]).view(1, 4, 1, 1) * valid
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_labeled_crops_are_those_that_the_settings_say(tiny):
    plan = read_plan(finetuning_plan, "finetune", *tiny, "dataset.tile_shift=0.4", "seed=3", "label_fraction=50pct")
    crops = finetuning._crops(plan)
    assert (crops.crop_size, crops.tile_shift, crops.seed, crops.subset) == (32, 0.4, 3, plan.subset)
    assert crops.store is plan.site.store


def test_other_seeds_and_steps_augment_labeled_crops_otherwise():
    jitter = SegmentationAugmentation(0, 0, 0, (1.0, 1.0), ColorJitter(brightness=(0.5, 1.0)))
    stored = torch.full((2, 3, 8, 8), 50), torch.zeros(2, 8, 8, dtype=torch.int64)

    def augmented(seed, step):
        own = SimpleNamespace(**{**vars(site(("red", "green", "blue"))), "seed": seed})
        return labeled_batch(SimpleNamespace(site=own, augmentation=jitter), stored, step).images

    first = augmented(0, 0)
    assert torch.equal(first, augmented(0, 0))
    assert not torch.equal(first, augmented(1, 0))
    assert not torch.equal(first, augmented(0, 1))


def test_other_seeds_and_steps_give_other_views():
    crops = Crops(torch.randint(0, 100, (2, 3, 8, 8), dtype=torch.int32), None)

    def masked(seed, step):
        own = SimpleNamespace(**{**vars(site(("red", "green", "blue"))), "seed": seed})
        plan = SimpleNamespace(site=own, makers={"masked": MaskedMaker("crop", 4, 0.5)})
        return pretraining_batches.views_of(plan, crops, step, Rows(0, 2, 2))["masked"].weight

    first = masked(0, 0)
    assert torch.equal(first, masked(0, 0))
    assert not torch.equal(first, masked(1, 0))
    assert not torch.equal(first, masked(0, 1))


class Collapsed(nn.Module):
    """Says the same wherever there is data, and in which mode it was asked."""

    def forward(self, images):
        self.asked = self.training
        bright = (F.avg_pool2d(images, 8).mean(dim=1, keepdim=True) > 0).float()
        return [images, torch.cat([bright, 1 - bright, bright, 2 * bright], dim=1)]


def probed(monkeypatch):
    """Measure the spread of its features of crops with and without data."""
    valid = torch.ones(40, 1, 32, 32, dtype=torch.bool)
    for row in range(40):
        valid[row, :, : 8 * (row % 3)] = False
    crops = Crops(torch.randint(1, 100, (40, 3, 32, 32)) * valid, valid)
    monkeypatch.setattr(pretraining_result, "SceneCrops", lambda *_: SimpleNamespace(batch=lambda *_: crops))
    network = nn.Module()
    network.encoder, network.normalization = Collapsed(), nn.Identity()
    plan = SimpleNamespace(site=site(("red", "green", "blue")), splits=("train",), image_size=32)
    return pretraining_result._probe_collapse(plan, network.train()), network


def test_features_without_data_hide_no_collapse_at_the_end(monkeypatch):
    found, _ = probed(monkeypatch)
    assert found["feature_std"] < 1e-6
    assert found["dimensions"] == 4


def test_looking_for_a_collapse_moves_no_statistics_of_the_encoder(monkeypatch):
    assert probed(monkeypatch)[1].encoder.asked is False  # its weights are saved after it


def test_other_seeds_start_pretraining_from_other_weights(tiny):
    given = (*tiny, "pretext=[contrastive]")
    plans = [read_plan(pretraining, "pretrain", *given, f"seed={seed}") for seed in (0, 1)]
    first, again, other = (pretraining.initial_network(plan)[0].state_dict() for plan in (plans[0], *plans))
    for name in ("encoder.features.0.0.weight", "tasks.contrastive.project.0.weight"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


class Placed(BaseException):
    """Ends a fine-tuning before its first step."""


def test_other_seeds_start_fine_tuning_from_other_weights(tiny, monkeypatch):
    seen = []

    def place(network, *_):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        raise Placed

    monkeypatch.setattr(finetuning, "place_network", place)
    for seed in (0, 1):
        with pytest.raises(Placed):
            finetuning.finetune(Settings("finetune", resolve(compose_config("finetune", [*tiny, f"seed={seed}"]))))
    for name in ("model.encoder.features.0.0.weight", "model.segmentation_head.0.weight"):
        assert not torch.equal(seen[0][name], seen[1][name])


def test_fine_tuning_tells_of_images_that_are_smaller_than_its_crops(tiny, monkeypatch):
    def train(*_, **__):
        raise Placed

    monkeypatch.setattr(finetuning, "train_network", train)
    given = [*tiny, "dataset.crop_size=128", "run_dir=small"]
    with pytest.warns(UserWarning, match="4 of 4 images to train on are smaller than"), pytest.raises(Placed):
        finetuning.finetune(Settings("finetune", resolve(compose_config("finetune", given))))


def test_a_queue_longer_than_the_images_have_crops_is_told(tiny):
    """Six images of 96 x 96 pixels, of which two hold out: nine crops of 32 in each of the others."""
    plan = read_plan(pretraining, "pretrain", *tiny, "pretext=[moco_v2]")
    scenes = [plan.site.store.manifest.scenes[index] for index in plan.site.store.scenes_of("train")]
    count = sum((scene.height // 32) * (scene.width // 32) for scene in scenes)
    for keys, told in ((count, False), (count + 1, True)):
        tasks = nn.ModuleDict({"moco_v2": nn.Sequential(KeyQueue(keys, 4, "queue"))})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pretraining_plan.tell_of_own_keys(plan, tasks)
        assert bool(caught) == told
    assert f"holds {count + 1} keys, and the images have about {count} crops" in str(caught[0].message)
    assert f"pretext.moco_v2.task.queue={count // 2}" in str(caught[0].message)
