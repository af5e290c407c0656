"""What is refused, and what is told, of the data that a finished run is scored on."""

from types import SimpleNamespace

import pytest

from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import SeenImages, write_seen
from ssl_rs.stages.data_checks import check_data, compare_with_training, refuse_other_splits
from ssl_rs.weights_metadata import WeightsMetadata

HASHES = tuple("abcdef")
"""Of the images of six scenes, s0 to s5."""


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


class Scenes:
    """A store of which all scenes are for testing."""

    manifest = SimpleNamespace(scenes=[SimpleNamespace(id=f"s{place}") for place in range(len(HASHES))])

    def scenes_of(self, split):
        return range(len(HASHES)) if split in ("test", "all") else ()

    def image_hash(self, index):
        return HASHES[index]

    def image_hashes(self, splits):
        return set(HASHES) if "test" in splits else set()


@pytest.mark.parametrize(
    ("labeled", "named"),
    [("c", r"s2 \(1 in all"), ("abf", r"s0, s1, s5 \(3 in all"), ("abcf", r"s0, s1, s2, \.\.\. \(4 in all")],
)
def test_images_of_which_the_run_had_labels_are_refused_and_some_are_named(run, labeled, named):
    write_seen(run, SeenImages(frozenset("abcdefg"), frozenset(labeled)))
    with pytest.raises(
        InputError, match=f"^Images whose labels this run has seen are among these, pixel for pixel: {named}"
    ):
        compare_with_training(run, Scenes(), "test")
    compare_with_training(run, Scenes(), "val")  # there is none


def test_images_that_were_seen_without_labels_are_told(run, capsys):
    write_seen(run, SeenImages(frozenset("aefg"), frozenset("g")))
    compare_with_training(run, Scenes(), "test")
    assert "Pretraining saw 3 of the 6 images, without labels" in capsys.readouterr().err


@pytest.mark.parametrize("unknown", [True, False])
def test_a_run_that_does_not_tell_of_which_images_it_had_labels_is_told(run, capsys, unknown):
    write_seen(run, SeenImages(frozenset("xyz"), frozenset("x"), unknown))
    compare_with_training(run, Scenes(), "test")
    assert ("does not say which images it had labels of" in capsys.readouterr().err) == unknown


@pytest.mark.parametrize(
    ("labeled", "trained", "now", "is_refused"),
    [
        ("ab", "site", None, True),
        ("abcdef", "site", None, True),
        ("ag", "site", None, False),  # other data
        ("", "site", None, False),  # it does not tell
        ("ab", None, None, False),
        ("ab", "site", "city", False),
    ],
)
def test_splits_are_those_of_the_training_where_its_images_moved(labeled, trained, now, is_refused):
    seen = SeenImages(frozenset(labeled), frozenset(labeled))
    if is_refused:
        with pytest.raises(InputError, match=r"whose splits were drawn by dataset\.scene_group=site\."):
            refuse_other_splits(trained, now, seen, Scenes())
    else:
        refuse_other_splits(trained, now, seen, Scenes())


@pytest.mark.parametrize(
    ("trained", "dtype", "scale", "refusal"),
    [
        ("uint16", "uint16", 1000.0, None),
        (None, "uint16", 1000.0, None),  # an earlier version does not tell it
        ("uint16", "int16", 1000.0, "values of type uint16, the data has int16"),
        ("uint16", "uint16", 1500.0, "divided by 1000, the data at dataset.root is divided by 1500"),
    ],
)
def test_values_must_be_those_of_the_training(run, trained, dtype, scale, refusal):
    metadata = WeightsMetadata("resnet18", ("gray",), 1000.0, Statistics((0.5,), (0.5,), "a test"), ("a",), trained)
    manifest = SimpleNamespace(dtype=dtype, value_scale=scale)
    if refusal is None:
        check_data(run, metadata, manifest)
    else:
        with pytest.raises(InputError, match=refusal):
            check_data(run, metadata, manifest)
