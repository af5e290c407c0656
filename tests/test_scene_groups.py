"""Scenes that lie together."""

import pytest

from ssl_rs.errors import InputError
from ssl_rs.scene_groups import grouping, members


def test_the_beginning_of_an_id_is_its_group():
    group = grouping(r"tile\d+", "dataset.scene_group")
    assert [group(name) for name in ("tile1_part2", "tile12_part2", "other", "the_tile1")] == [
        "tile1", "tile12", "other", "the_tile1",
    ]  # fmt: skip
    assert members(["tile1_b", "x", "tile1_a"], group) == {"tile1": ["tile1_b", "tile1_a"], "x": ["x"]}


def test_what_stands_in_parentheses_is_the_group():
    group = grouping(r".*_(w\d+)|(east)", "key")
    assert [group(name) for name in ("n10_w20", "n30_w20", "east_1", "n10")] == ["w20", "w20", "east", "n10"]


def test_what_finds_nothing_leaves_each_scene_alone():
    for pattern in ("", "(x)?", r"site(\d*)"):
        assert [grouping(pattern, "key")(name) for name in ("site_a", "site_b")] == ["site_a", "site_b"]


def test_without_a_pattern_each_scene_is_alone():
    assert grouping(None, "key")("tile1_part2") == "tile1_part2"


def test_what_is_no_regular_expression_is_told():
    with pytest.raises(InputError, match=r"scene_group=\(: expected a regular expression, e\.g\. .* \(missing \)"):
        grouping("(", "scene_group")
