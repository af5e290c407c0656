"""How a command ends early on purpose, and how its message tells what is wrong."""

import difflib
import errno
from collections.abc import Iterable, Sequence

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHUT = (errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
OF_CONTENT = (None, errno.EINVAL)
"""Numbers of errors that libraries raise for what a file holds; all others are of the system."""

TOLD = 5
"""Problems of one kind that a message lists."""


class InputError(Exception):
    """A mistake in the user's settings or files; the command prints the message and exits with 2.

    The message says what was expected, what came, where (file or key), and what to change.
    """


class ArgumentError(InputError):
    """An argument of a component is wrong, and the component does not know at which key it stands.

    The message begins with the argument's name, and `build` puts the key before it: `hue=[2, 3]: expected ...` is told
    as `views.transformed.color.hue=[2, 3]: expected ...`.
    """


class MissingWeightsError(InputError):
    """Weights to start from are not there, and may be there later: a pretraining to come, a file to download."""


class RefusedElsewhereError(InputError):
    """Another process of this run was refused, and says why: this one ends with it, and says nothing."""


class LabelsSeenError(InputError):
    """Weights had labels of what they would be scored on."""


class InUseError(InputError):
    """Another process works on what this one wanted to write."""


class SpentProcessError(InputError):
    """What failed left a library in a state that nobody knows: this process can do nothing more, a new one can."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The run was asked to stop and saved a checkpoint; the command exits with 130."""


def is_of_system(error: Exception) -> bool:
    """Tell whether the system refused to read a file, which may be as it should: that may be otherwise next time."""
    return isinstance(error, OSError) and error.errno not in OF_CONTENT


def explain(error: Exception) -> str | None:
    """Return what to say of an error that settings, files or the machine caused; None of a defect of ours.

    All that was written before is still there.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return _refused_by_system(error)
    if isinstance(error, MemoryError):
        return _no_memory(error)
    return _refused_by_torch(error) if isinstance(error, RuntimeError) else None


def _refused_by_system(error: OSError) -> str:
    """Name a full disk, a missing permission, a folder that somebody took away."""
    remedies = {
        **dict.fromkeys(FULL, "Make space there, or choose another output_dir or run_dir"),
        **dict.fromkeys(SHUT, "Make it readable and writable, or choose another output_dir or run_dir"),
        errno.EROFS: "Make it writable, or choose another output_dir or run_dir",
        **dict.fromkeys(GONE, "Bring back what was moved or deleted"),
    }
    remedy = remedies.get(error.errno or 0, "Correct that")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}. {remedy}; the same command then goes on where it stopped."


def _refused_by_torch(error: RuntimeError) -> str | None:
    if str(error).startswith("DataLoader worker"):  # torch has no type of its own for it
        said = "Perhaps the memory ran out, or a file of the store was cut short: prepare check=true tells"
        return f"{error}\n{said}. The same command goes on from the last checkpoint."
    if "does not have a deterministic implementation" in str(error):
        said = " ".join(str(error).partition(". ")[0].split())
        return f"{said}. Set trainer.deterministic=false, or choose other components."
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # torch's, GPU and CPU
        return _no_memory(error)
    return None


def _no_memory(error: Exception) -> str:
    said = " ".join(str(error).split()[:60])
    return (
        f"There is not enough memory{f': {said}' if said else ''}. Lower trainer.batch_size, dataset.crop_size or "
        "evaluation.window.batch_size, or choose a smaller backbone; on a GPU trainer.cuda_graph=never needs less."
    )


def counted(number: int, what: str) -> str:
    """Return "1 band", "3,000 bands"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def in_a_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says, for a message that is about something else."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the choice nearest to a misspelt name, or lists them all.

    Args:
        name: What the user wrote.
        choices: What would have been accepted.
    """
    known = sorted(set(choices))
    listed = f"Known: {', '.join(known)}." if known else "Nothing is known here."
    return did_you_mean(name, known) or listed


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a sentence that offers the choice nearest to a misspelt name, empty where none is near."""
    close = difflib.get_close_matches(name, sorted(set(choices)), n=1)
    return f"Did you mean '{close[0]}'?" if close else ""


def some(names: Sequence[str], most: int = TOLD, between: str = ", ") -> str:
    """Return the first names, and how many more there are."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_of(problems: Sequence[str]) -> list[str]:
    """Return the lines of a message that lists problems: the first TOLD, indented, and how many more there are."""
    more = [f"  and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
    return [*(f"  {problem}" for problem in problems[:TOLD]), *more]
