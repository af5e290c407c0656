"""Images that are smaller than the crops are told where they are most of what trains."""

import warnings
from types import SimpleNamespace

import pytest

from ssl_rs.data.small_images import warn_of_small_images


def manifest(*scenes):
    return SimpleNamespace(
        scenes=[SimpleNamespace(split=split, height=height, width=width) for split, height, width in scenes]
    )


@pytest.mark.parametrize(
    ("scenes", "crop", "said"),
    [
        ([("train", 300, 260)] * 3, 640, "3 of 3 images .*the smallest has 260 pixels.*crop_size=256 fits"),
        ([("train", 100, 500), ("unlabeled", 90, 90), ("train", 400, 400)], 128, "2 of 3 .* 90 pixels.*=96 fits"),
        ([("train", side, 99) for side in (33, 33, 64, 64)] + [("train", 40, 40)], 65, "5 of 5 .*=32 fits"),
        ([("train", 20, 20), ("train", 20, 20)], 64, "Join them to larger images"),
    ],
)
def test_most_images_smaller_than_the_crops_are_told(scenes, crop, said):
    with pytest.warns(UserWarning, match=said):
        warn_of_small_images(manifest(*scenes), crop, ("train", "unlabeled"))


@pytest.mark.parametrize(
    "scenes",
    [
        [("train", 128, 128)],
        [("train", 128, 500), ("train", 90, 90)],
        [("train", 128, 128), ("test", 90, 90), ("val", 90, 90)],
        [("train", 128, 128), ("unlabeled", 90, 90), ("unlabeled", 90, 90)],
    ],
)
def test_others_are_not(scenes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_small_images(manifest(*scenes), 128, ("train",))
