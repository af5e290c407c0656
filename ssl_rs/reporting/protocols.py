"""How a score was counted, read from beside it: scores of different protocols never share a column."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Protocol(NamedTuple):
    """Two scores may be compared only where all of it is equal.

    Args:
        name: What result.json calls it.
        labels: "full", or "eroded": pixels near another class do not count.
        excluded: Classes that the means leave out.
        excluded_pixels: What becomes of pixels of these: "error" or "ignored"; empty where nothing is excluded.
    """

    name: str
    labels: str
    excluded: tuple[str, ...]
    excluded_pixels: str

    def sentence(self, class_names: Sequence[str]) -> str:
        """Say what it means.

        Args:
            class_names: The classes that the means are over, as far as they are known.
        """
        classes = {0: "all classes", 1: "1 class"}.get(len(class_names), f"{len(class_names)} classes")
        without = " and ".join(self.excluded)
        pixels = {
            "": "",
            "error": f"; pixels of {without} count as errors where they were given one of these",
            "ignored": f"; pixels of {without} count nowhere",
        }[self.excluded_pixels]
        labels = {"full": "full labels", "eroded": "labels eroded by 3 px, so that borders count nowhere"}[self.labels]
        return f"{classes}{pixels}; {labels}."


def read_protocol(name: str, values: Mapping[str, Any]) -> Protocol:
    """Read how a protocol of result.json counts; results from before this was written have full labels, all classes.

    Raises:
        ValueError: A value that is not known.
    """
    labels, excluded, pixels = values.get("labels", "full"), values.get("excluded", []), values.get("excluded_pixels")
    if labels not in ("full", "eroded"):
        raise ValueError(f"labels of protocol {name} is {labels!r}: expected full or eroded")
    if not isinstance(excluded, list) or not all(isinstance(each, str) for each in excluded):
        raise ValueError(f"excluded of protocol {name} is {excluded!r}: expected a list of texts")
    if pixels not in (("error", "ignored") if excluded else (None,)):
        raise ValueError(f"excluded_pixels of protocol {name} is {pixels!r}: expected error or ignored, or null")
    return Protocol(name, labels, tuple(excluded), pixels or "")
