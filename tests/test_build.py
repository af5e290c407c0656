"""build() admits what an allow-list names, and only arguments that the target has, of the types it says."""

import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_rs.build import build, check_call, explained
from ssl_rs.config import build as build_composed
from ssl_rs.config import compose_config, resolve
from ssl_rs.errors import InputError
from ssl_rs.plain_types import describe, fits
from ssl_rs.training.schedule import Cosine

OWN_PACKAGE = '''
from collections.abc import Sequence
from os import system
from ssl_rs.errors import InputError
from typing import Any

import torch


class Part:
    def __init__(self, size: int = 1) -> None:
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        if size == 13:
            raise InputError("size: not 13")
        if size == 14:
            torch.nn.Linear(1, self)
        self.size = size


class Whole:
    """Takes parts."""

    def __init__(self, parts: Sequence[Part], first: Part | None = None, note: Any = None) -> None:
        self.parts, self.first, self.note = parts, first, note


class Chain:
    def __init__(self, *links: Any, note: str = "") -> None:
        self.links, self.note = links, note


class Headed:
    def __init__(self, head: int, *links: Any) -> None:
        self.head, self.links = head, links


def flexible(known: int, **others: int) -> int:
    return known


def unannotated(anything):
    return anything
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's own."""
    folder = tmp_path / "my_parts"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text(textwrap.dedent(OWN_PACKAGE))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_parts.parts"
    for name in [name for name in sys.modules if name.startswith("my_parts")]:
        del sys.modules[name]


def cosine(**arguments: Any) -> dict[str, Any]:
    return {"_target_": "ssl_rs.training.schedule.Cosine", **arguments}


def refused(node: Any, *said: str, trusted: Sequence[str] = ()) -> None:
    with pytest.raises(InputError, match=".*".join(map(re.escape, ("here", *said)))):
        build(node, "here", trusted)


def test_a_node_becomes_its_object():
    assert build(cosine(warmup=0.1, final=0.5), "schedule") == Cosine(0.1, 0.5)


def test_a_node_that_hydra_composed_is_built_like_plain_data():
    composed = compose_config("finetune", ["augmentation=default"])
    plain = resolve(composed)["augmentation"]
    assert build_composed(composed.augmentation) == build_composed(plain) == build(plain, "augmentation")
    views = compose_config("pretrain", ["views=kornia"]).views
    assert len(build_composed(views.transformed).augmentation) == 2
    assert build_composed({"_target_": "ssl_rs.training.schedule.Cosine", "warmup": 0.1}) == Cosine(0.1)


def test_a_partial_is_left_to_the_entry_point():
    made = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, "optimizer")
    assert isinstance(made, partial)
    assert made([torch.nn.Parameter(torch.ones(1))]).param_groups[0]["lr"] == 0.5
    assert build(cosine(_partial_=False), "schedule") == Cosine()


@pytest.mark.parametrize("node", [None, 3, "ssl_rs.encoder.Backbone", [], {}, {"name": "resnet18"}])
def test_what_is_no_node_is_refused(node):
    refused(node, "expected a node with _target_")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.optimism.Adam",
        "ssl_rsx.Backbone",
        "ssl_rs.run_directory.sha256_of.__globals__",  # no module
        "ssl_rs.run_directory.save",  # of safetensors
        "ssl_rs.run_directory.dataclass",
        "ssl_rs.run_directory.Path",
        "ssl_rs.run_directory.json",  # a module
        "ssl_rs.run_directory.TIMING_KEYS",  # no callable
        "ssl_rs.training.state.torch",
        "torch.optim.adam.Tensor",
        "ssl_rs.run_directory.os.system",
        "ssl_rs.nothing.Here",
        "ssl_rs.encoder.Nothing",
        "ssl_rs",
        "",
    ],
)
def test_targets_outside_the_allow_list_are_refused(target):
    refused({"_target_": target, "command": "touch attacked"}, f"_target_={target}")


def test_a_foreign_function_is_refused_even_under_a_trusted_name(own):
    refused({"_target_": f"{own}.system", "command": "true"}, "is not admitted", trusted=["my_parts"])


def test_a_package_of_the_users_own_must_be_trusted(own):
    node = {"_target_": f"{own}.Part", "size": 4}
    refused(node, "is not admitted", "trusted_packages=[my_parts]")
    assert "my_parts" not in sys.modules  # not even imported
    assert build(node, "here", ["my_parts"]).size == 4


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import nothing_of_that_name", ModuleNotFoundError, "nothing_of_that_name"),
        ("from my_parts.nowhere import Part", ModuleNotFoundError, "my_parts.nowhere"),
        ("from my_parts import nowhere", ImportError, "nowhere"),
        ("import math\n\nmath.float", AttributeError, "float"),
        ("int('abc')", ValueError, "abc"),
        ("raise ModuleNotFoundError('gone')", ModuleNotFoundError, "gone"),
    ],
)
def test_what_an_own_module_raises_while_it_is_imported_keeps_its_traceback(own, tmp_path, code, kind, said):
    (tmp_path / "my_parts/broken.py").write_text(f"{code}\n\n\nclass Part:\n    pass\n")
    with pytest.raises(kind, match=said) as raised:
        build({"_target_": "my_parts.broken.Part"}, "here", ["my_parts"])
    assert tmp_path / "my_parts/broken.py" in [entry.path for entry in raised.traceback]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("my_parts.nowhere.Part", "No module named 'my_parts.nowhere'."),
        ("my_parts.parts.Part.Inner", "No module named 'my_parts.parts.Part'"),
        ("my_parts.parts.Nothing", "module 'my_parts.parts' has no attribute 'Nothing'."),
        ("my_away.parts.Part", "No module named 'my_away'. Start the command in the folder that holds my_away, or"),
        ("my_parts", "expected the whole name of a class, package.module.Class."),
    ],
)
def test_a_module_or_a_name_that_is_not_there_cannot_be_found(own, target, said):
    refused({"_target_": target}, f"_target_={target} cannot be found: ", said, trusted=["my_parts", "my_away"])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Part", "Write the whole name of a class: my_parts.module.Class."),
        (".parts.Part", "Write the whole name of a class: my_parts.module.Class."),
        ("my_parts/parts.py", "Write the whole name of a class: my_parts.module.Class."),
        ("parts.Part", "There is no package parts: begin the name with its package, as in my_parts.parts.Part, or"),
        ("torch.nn.Linear", "Add trusted_packages=[my_parts,torch] to the command line if you trust that package."),
        ("my_parts.parts.Sequence", "It is defined in collections.abc. Name a class of your own."),
        ("my_parts.parts.torch", "It is a module."),
        ("ssl_rs.encoder.check_name", "It is a function."),
        ("my_parts.parts.Prat", "has no attribute 'Prat'. Did you mean 'Part'?"),
    ],
)
def test_what_is_told_of_a_target_that_is_not_admitted_leads_on(own, target, said):
    refused({"_target_": target}, f"_target_={target} ", said, trusted=["my_parts"])


def test_nodes_in_nodes_and_lists_of_nodes_are_built(own):
    part = {"_target_": f"{own}.Part"}
    node = {"_target_": f"{own}.Whole", "parts": [{**part, "size": 2}, {**part, "size": 3}], "first": part}
    whole = build(node, "here", ["my_parts"])
    assert [one.size for one in whole.parts] == [2, 3]
    assert whole.first.size == 1
    refused({**node, "parts": [part, {**part, "size": "x"}]}, ".parts[1].size must be a whole", trusted=["my_parts"])
    refused({**node, "first": {"_target_": "os.system"}}, ".first._target_=os.system", trusted=["my_parts"])


def test_a_plain_value_is_no_component(own):
    node = {"_target_": f"{own}.Whole", "parts": []}
    refused({**node, "first": 3}, ".first must be Part or null, got 3", trusted=["my_parts"])
    refused({**node, "parts": [3]}, ".parts must be a list [Part]", trusted=["my_parts"])
    assert build({**node, "note": 3}, "here", ["my_parts"]).note == 3


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (cosine(warmpu=0.1), ".warmpu: Cosine has no such argument. Did you mean 'warmup'?"),
        (cosine(zzz=0.1), ".zzz: Cosine has no such argument. Known: final, warmup."),
        ({"_target_": "ssl_rs.training.schedule.Constant", "a": 1}, ".a: Constant has no such argument. Nothing"),
        ({"_target_": "torch.optim.Adam", "_partial_": True, "weight_decy": 0.1}, "Did you mean 'weight_decay'?"),
        ({"_target_": "torch.optim.Adam", "_partial_": True, "lr": "fast"}, ".lr must be a number"),
        (cosine(warmup="a lot"), ".warmup must be a number, got 'a lot'"),
        (cosine(warmup=True), ".warmup must be a number, got True"),
        ({"_target_": "ssl_rs.encoder.Backbone", "name": 18}, ".name must be text, got 18"),
        (
            {"_target_": "ssl_rs.encoder.Backbone"},
            " lacks arguments that Backbone needs: name. Its YAML file must name them",
        ),
        ({"_target_": "ssl_rs.views.fused.ColorJitter", "hue": [0.1]}, ".hue must be a list [a number, a number]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(node, said):
    refused(node, said)


def test_arguments_of_a_catch_all_are_not_admitted(own):
    node = {"_target_": f"{own}.flexible", "known": 1}
    assert build(node, "here", ["my_parts"]) == 1
    for name in ("unknown", "others"):
        refused({**node, name: 2}, f".{name}: flexible has no such argument.", trusted=["my_parts"])


def test_arguments_without_annotation_are_left_to_the_target(own):
    assert build({"_target_": f"{own}.unannotated", "anything": {"a": [1]}}, "here", ["my_parts"]) == {"a": [1]}


def test_arguments_without_a_name_are_a_list_of_their_own(own):
    node = {"_target_": f"{own}.Chain", "_args_": [{"_target_": f"{own}.Part", "size": 2}, 3], "note": "x"}
    built = build(node, "here", [own.partition(".")[0]])
    assert ([built.links[0].size, built.links[1]], built.note) == ([2, 3], "x")
    trusted = [own.partition(".")[0]]
    assert build({**node, "_partial_": True}, "here", trusted)().links[1] == 3
    refused({"_target_": f"{own}.Chain", "_args_": 3}, "._args_: expected a list", trusted=trusted)
    refused({"_target_": f"{own}.Chain", "links": [3]}, ".links: Chain has no such argument", trusted=trusted)
    refused({"_target_": f"{own}.Headed", "_args_": [1, 2]}, "._args_: Headed has no such argument", trusted=trusted)
    refused({"_target_": f"{own}.Part", "_args_": [3]}, "._args_: Part has no such argument", trusted=trusted)


def test_what_a_component_says_of_its_arguments_names_the_key(own):
    part = {"_target_": f"{own}.Part"}
    refused({**part, "size": -1}, ".size=-1: size must not be negative, got -1", trusted=["my_parts"])
    with pytest.raises(InputError, match=r"^size: not 13$"):  # it knows best
        build({**part, "size": 13}, "here", ["my_parts"])


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("size", "said", "line"), [(-1, "got -1", "raise ValueError("), (14, "Part", "Linear(")])
def test_what_an_own_component_raises_names_its_line(own, tmp_path, size, said, line, later):
    path = tmp_path / "my_parts/parts.py"
    number = next(index for index, text in enumerate(path.read_text().splitlines(), 1) if line in text)
    node = {"_target_": f"{own}.Part", "size": size, "_partial_": later}

    def made():
        built = build(node, "here", ["my_parts"])
        with explained("here"):
            built()

    with pytest.raises(InputError, match=rf"^here.*{said}.* \({re.escape(str(path))}:{number}\)$"):
        made()


def test_what_a_component_of_a_library_raises_names_no_line():
    with pytest.raises(InputError, match=r"^here\.lr=-1: Invalid learning rate: -1$"), explained("here", {"lr": -1}):
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=-1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": -1.0}, "optimizer.lr=-1.0: Invalid learning rate: -1.0"),
        ({"lr": -1}, "optimizer.lr=-1: Invalid learning rate: -1"),
        ({"betas": [1.0, 0.9]}, "optimizer.betas=[1.0, 0.9]: Invalid beta parameter at index 0: 1.0"),
        ({"betas": [1.0, 0.9], "weight_decay": 1.0}, "optimizer: Invalid beta parameter at index 0: 1.0"),
    ],
)
def test_the_one_setting_whose_value_another_package_names_is_told(settings, said):
    made_later = build({"_target_": "torch.optim.AdamW", "_partial_": True, **settings}, "optimizer")
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"), explained("optimizer", made_later.keywords):
        made_later([torch.nn.Parameter(torch.zeros(1))])


class Shape(Protocol):
    """Can be asked at type checking only."""

    side: int


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
ANY_VALUE = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, [0, -3], [True, 1.0, "1", None, [1]], "a whole number"),
        (float, [0.5, 3], [False, "0.5", None], "a number"),
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str, ["", "a"], [1, None, ["a"]], "text"),
        (type(None), [None], [0, "", False], "null"),
        (int | None, [None, 3], ["x", 1.5, True], "a whole number or null"),
        (float | str, [1, "a"], [None, True, []], "a number or text"),
        (Literal["val", "test"], ["val"], ["train", None, 0, ["val"]], "one of val, test"),
        (Literal[1, 2], [1, 2], [True, 3, "1"], "one of 1, 2"),
        (tuple[float, float], [[1, 0.5], (1, 2)], [[1], [1, 2, 3], 1, [1, "a"], "ab"], "a list [a number, a number]"),
        (tuple[int, ...], [[], [1], [1, 2]], [["a"], 1, [1.5]], "a list [a whole number, ...]"),
        (Sequence[str], [[], ["a", "b"]], ["ab", [1], {"a": 1}, None], "a list [text]"),
        (list[tuple[int, int]], [[[1, 2]]], [[1, 2], [[1, 2, 3]]], "a list [a list [a whole number, a whole number]]"),
        (Path, [Path()], ["path", 3, None], "Path"),
        (Shape, [], [3, "x", None], "Shape"),
        (Any, [3, None, "x", [1]], [], "Any"),
        (Callable[..., int], [3, len], [], "Callable"),
    ],
)
def test_plain_types(hint, good, bad, words):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []
    assert describe(hint) == words


@given(ANY_VALUE)
def test_every_value_fits_anything(value):
    assert fits(value, Any)
    assert fits(value, object)


@given(ANY_VALUE)
def test_plain_types_are_those_of_python(value):
    kinds = {int: int, float: (int, float), bool: bool, str: str, type(None): type(None)}
    for hint, kind in kinds.items():
        truth_value = isinstance(value, bool) and hint is not bool
        assert fits(value, hint) == (isinstance(value, kind) and not truth_value)


@given(ANY_VALUE)
def test_a_union_fits_what_one_of_its_parts_fits(value):
    hints = (int, str, tuple[float, float], Sequence[bool])
    assert fits(value, int | str | tuple[float, float] | Sequence[bool]) == any(fits(value, one) for one in hints)
    assert fits(value, float | None) == (value is None or fits(value, float))


@given(st.lists(PLAIN, max_size=4))
def test_a_list_fits_if_every_item_does(values):
    for hint in (int, float, str, int | None):
        every = all(fits(value, hint) for value in values)
        assert (
            fits(values, Sequence[hint]) == fits(tuple(values), list[hint]) == fits(values, tuple[hint, ...]) == every
        )
        assert fits(values, tuple[hint, hint]) == (every and len(values) == 2)


@given(st.lists(st.one_of(st.text(), st.integers()), min_size=1, max_size=4), ANY_VALUE)
def test_a_literal_fits_its_own_values_alone(choices, value):
    hint = Literal[tuple(choices)]
    assert all(fits(choice, hint) for choice in choices)
    if not isinstance(value, bool):
        assert fits(value, hint) == (value in choices)


@pytest.mark.parametrize("part", [lambda step: 1.0, partial(Cosine, warmup=0.1), None])
def test_a_part_that_is_called_with_other_arguments_is_refused(part):
    with pytest.raises(InputError, match=r"^schedule: \w+ cannot be called as schedule\(step, max_steps\): "):
        check_call(part, "schedule", ("step", "max_steps"))
    check_call(Cosine(), "schedule", ("step", "max_steps"))
