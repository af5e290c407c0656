"""Secrets are known by their names; none is read into a config or written down."""

import os
import re
from typing import Any

SECRET = re.compile(r"(?i)key|token|secret|passw|credential")
"""What names of secrets hold."""

SURELY = re.compile(
    r"(?i)(?:^|[._-]|api|access|private|auth|user|pass)keys?(?![a-z])|token(?![a-z])|(?:^|\.)tokens(?![a-z])"
    r"|secret|passw|credential"
)
"""What no name but that of a secret holds: `keypoints` and `num_tokens` are none."""

NUMBERS = re.compile(r"(?i)\[?\s*(?:[-+.\de]+|true|false|null)(?:\s*,\s*(?:[-+.\de]+|true|false|null))*\s*\]?")
"""Values that are no secrets unless the name says so surely."""

SEVERAL, LONG_NUMBER = re.compile(r"(?i)(?:key|token)s$"), re.compile(r"\d{6}")
"""Keys and tokens may be counted, and numbers as short as counts are no secrets."""

NAMED_VALUE = re.compile(
    r"""(?ix) ( (?<![\w-])                                                         # a whole name,
    (?: [\w-]* (?:token|secret|credential|passw\w*) s? | [\w-]*(?:api|access|secret|private|auth|[_-]) key | key )
    ['"]? \s* [:=] \s* ['"]? ) [^\s,}\]'"]+                                       # and what stands behind it
    """
)
"""A secret with its name before it within a longer value: a mapping, or a line of shell. Folders may be called so, too:
`keys=v1` and `tokenizer: a` are none."""


def environment_variable(name: str, *default: Any) -> str | None:
    """Resolve `${oc.env:NAME}` or `${oc.env:NAME,default}`: values are written to config.yaml and shown by loggers.

    Raises:
        ValueError: The name is that of a secret.
        KeyError: There is no such variable, and no default.
    """
    if SECRET.search(name):
        raise ValueError(f"{name} is secret. Leave it in the environment; whoever needs it reads it there")
    if default and name not in os.environ:
        return None if default[0] is None else str(default[0])
    return os.environ[name]


def hide_secrets(argument: str) -> str:
    """Return an argument of the command line without the values of secrets and without passwords in addresses."""
    name, equals, value = argument.partition("=")
    if equals and _is_secret(name, value):
        return f"{name}=***"
    hidden = NAMED_VALUE.sub(r"\1***", value)
    return hide_passwords(f"{name}{equals}{hidden}")


def _is_secret(name: str, value: str) -> bool:
    if NUMBERS.fullmatch(value) and SEVERAL.search(name) and not LONG_NUMBER.search(value):
        return False
    return bool(SURELY.search(name) or (SECRET.search(name) and not NUMBERS.fullmatch(value)))


def hide_passwords(text: str) -> str:
    r"""Return a text without the passwords in its addresses; Hydra writes their colons as `\:`."""
    return re.sub(r"(\\?:)//(?:[^/@\s:]+:[^/\s]*|[^/@\s]+|[^/@\s:]+:\S*?)@", r"\1//***@", text)


def without_secrets(value: Any) -> Any:
    """Return nested settings with the values of secrets hidden, by their keys or as arguments of a command line."""
    if isinstance(value, dict):
        return {
            key: "***" if type(each) in (str, int) and _is_secret(str(key), str(each)) else without_secrets(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    return hide_secrets(value) if isinstance(value, str) else value
