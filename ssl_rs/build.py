"""The one place that turns a config node into an object, and only what an allow-list admits."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ssl_rs.errors import InputError, nearest

PACKAGES = ("ssl_rs", "torch.optim", "segmentation_models_pytorch", "kornia")
"""A target must be defined in one of these, or in a package that the command line trusts."""


def build(node: Mapping[str, Any], where: str, trusted: Sequence[str] = ()) -> Any:
    """Build the object that a config node describes.

    Args:
        node: `_target_` and its arguments; `_partial_: true` leaves the call to the entry point.
        where: Dotted key of the node, for messages.
        trusted: Packages besides `PACKAGES` that may be used.

    Raises:
        InputError: A target outside the allow-list, an argument it does not have, or a value of another type.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{where}: expected a node with _target_, got {node!r}.")
    target = _locate(str(node["_target_"]), where, trusted)
    arguments = {
        name: build(value, f"{where}.{name}", trusted) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    _check_arguments(target, arguments, where)
    if node.get("_partial_", False):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from error


def _locate(name: str, where: str, trusted: Sequence[str]) -> Callable[..., Any]:
    """Import a target, only from packages of the allow-list, only if it is defined there."""
    allowed = (*PACKAGES, *trusted)
    refusal = InputError(
        f"{where}._target_={name} is not admitted. Targets come from {', '.join(allowed)}; "
        f"add trusted_packages=[{name.split('.')[0]}] to the command line if you trust that package."
    )
    module_name, _, attribute = name.rpartition(".")
    if not any(_inside(name, package) for package in allowed):
        raise refusal
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where}._target_={name} cannot be found: {error}.") from error
    if not callable(found) or not any(
        _inside(getattr(found, "__module__", None) or "", package) for package in allowed
    ):
        raise refusal
    return typing.cast(Callable[..., Any], found)


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    parameters = inspect.signature(target).parameters
    named = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    for name in arguments:
        if name not in named:
            raise InputError(f"{where}.{name}: {target.__name__} has no such argument. {nearest(name, named)}")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            raise InputError(f"{where}.{name} must be {_describe(hints[name])}, got {value!r}.")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value from YAML fits a type annotation; what is no plain type is left to the target."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return value in arguments and not isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, type(None) if hint is None else hint)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(item, arguments[0]) for item in value)
    return not (
        inspect.isclass(hint) and isinstance(value, (bool, int, float, str, type(None))) and not isinstance(value, hint)
    )


def _describe(hint: Any) -> str:
    """Say a type annotation in words."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in names:
        return names[hint]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin in (list, tuple, Sequence):
        return "a list [" + ", ".join("..." if a is Ellipsis else _describe(a) for a in arguments) + "]"
    return getattr(hint, "__name__", str(hint))
