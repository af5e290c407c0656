"""What all fuzzing shares: how bytes and JSON are damaged, how long a case may take, and how few cases CI tries.

The modules *_cases.py hold strategies and, for each, a check that raises where a case ends badly. The tests try a few
seeded cases; `scripts/fuzz.py` tries many with fresh seeds.
"""

import copy
import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True)
class Fuzz:
    """Cases of one kind, and what must hold for each.

    Args:
        cases: Draws a case.
        check: Raises where a case ends in anything but a result or a message.
        examples: How many CI tries.
    """

    cases: SearchStrategy[Any]
    check: Callable[[Any], None]
    examples: int


def seeded(examples: int) -> settings:
    """Return the settings under which a second run of the suite tries the same cases."""
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )


class TooSlowError(BaseException):
    """A case takes longer than it may; no `except Exception` takes it for a damaged file."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise in the code within it once it has taken too long."""

    def stop(*_: Any) -> None:
        raise TooSlowError(f"a case takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Bytes

WORDS = tuple(
    value.to_bytes(size, order)
    for value in (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF)
    for size in (2, 4)
    for order in ("little", "big")
) + (b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(8), b"\n", b"\0", b"../", b'"', b"}")

DAMAGES = ("cut", "flip", "flip", "flip", "word", "word", "noise", "insert", "remove", "double", "zero")


def damaged(content: bytes, damage: tuple[tuple[str, float, int], ...]) -> bytes:
    """Apply damages, each a name, a place in [0, 1] and a seed."""
    for name, place, seed in damage:
        rng, at = random.Random(seed), int(place * max(len(content) - 1, 0))
        length = rng.choice((1, 2, 4, 16, 64))
        stop = min(at + length, len(content))
        match name:
            case "cut":
                content = content[:at]
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
            case "word":
                word = rng.choice(WORDS)
                content = content[:at] + word + content[at + len(word) :]
            case "noise":
                content = content[:at] + rng.randbytes(stop - at) + content[stop:]
            case "insert":
                content = content[:at] + rng.randbytes(length) + content[at:]
            case "remove":
                content = content[:at] + content[stop:]
            case "double":
                content = content[:stop] + content[at:]
            case "zero":
                content = content[:at] + bytes(stop - at) + content[stop:]
    return content


def places() -> SearchStrategy[float]:
    """Draw places in a file: anywhere, or, since headers are small and matter, near its beginning or end."""
    near = st.floats(0, 1)
    return st.one_of(near, near.map(lambda x: x**4), near.map(lambda x: 1 - x**4))


def damages() -> SearchStrategy[tuple[tuple[str, float, int], ...]]:
    """Draw what happens to a file: a few small damages."""
    one = st.tuples(st.sampled_from(DAMAGES), places(), st.integers(0, 2**32 - 1))
    return st.lists(one, min_size=1, max_size=4).map(tuple)


# JSON

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 255, 256, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308,
    5e-324, float("nan"), float("inf"), float("-inf"), "", "x", "../x", "/etc/passwd", "a\0b", "\ud800", "ä" * 300, "x" * 10**5,
    [], [[]], {}, {"a": {"b": {}}}, [1, "a", None], ["x"] * 3, [0.5] * 3, [0] * 6, "<script>alert(1)</script>", "uint8", "train",
)  # fmt: skip
"""Values that no schema expects everywhere."""

CHANGES = ("junk", "junk", "junk", "junk", "remove", "double", "rename", "wrap", "swap")


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in parsed JSON but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in items for found in [(*path, key), *paths_of(child, (*path, key))]]


def changed(content: Any, changes: tuple[tuple[str, float, int], ...]) -> Any:
    """Apply changes of structure to parsed JSON, each a name, a place in [0, 1] and a seed."""
    content = copy.deepcopy(content)
    for name, place, seed in changes:
        paths = paths_of(content)
        if not paths:
            return random.Random(seed).choice(JUNK)
        _change(content, paths[int(place * (len(paths) - 1))], paths, name, random.Random(seed))
    return content


def _change(content: Any, path: tuple[Any, ...], paths: list[tuple[Any, ...]], name: str, rng: random.Random) -> None:
    parent = _at(content, path[:-1])
    key, value = path[-1], parent[path[-1]]
    match name:
        case "junk":
            parent[key] = copy.deepcopy(rng.choice(JUNK))
        case "remove":
            del parent[key]
        case "double" if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        case "double" | "rename" if isinstance(parent, dict):
            parent[str(rng.choice(("x", "", "../x", "__class__", key)))] = parent.pop(key)
        case "wrap":
            parent[key] = rng.choice(([value], {"a": value}, str(value)[:1000]))
        case "swap":
            parent[key] = copy.deepcopy(_at(content, rng.choice(paths)))


def _at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def structure_changes() -> SearchStrategy[tuple[tuple[str, float, int], ...]]:
    """Draw what happens to parsed JSON."""
    one = st.tuples(st.sampled_from(CHANGES), st.floats(0, 1), st.integers(0, 2**32 - 1))
    return st.lists(one, min_size=1, max_size=3).map(tuple)


DEEP = tuple(
    text.encode()
    for text in ("[" * 10**5, '{"a":' * 10**5, "[" * 900 + "]" * 900, "1" * 5000, "", "null", "[]", "\ufeff{}")
)
"""Whole files that are no manifest, however they are read."""


def json_files(content: Any) -> SearchStrategy[bytes]:
    """Draw files that were JSON: with another structure, with damaged bytes, or hostile as a whole."""
    text = dumped(content)
    return st.one_of(
        structure_changes().map(lambda changes: dumped(changed(content, changes))),
        structure_changes().map(lambda changes: dumped(changed(content, changes))),
        damages().map(lambda damage: damaged(text, damage)),
        st.integers(0, len(DEEP) - 1).map(DEEP.__getitem__),
        st.binary(max_size=64),
    )


def dumped(content: Any) -> bytes:
    """Return JSON as bytes, whatever is in it; numbers have no limit of digits here."""
    return json.dumps(content, indent=1).encode("utf-8", "surrogatepass")
