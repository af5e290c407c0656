"""What files of weights say of themselves: read as it was written, or refused with file and key."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_rs.encoder import Statistics
from ssl_rs.errors import InputError
from ssl_rs.run_directory import save_tensors
from ssl_rs.weights_metadata import WeightsMetadata, read_weights_metadata

WHOLE = {
    "backbone": "resnet18", "bands": '["red", "green"]', "mean": "[0.5, -0.25]", "std": "[0.1, 0.0]",
    "value_scale": "255.0", "statistics_source": "the training scenes of x",
}  # fmt: skip
NONSENSE = (
    "", "[1", "null", "{}", '"x"', "true", "[" * 5000, "[[0.5], [0.5]]", "[true, false]", "[null, null]", "9" * 5000
)  # fmt: skip
NO_TWO_NUMBERS = (
    "[0.5]", "[]", "[1, 2, 3]", '["0.5", "0.5"]', "[NaN, 1]", "[1, Infinity]", f"[1, {10**400}]", "0.5"
)  # fmt: skip
IN_ONE_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder, metadata):
    save_tensors(folder / "w.safetensors", {"a": torch.zeros(1)}, metadata)
    return folder / "w.safetensors"


def test_whole_metadata(tmp_path):
    statistics = Statistics((0.5, -0.25), (0.1, 0.0), "the training scenes of x")
    expected = WeightsMetadata("resnet18", ("red", "green"), 255.0, statistics)
    assert read_weights_metadata(written(tmp_path, WHOLE)) == expected
    lacking = {key: text for key, text in WHOLE.items() if key != "statistics_source"}
    path = written(tmp_path, {**lacking, "classes": '["a", "b"]'})
    found = read_weights_metadata(path)
    assert found.statistics.source == str(path)
    assert found.classes == ("a", "b")


@pytest.mark.parametrize("key", ["backbone", "bands", "mean", "std", "value_scale"])
def test_a_key_that_is_missing_is_named(tmp_path, key):
    path = written(tmp_path, {name: text for name, text in WHOLE.items() if name != key})
    with pytest.raises(InputError, match=f"does not tell its {key}") as caught:
        read_weights_metadata(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *itertools.product(("bands", "mean", "std", "value_scale", "classes"), NONSENSE),
        *itertools.product(("mean", "std"), NO_TWO_NUMBERS),
        ("std", "[0.1, -0.1]"),
        *itertools.product(["value_scale"], ("0", "-1.0", "NaN", "Infinity", '"255"', str(10**400))),
        *itertools.product(["bands"], ("[]", '["red", 1]', '"rg"', json.dumps(["x" * 201]))),
        ("classes", "[0]"),
        ("backbone", "x" * 201),
        ("statistics_source", "x" * 2001),
    ],
)
def test_odd_values_are_refused_with_file_and_key(tmp_path, key, text):
    path = written(tmp_path, {**WHOLE, key: text})
    with pytest.raises(InputError, match=f"its metadata has {key}=") as caught:
        read_weights_metadata(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@IN_ONE_FOLDER
@given(st.lists(st.tuples(st.text(max_size=20), NUMBERS, NUMBERS.map(abs)), min_size=1, max_size=5), st.floats(1e-300))
def test_what_was_written_is_read_back(tmp_path, bands, scale):
    names, mean, std = zip(*bands, strict=True)
    told = {"bands": names, "mean": mean, "std": std, "value_scale": scale}
    path = written(tmp_path, {**WHOLE, **{key: json.dumps(value) for key, value in told.items()}})
    if math.isinf(scale):
        with pytest.raises(InputError, match="value_scale"):
            read_weights_metadata(path)
        return
    found = read_weights_metadata(path)
    assert (found.bands, found.statistics.mean, found.statistics.std, found.value_scale) == (names, mean, std, scale)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=3), child, max_size=2),
    max_leaves=5,
)


@IN_ONE_FOLDER
@given(st.dictionaries(st.sampled_from([*WHOLE, "classes"]), JSON.map(json.dumps) | st.text(max_size=10), max_size=3))
def test_anything_is_read_with_the_types_it_promises_or_refused(tmp_path, drawn):
    path = written(tmp_path, {**WHOLE, **drawn})
    try:
        found = read_weights_metadata(path)
    except InputError as error:
        message = str(error)
        found = None
    if found is None:
        assert str(path) in message
        assert any(key in message for key in (*drawn, "mean", "std"))
        return
    assert found.bands
    assert all(type(name) is str for name in (found.backbone, *found.bands, *found.classes))
    for values in (found.statistics.mean, found.statistics.std):
        assert len(values) == len(found.bands)
        assert all(type(value) is float and math.isfinite(value) for value in values)
    assert 0 < found.value_scale < math.inf
    assert min(found.statistics.std) >= 0


STATISTICS = Statistics((0.5, 0.25), (0.1, 0.0), "the training scenes of x")


@pytest.mark.parametrize("more", [{}, {"classes": ("a", "b"), "dtype": "uint16"}])
def test_the_texts_of_metadata_make_them_again(tmp_path, more):
    metadata = WeightsMetadata("resnet18", ("red", "green"), 255.0, STATISTICS, **more)
    assert read_weights_metadata(written(tmp_path, metadata.texts())) == metadata


def test_data_of_other_bands_and_scales_are_refused_and_a_scale_that_nobody_knows_is_not():
    metadata = WeightsMetadata("resnet18", ("red", "green"), 255.0, STATISTICS)
    metadata.check_data("run=x", ["red", "green"], 255.0)
    metadata.check_scale("run=x", None)
    with pytest.raises(InputError, match="run=x was trained on the bands red, green, the data has green, red"):
        metadata.check_data("run=x", ("green", "red"), 255.0)
    with pytest.raises(InputError, match="run=x was trained on values divided by 255, this data is divided by 100"):
        metadata.check_data("run=x", ("red", "green"), 100.0)
