"""Which run a config is: its hash, its folder, what made it, and in which settings it differs from another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_rs.config import Settings
from ssl_rs.config_hash import LATER, NULL_MEANT, config_hash, leaves, value_text, without_effect
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError, some
from ssl_rs.initialization import Provenance
from ssl_rs.messages import say_line
from ssl_rs.own_code import hashes_of_own
from ssl_rs.pretrained import intact
from ssl_rs.run_directory import RunDirectory
from ssl_rs.secret_values import hide_secrets
from ssl_rs.stages.environment import environment
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site
from ssl_rs.training.state import Identity


@dataclass(frozen=True)
class Identified:
    """A run with its folder, and what made it.

    Args:
        directory: Its folder.
        hash: Of all that can change its result.
        settings: The same by the dotted keys of the config.
        overrides: What the command line of this run alone says.
    """

    directory: RunDirectory
    hash: str
    settings: Mapping[str, Any]
    overrides: Sequence[str]

    def identity(self, site: Site) -> Identity:
        """Return what a checkpoint of the run must agree with."""
        return Identity(self.hash, site.processes.world_size, site.precision)

    def origin(self, site: Site) -> dict[str, Any]:
        """Return what result.json says of how it came about, so that it can be judged where it lies alone."""
        made_with = environment(site)
        told = ("git_commit", "python", "torch", "device", "cpu", "precision", "world_size")
        command = {"overrides": [*map(hide_secrets, self.overrides)]}
        return {"settings": self.settings, "made_with": {key: made_with[key] for key in told} | command}

    def is_finished(self, command: str) -> bool:
        """Tell whether the run has its result.

        Raises:
            InputError: The folder holds the result of something else, or other weights than it wrote.
        """
        result = self.directory.read_result()
        if result is None:
            return False
        found = {key: result.get(key) for key in ("command", "config_hash")}
        if found != {"command": command, "config_hash": self.hash}:
            before = result.get("settings") if found["command"] == command else None
            changed = changed_settings(before, self.settings) if isinstance(before, dict) else []
            raise InputError(
                f"run_dir={self.directory.path} holds a finished {found['command']} with other settings (hash "
                f"{found['config_hash']}, these have {self.hash}). Choose another run_dir, or leave it out."
                + (f" Settings that differ: {some(changed, between='; ')}." if changed else "")
            )
        self.directory.drop_checkpoints()
        tell(f"{self.directory.path} was finished before", result)
        if Processes.from_environment().is_first:
            if command != "evaluate":
                self._check_weights(result)
            if self.directory.failure.exists():  # else a file system that is read-only would refuse even that
                self.directory.failure.unlink()
        return True

    def _check_weights(self, result: Mapping[str, Any]) -> None:
        """Refuse a finished run whose weights are damaged, which nothing could use; tell of those that are gone.

        Raises:
            InputError: A file is not the one that the result names.
        """
        run = self.directory
        files = {"encoder_sha256": run.encoder, "decoder_sha256": run.decoder, "model_sha256": run.model}
        for key, path in files.items():
            if result.get(key) is None:
                continue
            if path.is_file():
                intact(path, result[key], run.anew)
            else:
                say_line(f"{path} is missing. If it is wanted: {run.anew}")


def identify(
    settings: Settings, site: Site, recipe: Recipe, folder: Path, inputs: Mapping[str, str | None],
    without: Sequence[str],
) -> Identified:  # fmt: skip
    """Derive hash and folder from the config and the content of what goes in.

    Args:
        settings: The checked settings.
        site: Where it runs.
        recipe: Its components.
        folder: The folder of its kind, below `output_dir`.
        inputs: The sha256 of further inputs, by name.
        without: Keys that mean nothing to this command.
    """
    found = recipe.starts_from(site)
    content = {
        "manifest": site.store.manifest.sha256,
        "encoder": found.sha256 if found else unavailable(settings),
        **({"decoder": found.decoder_sha256} if found and found.decoder_sha256 else {}),
        "global_batch": str(site.rows.total),
        **_statistics(site, found),
        **hashes_of_own(settings.values, settings.trusted),
        **inputs,
    }
    digest = config_hash(settings.values, content, without)
    own = site.output_dir / folder / f"seed{site.seed}-{digest}"
    counted = {
        key: value
        for key, value in leaves(settings.values).items()
        if not (without_effect(key) or key in without or key.endswith("_partial_"))
    }
    directory = RunDirectory(Path(recipe.run_dir) if recipe.run_dir else own)
    return Identified(directory, digest, counted, settings.overrides)


def _statistics(site: Site, found: Provenance | None) -> dict[str, str]:
    """Return what the hash says where ImageNet's weights get other statistics than in runs of earlier versions."""
    manifest = site.store.manifest
    changed = manifest.dtype == "uint8" and manifest.value_scale != 255
    return {"statistics": found.statistics.source} if found and found.kind == "imagenet" and changed else {}


def unavailable(settings: Settings) -> str:
    """Return what stands for an encoder that is not there yet: planned cells that wait for different ones differ."""
    node = settings.values["initialization"]
    named = node.get("run") or node.get("weights")  # an option of one's own may leave them to their defaults
    return f"unavailable: {named}" if named else "unavailable"


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return "KEY was VALUE, is VALUE" for each setting that differs and may change a result.

    Args:
        before: The stored settings of a run.
        now: Those of this start.
    """
    old, new = (
        {key: NULL_MEANT.get(key) if value is None else value for key, value in leaves(each).items()}
        for each in (before, now)
    )
    counted = [key for key in sorted({*old, *new}) if not without_effect(key)]
    before_it_came = leaves(LATER)
    pairs = {key: [each.get(key, before_it_came.get(key, "not set")) for each in (old, new)] for key in counted}
    different = {key: [*map(value_text, pair)] for key, pair in pairs.items() if pair[0] != pair[1]}
    return [f"{key} was {before}, is {now}" for key, (before, now) in different.items()]
