"""What pretraining and fine-tuning share: where weights start, how they are optimized, and the folder of the run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_rs import batch_norm
from ssl_rs.build import explained
from ssl_rs.config import Settings, read_yaml, to_yaml
from ssl_rs.config_hash import LATER, NULL_MEANT, config_hash, leaves, without_effect
from ssl_rs.depthwise import train_depthwise_in_fp32
from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError, InUseError, MissingWeightsError
from ssl_rs.hidden import hide_secrets
from ssl_rs.initialization import Initialization, Provenance, Target
from ssl_rs.run_directory import RunDirectory
from ssl_rs.several_pretrainings import SeveralPretrainingsError
from ssl_rs.stages.outcome import tell
from ssl_rs.stages.site import Site, SiteSettings, environment
from ssl_rs.training.job import Job, Validation, as_it_is
from ssl_rs.training.loop import train
from ssl_rs.training.schedule import Schedule
from ssl_rs.training.settings import TrainerSettings
from ssl_rs.training.state import Identity, OtherRunError, Progress
from ssl_rs.training.tracking import Logger, NoLogger, Tracker


@dataclass(frozen=True)
class Recipe:
    """The components that both stages read from their config.

    Args:
        backbone: Which encoder.
        initialization: How its weights start.
        optimizer: Takes the parameters.
        schedule: Factor of the learning rate by step.
        logger: Opens the mirror of the logs.
        run_dir: The folder that the user chose, None: the one that follows from the config.
        decoder: Name of the decoder that is initialized too, None where there is none.
    """

    backbone: Backbone
    initialization: Initialization
    optimizer: "partial[torch.optim.Optimizer]"
    schedule: Schedule
    logger: Logger
    run_dir: str | None
    decoder: str | None = None

    @classmethod
    def read(cls, settings: Settings) -> "Recipe":
        """Build the components."""
        names = ("backbone", "initialization", "optimizer", "schedule", "logger")
        backbone, initialization, optimizer, schedule, logger = (settings.build(name) for name in names)
        return cls(backbone, initialization, optimizer, schedule, logger, settings.value("run_dir", str | None))

    def check(self, surroundings: SiteSettings, planned: bool = False) -> None:
        """Refuse what is wrong whatever the data holds.

        Args:
            surroundings: Where it runs.
            planned: It runs later: the weights that it starts from may not be there yet.

        Raises:
            InputError: Settings of the optimizer, or weights that are not there.
        """
        with explained("optimizer"):
            self.optimizer([nn.Parameter(torch.zeros(1))])
        dataset, backbone = surroundings.dataset, self.backbone.name
        pretrainings = surroundings.pretrainings(backbone)
        try:
            with suppress(MissingWeightsError) if planned else nullcontext():
                self.initialization.check(dataset.name, backbone, pretrainings, dataset.value_scale)
        except SeveralPretrainingsError as error:
            raise error.beside(surroundings.prepared_manifest()) from None

    def target(self, site: Site) -> Target:
        """What the initialization must fit."""
        return replace(site.target(self.backbone), decoder=self.decoder)

    def locate(self, site: Site) -> Provenance | None:
        """Return what the encoder starts from, None where it is not there: applying it then says why.

        Raises:
            InputError: It is there and cannot be used.
        """
        try:
            return self.initialization.locate(self.target(site))
        except MissingWeightsError:
            return None

    def lacks(self, site: Site) -> str | None:
        """Return why what the encoder starts from is not there; None where it is.

        Raises:
            InputError: It is there and cannot be used.
        """
        try:
            self.initialization.locate(self.target(site))
        except MissingWeightsError as error:
            return str(error)
        return None


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

    def origin(self, site: Site) -> dict[str, Any]:
        """Return what result.json says of how it came about, so that it can be judged where it lies alone."""
        made_with = environment(site)
        told = ("git_commit", "python", "torch", "device", "precision", "world_size")
        command = {"overrides": [*map(hide_secrets, self.overrides)]}
        return {"settings": self.settings, "made_with": {key: made_with[key] for key in told} | command}

    def is_finished(self, command: str) -> bool:
        """Tell whether the run has its result.

        Raises:
            InputError: The folder holds the result of something else.
        """
        result = self.directory.read_result()
        if result is None:
            return False
        found = {key: result.get(key) for key in ("command", "config_hash")}
        if found != {"command": command, "config_hash": self.hash}:
            raise InputError(
                f"run_dir={self.directory.path} holds a finished {found['command']} with other settings (hash "
                f"{found['config_hash']}, these have {self.hash}). Choose another run_dir, or leave it out."
            )
        self.directory.drop_checkpoints()
        tell(f"{self.directory.path} was finished before", result)
        return True


def identify(
    settings: Settings, site: Site, recipe: Recipe, folder: Path, inputs: Mapping[str, str | None],
    without: Sequence[str] = (),
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
    found = recipe.locate(site)
    content = {
        "manifest": site.store.manifest.sha256,
        "encoder": found.sha256 if found else unavailable(settings),
        **({"decoder": found.decoder_sha256} if found and found.decoder_sha256 else {}),
        "global_batch": str(site.rows.total),
        **_statistics(site, found),
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
    named = node["run"] or node["weights"]
    return f"unavailable: {named}" if named else "unavailable"


@contextmanager
def opened(run: RunDirectory, config: Mapping[str, Any], site: Site) -> Iterator[None]:
    """Hold the folder of what needs no training, and write down what runs there.

    Args:
        run: The folder.
        config: The settings, as config.yaml shows them.
        site: Where it runs.

    Raises:
        InputError: As `held`; or a training that is not finished lives there.
    """
    with held(run, site):
        if any(run.checkpoints.glob("*")):
            raise InputError(
                f"run_dir={run.path} holds a training that is not finished. Choose another run_dir, or leave it out."
            )
        if site.processes.is_first:
            run.begin(to_yaml(config), environment(site))
        yield


@contextmanager
def held(run: RunDirectory, site: Site) -> Iterator[None]:
    """Hold the run's folder.

    Raises:
        InUseError: Another process holds it, or has finished the run.
        InputError: It holds what no run wrote.
    """
    if not site.processes.is_first:
        yield
        return
    run.check_own()
    lock = run.lock()
    try:
        if run.read_result() is not None:
            raise InUseError(f"{run.path} was finished by another process just now. Start the command again.")
        run.drop_half_written()
        yield
    finally:
        lock.close()


def place_network(network: nn.Module, encoder: nn.Module, site: Site, recipe: Recipe) -> torch.optim.Optimizer:
    """Move the network to its device, make its ranks one, and give it an optimizer.

    Args:
        network: Holds the encoder.
        encoder: May have a learning rate of its own.
        site: Where it runs.
        recipe: The optimizer.

    Raises:
        InputError: The optimizer refuses its settings.
    """
    network.to(site.device).to(memory_format=torch.channels_last)
    batch_norm.synchronize_batch_norm(network, site.device)
    train_depthwise_in_fp32(network, site.device)
    with explained("optimizer"):
        optimizer = recipe.optimizer(_parameter_groups(network, encoder, site.trainer))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * group.pop("lr_factor", 1.0)
    return optimizer


def _parameter_groups(network: nn.Module, encoder: nn.Module, trainer: TrainerSettings) -> list[Any]:
    """Return what is trained: all parameters alike, or groups of which the encoder's and the undecayed come later."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    of_encoder = set(encoder.parameters()) if trainer.encoder_lr_factor != 1 else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in trained:
        undecayed = not trainer.decay_norms_and_biases and parameter.ndim <= 1
        groups.setdefault((parameter in of_encoder, undecayed), []).append(parameter)
    if not of_encoder and trainer.decay_norms_and_biases:
        return trained
    return [
        {"params": groups[inside, undecayed]}
        | ({"lr_factor": trainer.encoder_lr_factor} if inside else {})
        | ({"weight_decay": 0.0} if undecayed else {})
        for inside, undecayed in sorted(groups)
    ]


def train_network(
    network: nn.Module, optimizer: torch.optim.Optimizer, site: Site, recipe: Recipe, run: Identified,
    weights: Mapping[str, float], crops: Callable[[int], Iterator[Any]], make_batch: Callable[[Any, int], Any],
    config: Mapping[str, Any], probe: Callable[[], Mapping[str, Tensor]] | None = None,
    after_step: Callable[[int, int], None] | None = None, begin: Callable[[], None] | None = None,
    validation: Validation | None = None, complete: Callable[[Any], Any] = as_it_is,
    after_part: Callable[[int], None] | None = None,
) -> tuple[Progress, Tracker]:  # fmt: skip
    """Train the network from where it stopped.

    Args:
        network: Maps a batch to named outputs; on its device.
        optimizer: Over its parameters.
        site: Where it runs.
        recipe: Schedule and logger.
        run: Its folder and hash.
        weights: Factor of each output's loss.
        crops: Stored crops from a step on.
        make_batch: Brings the crops of a step to the device, with what is drawn for them.
        config: The settings, as config.yaml and the mirror of the logs show them.
        probe: Numbers that tell whether features collapsed.
        after_step: Moves what no optimizer moves, after each of its steps.
        begin: What the first process also writes down once nothing speaks against the run.
        validation: Scores that are told on the way.
        complete: Makes the network's input of that.
        after_part: Notes what the probe looks at, after the forward pass of each part of a batch.

    Raises:
        InputError: As `train`; of a folder that holds another run, with the settings that differ.
    """
    site.settle_memory()
    identity = Identity(run.hash, site.processes.world_size, site.precision)
    job = Job(
        network, crops, make_batch, weights, optimizer, recipe.schedule, site.trainer, site.device, run.directory,
        identity, site.processes, site.seed, probe, after_step, validation, complete=complete,
        after_part=after_part,
    )  # fmt: skip

    def open_tracker() -> Tracker:
        logger = recipe.logger if site.processes.is_first else NoLogger()
        directory = run.directory
        if site.processes.is_first:
            directory.begin(to_yaml(config), environment(site))
        if site.processes.is_first and begin is not None:
            begin()
        name = f"{directory.path.name}-{run.hash}" if recipe.run_dir else directory.path.name
        return logger.open(directory.path, name, config, directory.read_metrics())

    try:
        return train(job, open_tracker)
    except OtherRunError as error:
        different = changed_settings(read_yaml(run.directory.config), config) if run.directory.config.is_file() else []
        raise InputError(f"{error} Settings that differ: {'; '.join(different) or 'none'}.") from error


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
    return [f"{key} was {before}, is {now}" for key, (before, now) in pairs.items() if before != now]
