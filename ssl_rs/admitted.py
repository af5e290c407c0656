"""Which classes and functions a config may name: an allow-list, by where they are defined."""

import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from ssl_rs.config_hash import is_within
from ssl_rs.errors import InputError, did_you_mean
from ssl_rs.own_code import hash_of_own

PACKAGES = ("ssl_rs", "torch.optim", "segmentation_models_pytorch", "kornia.augmentation")
"""A target must be a class of one of these, or be defined in a package that the command line trusts."""

NARROWER = {"segmentation_models_pytorch": "segmentation_models_pytorch.decoders"}
"""Where in such a package it must be defined: other classes may download what their arguments name. Those of there may
too, unless they are told not to, so that our code makes them: `_partial_: true`."""

PLACES = tuple(NARROWER.get(package, package) for package in PACKAGES)


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
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names:  # os.system is there, too
        return "Name a class of your own."
    packages = ",".join([*trusted, package])
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
