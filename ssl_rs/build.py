"""The one place that turns a config node into an object, and only what an allow-list admits."""

import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ssl_rs import plain_types
from ssl_rs.config_hash import is_within
from ssl_rs.errors import ArgumentError, InputError, did_you_mean, nearest
from ssl_rs.own_code import hash_of_own
from ssl_rs.plain_types import fits, misfit

PACKAGES = ("ssl_rs", "torch.optim", "segmentation_models_pytorch", "kornia.augmentation")
"""A target must be a class of one of these, or be defined in a package that the command line trusts."""

NARROWER = {"segmentation_models_pytorch": "segmentation_models_pytorch.decoders"}
"""Where in such a package it must be defined: other classes may download what their arguments name. Those of there may
too, unless they are told not to, so that our code makes them: `_partial_: true`."""

WITHOUT_NAME = "_args_"
"""The list of arguments of a node that have no name, as Hydra calls it."""

PLACES = tuple(NARROWER.get(package, package) for package in PACKAGES)


def build(node: Mapping[str, Any], where: str, trusted: Sequence[str] = ()) -> Any:
    """Build the object that a config node describes.

    Args:
        node: `_target_` and its arguments, those without a name as a list under `_args_`; `_partial_: true` leaves the
            call to the entry point.
        where: Dotted key of the node, for messages.
        trusted: Packages besides `PACKAGES` that may be used.

    Raises:
        InputError: A target outside the allow-list, an argument it does not have, or a value of another type.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise InputError(f"{where}: expected a node with _target_, got {node!r}.")
    target = import_target(str(node["_target_"]), where, trusted)
    arguments = {
        name: _build_nodes(value, f"{where}.{name}", trusted)
        for name, value in node.items()
        if name not in ("_target_", "_partial_")
    }
    _check_arguments(target, arguments, where)
    without_name = arguments.pop(WITHOUT_NAME, [])
    if node.get("_partial_", False):
        return partial(target, *without_name, **arguments)
    if is_within(target.__module__, tuple(NARROWER.values())) and not is_within(target.__module__, trusted):
        raise InputError(
            f"{where}: {target.__name__} can only be made once bands and classes are known. Add _partial_: true."
        )
    lacking = _lacking(target, arguments, where)
    if lacking:
        raise InputError(
            f"{where} lacks arguments that {target.__name__} needs: {', '.join(lacking)}. Its YAML file must name them."
        )
    try:
        return target(*without_name, **arguments)
    except ArgumentError as error:
        raise InputError(f"{where}.{error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{_blamed(where, arguments, error)}: {error}") from error


def spelled(node: Mapping[str, Any], where: str, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """Return a config node with its numbers as the targets take them: 1 where a float is wanted is 1.0.

    Args:
        node: As of `build`.
        where: As of `build`.
        trusted: As of `build`.

    Raises:
        InputError: A target outside the allow-list.
    """
    hints = _hints(import_target(str(node["_target_"]), where, trusted)) if "_target_" in node else {}
    return {name: _spelled(value, hints.get(name), f"{where}.{name}", trusted) for name, value in node.items()}


def _spelled(value: Any, hint: Any, where: str, trusted: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return spelled(value, where, trusted)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [_spelled(item, None, f"{where}[{index}]", trusted) for index, item in enumerate(value)]
    return value if hint is None else plain_types.spelled(value, hint)


def refuse_bound(
    made_later: Callable[..., Any], names: Sequence[str], where: str, why: str = "backbone and data say it"
) -> None:
    """Refuse arguments of a `_partial_` node that the code fills in itself: they would have no effect.

    Args:
        made_later: What `build` made of the node.
        names: The arguments.
        where: Dotted key of the node, for the message.
        why: Why none is chosen.

    Raises:
        InputError: One is there.
    """
    for name in names:
        if name in getattr(made_later, "keywords", {}):
            raise InputError(f"{where}.{name} cannot be set: {why}. Leave it out.")


@contextmanager
def explained(where: str, arguments: Mapping[str, Any] = types.MappingProxyType({})) -> Iterator[None]:
    """Within it, what a component raises of its settings is the user's mistake, named by the key of the component.

    Args:
        where: The key.
        arguments: Its settings, of which a message may name the value of one.

    Raises:
        InputError: The component refused.
    """
    try:
        yield
    except ArgumentError as error:
        raise InputError(f"{where}.{error}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{_blamed(where, arguments, error)}: {error}") from error


def _blamed(where: str, arguments: Mapping[str, Any], error: Exception) -> str:
    """Return the one setting of a component whose value its message ends with, as other packages do; else its key."""
    try:
        last = float(str(error).rstrip(".").rpartition(" ")[2])
    except ValueError:
        return where
    named = [
        f"{where}.{name}={value}"
        for name, value in arguments.items()
        if any(type(one) in (int, float) and one == last for one in (value, *_items(value)))
    ]
    return named[0] if len(named) == 1 else where


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _build_nodes(value: Any, where: str, trusted: Sequence[str]) -> Any:
    """Build the nodes in an argument, which may be one or a list of them; plain values stay as they are."""
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, where, trusted)
    if isinstance(value, list):
        return [_build_nodes(item, f"{where}[{index}]", trusted) for index, item in enumerate(value)]
    return value


def import_target(name: str, where: str, trusted: Sequence[str] = ()) -> Callable[..., Any]:
    """Import a target, only from packages of the allow-list, only if it is defined there; of ours, only classes.

    Raises:
        InputError: The target is not admitted, or is not there.
    """
    where = f"{where}._target_={name}"
    if not is_within(name, (*PACKAGES, *trusted)):
        raise _refusal(where, trusted, _remedy(name, trusted))
    found = _found(name, where)
    defined_in = getattr(found, "__module__", None) or ""
    if not (inspect.isclass(found) and is_within(defined_in, PLACES)) and not (
        callable(found) and is_within(defined_in, trusted)
    ):
        is_foreign = callable(found) and defined_in and not is_within(defined_in, PLACES)
        told = f"It is defined in {defined_in}." if is_foreign else f"It is a {type(found).__name__}."
        raise _refusal(where, trusted, f"{told} {_trust(defined_in, trusted)}" if is_foreign else told)
    if is_within(defined_in, trusted):
        hash_of_own(found)  # now, as it was imported: it may change while data is prepared
    return typing.cast(Callable[..., Any], found)


def _refusal(where: str, trusted: Sequence[str], remedy: str) -> InputError:
    return InputError(f"{where} is not admitted. Targets are classes of {', '.join([*PLACES, *trusted])}. {remedy}")


def _remedy(name: str, trusted: Sequence[str]) -> str:
    """Return what to do about a name that begins with no package of the allow-list."""
    package = name.partition(".")[0]
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        return f"Write the whole name of a class: {(*trusted, 'package')[0]}.module.Class."
    if trusted and package not in sys.modules and importlib.util.find_spec(package) is None:
        return (
            f"There is no package {package}: begin the name with its package, as in {trusted[0]}.{name}, or start the "
            f"command in the folder that holds {package}."
        )
    return _trust(name, trusted)


def _trust(name: str, trusted: Sequence[str]) -> str:
    packages = ",".join([*trusted, name.partition(".")[0]])
    return f"Add trusted_packages=[{packages}] to the command line if you trust that package."


def _found(name: str, where: str) -> Any:
    """Return what a dotted name stands for; what else its module raises while it is imported keeps its traceback.

    Raises:
        InputError: There is no such module, or nothing of that name in it.
    """
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise InputError(f"{where} cannot be found: expected the whole name of a class, package.module.Class.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not is_within(module_name, [error.name]):  # a module that this one wants to import
            raise
        package = name.partition(".")[0]
        remedy = f" Start the command in the folder that holds {package}, or install it." * (error.name == package)
        raise InputError(f"{where} cannot be found: {error}.{remedy}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        names = [each for each, value in vars(module).items() if callable(value)]
        remedy = did_you_mean(attribute, names)
        raise InputError(f"{where} cannot be found: {error}. {remedy}".strip()) from error


def _lacking(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> list[str]:
    """Return the arguments without a default that are not given."""
    given_by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = _parameters(target, where).values()
    needed = [each.name for each in parameters if each.kind in given_by_name and each.default is each.empty]
    return [name for name in needed if name not in arguments]


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    parameters = _parameters(target, where).values()
    named = [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    kinds = [each.kind for each in parameters]
    takes_more, by_place = inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.POSITIONAL_OR_KEYWORD in kinds
    if takes_more and not by_place:  # else the first of the list would be taken for those that have names
        named.append(WITHOUT_NAME)
    for name, value in arguments.items():
        if name not in named:
            raise InputError(f"{where}.{name}: {target.__name__} has no such argument. {nearest(name, named)}")
        if name == WITHOUT_NAME and not isinstance(value, list):
            raise InputError(f"{where}.{name}: expected a list of the arguments without a name, got {value!r:.60}.")
    hints = _hints(target)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            raise InputError(misfit(f"{where}.{name}", value, hints[name]))


def _parameters(target: Callable[..., Any], where: str) -> Mapping[str, inspect.Parameter]:
    """Return what a target takes.

    Raises:
        InputError: It does not say that, as some that are written in C.
    """
    try:
        return inspect.signature(target).parameters
    except ValueError as error:
        raise InputError(
            f"{where}._target_: {target.__name__} does not tell which arguments it takes. Wrap it in your own class."
        ) from error


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type of each argument of a target that says it."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # annotations of another package that it imports for type checkers only
        return {}
