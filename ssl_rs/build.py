"""The one place that turns a config node into an object, and only what an allow-list admits."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ssl_rs import plain_types
from ssl_rs.admitted import NARROWER, import_target
from ssl_rs.config_hash import is_within
from ssl_rs.errors import ArgumentError, InputError, nearest
from ssl_rs.own_code import place_in_own
from ssl_rs.plain_types import fits, misfit

WITHOUT_NAME = "_args_"
"""The list of arguments of a node that have no name, as Hydra calls it."""


def build(node: Mapping[str, Any], where: str, trusted: Sequence[str] = ()) -> Any:
    """Build the object that a config node describes.

    Args:
        node: `_target_` and its arguments, those without a name as a list under `_args_`; `_partial_: true` leaves the
            call to the entry point.
        where: Dotted key of the node, for messages.
        trusted: Packages besides `admitted.PACKAGES` that may be used.

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
            f"{where} lacks arguments that {target.__name__} needs: {', '.join(lacking)}. Its YAML file must name them"
            ", or say `_partial_: true` if the code gives them."
        )
    try:
        return target(*without_name, **arguments)
    except ArgumentError as error:
        raise InputError(f"{where}.{error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{_blamed(where, arguments, error)}: {error}{place_in_own(error, 1)}") from error


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


def check_partial(node: Any, made_later: bool, where: str, trusted: Sequence[str] = ()) -> None:
    """Refuse a node whose file does not say rightly whether the code gives the component its last arguments.

    Args:
        node: As of `build`; anything else is left to `build`.
        made_later: Whether the code does.
        where: Dotted key of the node, for the message.
        trusted: As of `build`.

    Raises:
        InputError: `_partial_` is missing, or there for nothing.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    target, is_partial = import_target(str(node["_target_"]), where, trusted), bool(node.get("_partial_", False))
    if made_later and not is_partial:
        raise InputError(
            f"{where}: {target.__name__} gets its last arguments from the code, once encoder and data are known. "
            "Add `_partial_: true` to its YAML file, below _target_."
        )
    if is_partial and not made_later and inspect.isclass(target):  # a function that lacks arguments may be what is used
        raise InputError(
            f"{where}: {target.__name__} gets all its arguments from its YAML file. Take `_partial_: true` out of it."
        )


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


def check_call(part: Any, where: str, arguments: Sequence[str]) -> None:
    """Refuse a part that cannot be called as it will be; a user may have written it, or left it partial.

    Args:
        part: What `build` made.
        where: Its key, for the message.
        arguments: What it will be given, in order.

    Raises:
        InputError: It takes others.
    """
    asked = f"{where}({', '.join(arguments)})"
    try:
        inspect.signature(part).bind(*arguments)
    except TypeError as error:
        kind = part if hasattr(part, "__name__") else getattr(part, "func", type(part))
        name = getattr(kind, "__name__", "it").strip("<>")  # of a lambda
        raise InputError(f"{where}: {name} cannot be called as {asked}: {error}. Change what it takes.") from error


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
        raise InputError(f"{_blamed(where, arguments, error)}: {error}{place_in_own(error, 2)}") from error


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
