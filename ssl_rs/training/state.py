"""Checkpoints: all that a run cannot derive from its config, written so that a kill leaves the one before."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

import ssl_rs
from ssl_rs.errors import InputError
from ssl_rs.files import writing, written_aside
from ssl_rs.task_output import check_same_metrics

KEPT = 2
"""The newest checkpoints, of which the older one is whole if a kill or a disk damages the newer."""

SEAL = b"ssl_rs checkpoint 3, sha256 "
"""Stands behind what torch saved, and before the hash of that: `torch.load` does not mind what comes last."""

MUST_AGREE = ("ssl_rs_version", "torch_version")
"""Surroundings of which another value is refused unless the user accepts it."""


class OtherRunError(InputError):
    """The checkpoints in a run's folder are those of another run."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must agree with to be gone on from.

    Args:
        config_hash: Hash of the resolved config and its inputs.
        world_size: Number of processes.
        precision: "bf16" or "fp32".
    """

    config_hash: str
    world_size: int
    precision: str


@dataclass(frozen=True)
class Surroundings:
    """What exact resume also needs to be equal, but what may be changed at the price of exactness."""

    ssl_rs_version: str
    torch_version: str
    threads: int
    device: str

    @classmethod
    def here(cls, device: torch.device) -> "Surroundings":
        """Read them off this process."""
        return cls(ssl_rs.__version__, str(torch.__version__), torch.get_num_threads(), device.type)


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: Optimizer steps done.
        seconds: Time spent so far, over all starts.
        sums: Sums of losses and metrics since the last line of metrics.jsonl: this rank's while training, those of
            all ranks, [world_size], in a checkpoint.
        count: Steps in these sums.
        skipped: Steps whose gradient was not finite and which changed nothing.
        collapsed: Lines of metrics.jsonl in a row that showed collapsed features.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    skipped: int = 0
    collapsed: int = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add what a step came to; a GPU starts one operation for all values.

        Raises:
            InputError: The step has other values than those before it, of which no mean could be taken.
        """
        if not self.count:
            self.sums = {name: value.clone() for name, value in values.items()}
        else:
            check_same_metrics(values, self.sums, f"Step {self.step}", "step")
            torch._foreach_add_([self.sums[name] for name in values], list(values.values()))
        self.count += 1


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Identity,
    device: torch.device,
) -> Path:
    """Write a checkpoint aside, flush it, rename it, and keep the newest two.

    Raises:
        OSError: It cannot be written: the checkpoints that are there stay the newest.
    """
    with writing(folder):
        folder.mkdir(exist_ok=True)  # not its parents: where the run's folder vanished, nobody would find the rest
    path = folder / f"step-{progress.step:08d}.ckpt"
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": vars(progress),
        "identity": vars(identity),
        "surroundings": vars(Surroundings.here(device)),
    }
    with written_aside(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(content, cast(IO[bytes], hashed))
        except RuntimeError as error:  # torch's own, of a file that ends too early, hides what the system said
            raise hashed.refused or error from None
        file.write(SEAL + hashed.sha256.hexdigest().encode())
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


class _Hashed:
    """A file that hashes what is written to it, so that no copy of a checkpoint has to lie in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        """Leave it to the file."""


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    device: torch.device,
    accept_changes: bool = False,
    set_aside: bool = True,
) -> Progress | None:
    """Load the newest whole checkpoint into network and optimizer.

    Args:
        folder: Where the checkpoints lie.
        network: As it was built.
        optimizer: As it was built.
        identity: What the checkpoint must agree with.
        device: Where the tensors go.
        accept_changes: Go on from a checkpoint of another version of torch or ssl_rs, though not bit for bit.
        set_aside: Rename damaged ones once an older one was loaded, so that they do not count among those kept; only
            one process may.

    Returns:
        How far the run was, or None where there is no checkpoint.

    Raises:
        InputError: None of the checkpoints is whole, or they are of other versions, or fit another network.
        OSError: One cannot be read, though it may be whole; torch.OutOfMemoryError and MemoryError likewise.
        OtherRunError: They belong to a run with another identity.
    """
    found = _newest_whole(folder)
    if found is None:
        return None
    path, content, damaged = found
    try:
        _compare(path, content["identity"], vars(identity))
        _compare_surroundings(path, content["surroundings"], vars(Surroundings.here(device)), accept_changes)
        network.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        progress = _progress(content["progress"], device)
    except (InputError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError) as error:  # torch's, of other names, shapes or numbers of parameters
        raise _unfit(path, error) from error
    except Exception as error:  # its checksum is right, so it was written so: by something else
        raise InputError(
            f"{path} was not written by this program: {error!r:.200}. Delete it, or the run's folder."
        ) from error
    for other in damaged if set_aside else []:
        other.rename(other.with_suffix(".damaged"))
    return progress


def _unfit(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} does not fit the network that the present code builds: {' '.join(str(error).split()):.300}. Was a "
        "file changed that a part of your own imports? Restore it, or start anew in another run_dir. Parameters and "
        "buffers have to be made in __init__: those that forward makes are not there yet."
    )


def _newest_whole(folder: Path) -> tuple[Path, dict[str, Any], list[Path]] | None:
    """Return the newest whole checkpoint, what it holds, and the damaged ones that are newer; None where there is none.

    Raises:
        InputError: There are some, and none is whole.
        OSError: One cannot be read, though it may be whole; torch.OutOfMemoryError and MemoryError likewise.
    """
    paths, damaged = _newest_first(folder), list[Path]()
    for path in paths:
        try:
            return path, _read(path), damaged
        except FileNotFoundError:  # the first process has set it aside in the meantime: it was damaged
            continue
        except (OSError, MemoryError, torch.OutOfMemoryError):  # of the machine: the file may be whole
            raise
        except Exception as error:  # what was cut short or changed, or is none of ours, raises what its bytes lead to
            warnings.warn(f"{path} is damaged ({error}); going back to the checkpoint before it.", stacklevel=3)
            damaged.append(path)
    if paths:
        raise InputError(
            f"No checkpoint in {folder} is whole. Delete the folder {folder.parent} to start this run again."
        )
    return None


def _progress(stored: Mapping[str, Any], device: torch.device) -> Progress:
    """Return how far the run was.

    Raises:
        TypeError: It makes no sense.
    """
    progress = Progress(**stored)
    counts = (progress.step, progress.count, progress.skipped, progress.collapsed)
    sound = all(type(each) is int and each >= 0 for each in counts)
    if not sound or not all(isinstance(each, Tensor) for each in progress.sums.values()):
        raise TypeError(f"progress is {stored!r:.80}")
    progress.sums = {name: value.to(device) for name, value in progress.sums.items()}
    return progress


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: (len(path.name), path.name), reverse=True)


def _read(path: Path) -> dict[str, Any]:
    content_and_seal = memoryview(path.read_bytes())
    end = max(0, len(content_and_seal) - len(SEAL) - 2 * hashlib.sha256().digest_size)
    packed, seal = content_and_seal[:end], content_and_seal[end:]
    if seal != SEAL + hashlib.sha256(packed).hexdigest().encode():
        raise ValueError("its checksum is wrong")
    # Network and optimizer take to the device what they keep there: Adam's counts stay, unless it is fused.
    content: dict[str, Any] = torch.load(BytesIO(packed), map_location="cpu", weights_only=True)
    missing = {"model", "optimizer", "progress", "identity", "surroundings"} - content.keys()
    if missing:
        raise KeyError(f"{', '.join(sorted(missing))} missing")
    return content


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    return {key: f"{key} was {stored.get(key)}, is {own[key]}" for key in own if stored.get(key) != own[key]}


def _compare(path: Path, stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    different = _differences(stored, own)
    if different.keys() == {"precision"}:  # the config is the same: it says auto
        raise OtherRunError(
            f"{path} was written where trainer.precision=auto means {stored.get('precision')}, here it means "
            f"{own['precision']}: the run goes on only on a device of that kind. Go on there; or delete the run's "
            f"folder, or name the precision, which makes another run: trainer.precision={stored.get('precision')}."
        )
    if different:
        raise OtherRunError(
            f"{path} belongs to another run: {'; '.join(different.values())}. "
            "Start it as it was started before, choose another run_dir, or delete the run's folder."
        )


def _compare_surroundings(path: Path, stored: Mapping[str, Any], own: Mapping[str, Any], accept_changes: bool) -> None:
    different = _differences(stored, own)
    refused = [text for key, text in different.items() if key in MUST_AGREE]
    if refused and not accept_changes:
        raise InputError(
            f"{path}: {'; '.join(refused)}. Install what it was before, or set trainer.accept_other_versions=true: "
            "the run then goes on, but not bit for bit."
        )
    if different:
        told = "; ".join(different.values())
        warnings.warn(f"{path}: {told}: the run goes on, but not bit for bit.", stacklevel=3)
