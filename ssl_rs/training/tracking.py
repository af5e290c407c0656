"""Mirrors of metrics.jsonl: Weights & Biases, or none."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ssl_rs.errors import InputError, in_a_line

FORBIDDEN, LONGEST_NAME = "/\\#?%:", 128
"""Of the name of a project."""


class Tracker(Protocol):
    """Shows the lines of metrics.jsonl somewhere else; nothing is ever read back from it."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Mirror one line."""
        ...

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Close the mirror; `result` is None where the run did not finish."""
        ...


@contextmanager
def closed_on_error(tracker: Tracker) -> Iterator[None]:
    """Within it, whatever ends the run closes its mirror: wandb would log the next run of this process into it."""
    try:
        yield
    except BaseException:
        tracker.finish(None)
        raise


class Logger(Protocol):
    """Opens the mirror of a run."""

    def open(self, run: Path, name: str, config: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> Tracker:
        """Open the mirror of the run and show it the lines that are there already.

        Args:
            run: Folder of the run.
            name: Short name of the run, the same after a restart.
            config: The resolved config.
            past: The lines that an earlier start of the same run wrote.
        """
        ...


@dataclass(frozen=True)
class NoLogger:
    """No mirror."""

    def open(self, run: Path, name: str, config: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> Tracker:
        """Return a tracker that shows nothing."""
        return _Nowhere()


@dataclass(frozen=True)
class _Nowhere:
    def log(self, line: Mapping[str, Any]) -> None:
        """Show nothing."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Close nothing."""


MODES = {
    "auto": "auto", "online": "online", "run": "online", "offline": "offline", "dryrun": "offline",
    "shared": "online", "disabled": "disabled",
}  # fmt: skip
"""What WANDB_MODE may say, older names too, and what it means."""


@dataclass(frozen=True)
class WandbLogger:
    """Mirror a run to Weights & Biases.

    Without a key it writes an offline run into the run's folder (`wandb sync` uploads it) and never asks for one.
    Offline runs cannot be resumed: after a restart the new one gets the past lines first, so that each is whole.

    Args:
        project: Project of the dashboard.
        entity: Team; null: the default of the key.
        mode: "auto" is what WANDB_MODE says, else online with a key, else offline.
    """

    project: str = "ssl_rs"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"

    def __post_init__(self) -> None:
        """Refuse a project that wandb has no name for, and to be online without a key."""
        if not self.project or len(self.project) > LONGEST_NAME or set(self.project) & set(FORBIDDEN):
            raise InputError(
                f"logger.project={self.project!r:.80}: expected 1 to {LONGEST_NAME} characters, none of {FORBIDDEN}. A "
                "team is named by logger.entity."
            )
        if self.mode == "auto" and (said := (os.environ.get("WANDB_MODE") or "auto")) not in MODES:
            raise InputError(
                f"WANDB_MODE={said!s:.40}: expected one of {', '.join(MODES)}. Change the variable, unset it, or "
                "choose logger.mode=online or offline."
            )
        if self.mode == "online" and not _has_key():
            raise InputError(
                "logger.mode=online needs a key: set WANDB_API_KEY, run `wandb login`, or choose logger.mode=offline."
            )

    def open(self, run: Path, name: str, config: Mapping[str, Any], past: Sequence[Mapping[str, Any]]) -> Tracker:
        """Start the run's mirror."""
        has_key = _has_key()
        wish = MODES[(os.environ.get("WANDB_MODE") or "auto")] if self.mode == "auto" else self.mode
        if wish == "disabled":
            return _Nowhere()
        online = has_key and wish != "offline"
        try:
            session = self._start(run, name, config, online)
        except Exception as error:  # no network, a key that is not accepted, or its process, which runs share, is gone
            if online:
                warnings.warn(f"wandb cannot be reached ({in_a_line(error)}); logging offline.", stacklevel=2)
            _forget_process()
            online = False
            try:
                session = self._start(run, name, config, online)
            except Exception as again:
                _warn_of_loss(again)
                return _Nowhere()
        tracker = _WandbTracker(session)
        for line in past if not online else ():
            tracker.log(line)
        return tracker

    def _start(self, run: Path, name: str, config: Mapping[str, Any], online: bool) -> Any:
        import wandb

        return wandb.init(
            project=self.project,
            entity=self.entity,
            name=name,
            id=name if online else None,
            resume="allow" if online else None,
            dir=str(run),
            config=dict(config),
            mode="online" if online else "offline",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )


def _has_key() -> bool:
    """Tell whether wandb would log in without asking: by the environment, or by what `wandb login` wrote."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host in netrc(os.environ.get("NETRC", Path.home() / ".netrc")).hosts
    except (OSError, NetrcParseError, ValueError, RuntimeError):  # no text, or nobody knows whose home this is
        return False


@dataclass
class _WandbTracker:
    """A run of wandb; where that is lost, e.g. since its process was killed, the mirror ends and the run goes on."""

    session: Any
    is_lost: bool = False

    def log(self, line: Mapping[str, Any]) -> None:
        """Log one line at its step."""
        values = {key: value for key, value in line.items() if key != "step"}
        self._try(lambda: self.session.log(values, step=line["step"]))

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Put the numbers of the result into the summary and close the run."""
        if result is not None:
            numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
            self._try(lambda: self.session.summary.update(numbers))
        self._try(lambda: self.session.finish(exit_code=0 if result is not None else 1))

    def _try(self, action: Callable[[], object]) -> None:
        if self.is_lost:
            return
        try:
            action()
        except Exception as error:  # of whichever kind its connection raises: the mirror must not stop a run
            self.is_lost = True
            _warn_of_loss(error)
            _forget_process()


def _warn_of_loss(error: Exception) -> None:
    warnings.warn(
        f"wandb is lost ({in_a_line(error)}): the run goes on without it. metrics.jsonl has every line.", stacklevel=2
    )


def _forget_process() -> None:
    """Leave wandb's own process, which may be gone: the next run of this one starts another."""
    import wandb

    with suppress(Exception):
        wandb.teardown(exit_code=1)
