"""Several finished pretrainings where one is meant: a list to choose from, which says what tells them apart."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ssl_rs.config_hash import setting_text
from ssl_rs.errors import InputError, counted
from ssl_rs.run_directory import RunDirectory
from ssl_rs.seen_images import read_seen

MOST_NAMED = 3
"""Settings of a pretraining that are told; more could not be read."""

TOLD_OTHERWISE = ("seed", "trainer.max_steps")
"""Settings that stand in no list of them: they have words of their own."""

OF_TASKS = "pretext."
"""How the keys of tasks begin: which tasks there were tells the folder, and settings of one tell only those apart that
have it."""


class SeveralPretrainingsError(InputError):
    """A name stands for several pretrainings.

    Args:
        asked: Begins the message: what was asked for, and "there are".
        folders: Of the pretrainings.
        base: Folder from which patterns are looked for.
        present: Manifest of the data as they are now, None where it is not known.
    """

    def __init__(self, asked: str, folders: Sequence[Path], base: Path, present: str | None = None) -> None:
        self.asked, self.folders, self.base = asked, folders, base
        super().__init__("\n".join([f"{asked} {len(folders)} finished pretrainings; name one:", *self._lines(present)]))

    def beside(self, present: str | None) -> "SeveralPretrainingsError":
        """Return the same error, which says which of them were made from the present data."""
        return SeveralPretrainingsError(self.asked, self.folders, self.base, present)

    def _lines(self, present: str | None) -> list[str]:
        found = sorted((_Candidate.read(folder) for folder in self.folders), key=lambda each: (each.ended, each.folder))
        lines = [f"  initialization.run={each.folder}  ({each.told_among(found, present)})" for each in found]
        patterns = [pattern for each in found if (pattern := self._pattern(each.folder))]
        hint = "A pattern that fits one alone will do, e.g. 'initialization.run={}'."
        hints = [hint.format(each) for each in patterns[-1:]]
        if self.asked.startswith("initialization.run="):
            hints.append("In a sweep over initialization.run give all its values again, with this one in its place.")
        return [*lines, *hints]

    def _pattern(self, folder: Path) -> str | None:
        """Return what stands for a pretraining and is shorter to write: its tasks, seed, maybe some of its hash.

        None where others fit, too.
        """
        if not folder.is_relative_to(self.base) or "-" not in folder.name:
            return None
        seed, _, digest = folder.name.partition("-")
        for known in ("", digest[:4]):
            pattern = f"{folder.relative_to(self.base).parent}/{seed}-{known}*"
            if [path for path in self.base.glob(pattern) if path in self.folders] == [folder]:
                return pattern
        return None


@dataclass(frozen=True)
class _Candidate:
    """A finished pretraining.

    Args:
        folder: Where it lies.
        result: Its result.json; empty where that cannot be read.
        ended: When that was written, in seconds since 1970.
        images: How many it has seen; 0 where it does not tell.
    """

    folder: Path
    result: Mapping[str, Any]
    ended: float
    images: int

    @classmethod
    def read(cls, folder: Path) -> "_Candidate":
        run = RunDirectory(folder)
        result: Mapping[str, Any] = {}
        images = 0
        with suppress(InputError):  # what is damaged is told when it is chosen
            result = run.read_result() or {}
        with suppress(InputError):
            images = len(read_seen(run).images)
        return cls(folder, result, run.result.stat().st_mtime, images)

    def told_among(self, others: Sequence["_Candidate"], present: str | None) -> str:
        """Say in a few words what tells it from the others, and when it ended.

        Args:
            others: All from which one is to be chosen, this one too.
            present: Manifest of the data as they are now, None where it is not known.
        """
        results = [each.result for each in others]
        said = [f"{self.result.get('steps')} steps"] if _differ(results, "steps") else []
        said += [f"seed {self.result.get('seed')}"] if _differ(results, "seed") else []
        said += [*self._settings(results), *self._data(others, present)]
        return ", ".join([*said, f"ended {datetime.fromtimestamp(self.ended):%Y-%m-%d %H:%M}"])

    def _settings(self, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return its own values of the settings that are not those of all."""
        all_settings = [_settings_of(result) for result in results]
        own = _settings_of(self.result)
        same_tasks = [each for each in all_settings if _tasks(each) == _tasks(own)]
        named = []
        for key, value in sorted(own.items()):
            among = same_tasks if key.startswith(OF_TASKS) else [each for each in all_settings if key in each]
            if key not in TOLD_OTHERWISE and _differ(among, key):
                named.append(setting_text(key, value))
        more = len(named) - MOST_NAMED
        return [*named[:MOST_NAMED], *([counted(more, "more setting")] if more > 0 else [])]

    def _data(self, others: Sequence["_Candidate"], present: str | None) -> list[str]:
        """Say whether it was made from the present data, and from how many images, where others were not."""
        manifest = self.result.get("manifest_sha256")
        differ = _differ([each.result for each in others], "manifest_sha256")
        said = []
        if present is not None and (differ or manifest != present):
            said = ["made from the present data" if manifest == present else "made from other data than the present"]
        elif differ:
            said = [f"made from data {str(manifest)[:8]}"]
        seen = {each.images for each in others}
        return [*said, *([f"{self.images} images"] if len(seen) > 1 and self.images else [])]


def _settings_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found = result.get("settings")
    return found if isinstance(found, Mapping) else {}


def _tasks(settings: Mapping[str, Any]) -> set[str]:
    """Return the names of the tasks that settings are of."""
    return {key.split(".")[1] for key in settings if key.startswith(OF_TASKS)}


def _differ(records: Sequence[Mapping[str, Any]], key: str) -> bool:
    return len({str(record.get(key)) for record in records}) > 1
