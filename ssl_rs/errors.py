"""The two ways a command ends early on purpose."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """A mistake in the user's settings or files; the command prints the message and exits with 2.

    The message says what was expected, what came, where (file or key), and what to change.
    """


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The run was asked to stop and saved a checkpoint; the command exits with 130."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the choice nearest to a misspelt name, or lists them all.

    Args:
        name: What the user wrote.
        choices: What would have been accepted.
    """
    known = sorted(set(choices))
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(known)}." if known else "Nothing is known here."
