"""The folder of a run: what lies in it, and how files get there so that a half-written one is never taken for whole."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from ssl_rs.errors import InputError
from ssl_rs.files import json_text, write_beside, write_json, write_text, writing, written_aside
from ssl_rs.locks import hold, holder

if TYPE_CHECKING:  # the report reads runs, too, and starts without torch
    from torch import Tensor

TIMING_KEYS = ("images_per_second", "seconds")
"""The only keys of metrics.jsonl in which two runs of the same config may differ."""

AGAIN = "Delete it: the same command then trains again, from the last checkpoint or, of a finished run, from the start."


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, aside and then renamed; equal content gives equal bytes.

    Tensors that share memory, such as tied layers, are written each on its own.
    """
    from safetensors.torch import save

    content = save(_apart(tensors), dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # safetensors writes it in a random order
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written_aside(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[8 + length :])


def _apart(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors on the CPU, none of which shares memory with another."""
    found: dict[str, Tensor] = {}
    taken = set[int]()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in taken else own
        taken.add(place)
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        InputError: The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no whole safetensors file: {error}") from error


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    Args:
        path: The folder; it is made when the first file is written.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config, YAML."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Where it ran, JSON."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line and log step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of an unfinished run."""
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        """The bare pretrained encoder."""
        return self.path / "encoder.safetensors"

    @property
    def decoder(self) -> Path:
        """The pretrained decoder, where inpainting used one that fine-tuning uses too."""
        return self.path / "decoder.safetensors"

    @property
    def images_seen(self) -> Path:
        """Which images it has seen, and of which the labels; `ssl_rs.seen_images` reads and writes it."""
        return self.path / "images_seen.json"

    @property
    def model(self) -> Path:
        """The fine-tuned segmentation model."""
        return self.path / "model.safetensors"

    @property
    def result(self) -> Path:
        """Written last: its presence means finished."""
        return self.path / "result.json"

    @property
    def anew(self) -> str:
        """What to do where the weights of a finished run, or what its result says, cannot be used."""
        return f"Delete {self.result}: the command that made the run then trains anew."

    @property
    def from_scratch(self) -> str:
        """What to do where the config of a finished run cannot be used."""
        return f"Delete the folder {self.path}: the command that made the run then trains anew."

    @property
    def failure(self) -> Path:
        """Why a cell of a sweep has no result."""
        return self.path / "failure.json"

    def read_result(self) -> dict[str, Any] | None:
        """Return the result of a finished run, else None.

        Raises:
            InputError: The file is there but is no JSON object.
        """
        if not self.result.is_file():
            return None
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise InputError(f"{self.result} cannot be read ({error}). {AGAIN}") from error
        if not isinstance(result, dict):
            raise InputError(f"{self.result} holds no JSON object. {AGAIN}")
        return cast(dict[str, Any], result)

    @property
    def is_finished(self) -> bool:
        """Tell whether it has a result that can be read."""
        try:
            return self.read_result() is not None
        except InputError:
            return False

    def begin(self, config: str, environment: Mapping[str, Any]) -> None:
        """Write what a run consists of and where it runs; an earlier failure is forgotten."""
        write_json(self.environment, environment)  # first: it tells that the folder is a run's
        write_text(self.config, config)
        self.failure.unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, then delete the checkpoints, which only an unfinished run needs.

        Raises:
            OSError: It cannot be written; where the folder has vanished, so have the weights.
        """
        write_beside(self.result, json_text(result))
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a finished run; a kill may have come between its result and this."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def drop_half_written(self) -> None:
        """Delete what a kill left half-written; only for who holds the run."""
        for path in (*self.path.glob("*.partial"), *self.checkpoints.glob("*.partial")):
            path.unlink(missing_ok=True)

    def keep_metrics_until(self, step: int) -> None:
        """Drop the lines after a step: the resumed run writes them again.

        Raises:
            InputError: A line is damaged.
        """
        if self.metrics.is_file():
            kept = [text for text, line in self._metrics_lines() if line["step"] <= step]
            write_text(self.metrics, "".join(f"{text}\n" for text in kept))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line and flush it to the disk."""
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def named(cls, chosen: str, key: str) -> "RunDirectory":
        """Return the run of a folder that the user names.

        Args:
            chosen: The folder.
            key: What names it, for the message.

        Raises:
            InputError: It is a file of a run, or another one.
        """
        path = Path(chosen)
        if path.is_file():
            meant = f" Name its folder: {key}={path.parent}" if cls(path.parent).config.is_file() else ""
            raise InputError(f"{key}={chosen} is a file, no folder of a run.{meant}")
        return cls(path)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return every whole line of metrics.jsonl.

        Raises:
            InputError: A line is damaged.
        """
        return [line for _, line in self._metrics_lines()] if self.metrics.is_file() else []

    def _metrics_lines(self) -> list[tuple[str, dict[str, Any]]]:
        """Return each line as it is, and what it says."""
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
        whole = lines[:-1]  # behind the last line break is a line that a kill cut short, or nothing
        return [(text, self._read_line(text, number)) for number, text in enumerate(whole, start=1)]

    def _read_line(self, text: str, number: int) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise InputError(
                f"{self.metrics} is damaged: line {number} is {text!r:.80}. Delete that line; weights do not depend on "
                "it. Then start the same command again."
            )
        return line

    def check_own(self) -> None:
        """Refuse a folder that holds what no run wrote: its files may have the names of ours.

        Raises:
            InputError: Names something that lies there.
        """
        others = sorted(path.name for path in self.path.glob("*") if path.name[0] != "." and path.suffix != ".partial")
        failed_at_once = others == [self.failure.name]
        if others and not failed_at_once and not any(path.is_file() for path in (self.environment, self.result)):
            raise InputError(
                f"run_dir={self.path} holds {others[0]} and no {self.environment.name}: it is no run, and nothing "
                "there is overwritten. Choose an empty or new folder."
            )

    def lock(self) -> IO[str]:
        """Hold the run until what is returned is closed or the process ends.

        Raises:
            InUseError: Another process works on this run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        return hold(self._lock, str(self.path), "choose another run_dir")

    def held_by(self) -> str | None:
        """Tell which process works on this run; None where none does."""
        return holder(self._lock)

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"
