"""Mirrors of metrics.jsonl: Weights & Biases, or none."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ssl_rs.errors import InputError

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
        import wandb

        has_key = _has_key()
        wish = MODES[(os.environ.get("WANDB_MODE") or "auto")] if self.mode == "auto" else self.mode
        if wish == "disabled":
            return _Nowhere()
        online = has_key and wish != "offline"
        try:
            session = self._start(run, name, config, online)
        except wandb.errors.Error as error:  # no network, or a key that is not accepted: the mirror must not stop a run
            warnings.warn(f"wandb cannot be reached ({error}); logging offline.", stacklevel=2)
            online = False
            session = self._start(run, name, config, online)
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
    except (OSError, NetrcParseError):
        return False


@dataclass(frozen=True)
class _WandbTracker:
    session: Any

    def log(self, line: Mapping[str, Any]) -> None:
        """Log one line at its step."""
        self.session.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Put the numbers of the result into the summary and close the run."""
        if result is not None:
            self.session.summary.update({key: value for key, value in result.items() if isinstance(value, int | float)})
        self.session.finish(exit_code=0 if result is not None else 1)
