"""Does a plain value from YAML fit a type annotation, and how is that said in words?"""

import inspect
import json
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from ssl_rs.errors import did_you_mean


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value from YAML fits a type annotation; what is no plain type is left to the target."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments and not isinstance(value, bool)
    if hint in (int, float):
        number = isinstance(value, (int, hint)) and not isinstance(value, bool)
        return number and not (hint is float and isinstance(value, int) and abs(value) > sys.float_info.max)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return all(fits(item, arguments[0]) for item in value)
    plain = isinstance(value, (bool, int, float, str, type(None)))
    return _is_instance(value, hint) if plain and inspect.isclass(hint) and hint is not Any else True


def spelled(value: Any, hint: Any) -> Any:
    """Return a plain value that fits a type annotation with every whole number as a float that is taken for one.

    So 1 and 1.0 are one setting, with one hash. What does not fit stays as it is.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(value) is int and int in arguments:
            return value
        return next((spelled(value, choice) for choice in arguments if fits(value, choice)), value)
    if not fits(value, hint):
        return value
    if hint is float:
        return float(value)
    if origin in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        ends = arguments[-1:] == (Ellipsis,) or origin is not tuple
        return [spelled(item, arguments[0] if ends else arguments[place]) for place, item in enumerate(value)]
    return value


def _is_instance(value: Any, hint: type) -> bool:
    try:
        return isinstance(value, hint)
    except TypeError:  # a Protocol that cannot be asked at run time: it describes an object, no plain value
        return False


def misfit(key: str, value: Any, hint: Any) -> str:
    """Say what a setting must be and what came; where quotes make it a text that fits, how to type them.

    Args:
        key: Dotted name of the setting.
        value: What does not fit.
        hint: The type annotation.
    """
    quoted = [_as_text(item) for item in value] if isinstance(value, list) else _as_text(value)
    if not fits(quoted, hint) and isinstance(quoted, list) and all(isinstance(item, str) for item in quoted):
        quoted = f"[{','.join(quoted)}]"  # a text with brackets, as patterns have them
    remedy = f" Quotes make it a text: '{key}={json.dumps(quoted)}'." if fits(quoted, hint) else ""
    return f"{key} must be {describe(hint)}, got {value!r}.{_nearest_choice(value, hint)}{remedy}"


def _nearest_choice(value: Any, hint: Any) -> str:
    """Return a sentence with the choice that a misspelt text, or one in a list, is near to; empty where none is."""
    choices = [str(each) for each in _choices(hint)]
    given = value if isinstance(value, list) else [value]
    said = [did_you_mean(each, choices) for each in given if isinstance(each, str) and each not in choices]
    return next((f" {each}" for each in said if each), "")


def _choices(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for argument in typing.get_args(hint) for choice in _choices(argument)]


def _as_text(value: Any) -> Any:
    """Return a number or truth value as the command line writes it; anything else as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def describe(hint: Any) -> str:
    """Say a type annotation in words."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in names:
        return names[hint]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(choice) for choice in arguments)
    if origin in (list, tuple, Sequence):
        return "a list [" + ", ".join("..." if a is Ellipsis else describe(a) for a in arguments) + "]"
    return getattr(hint, "__name__", str(hint))
