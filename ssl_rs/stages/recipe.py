"""What pretraining and fine-tuning share of settings: the encoder, where its weights start, how they are optimized."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from torch import nn

from ssl_rs.build import check_call, explained
from ssl_rs.config import Settings
from ssl_rs.encoder import Backbone
from ssl_rs.errors import InputError, MissingWeightsError
from ssl_rs.initialization import Initialization, Provenance, Target
from ssl_rs.run_directory import RunDirectory
from ssl_rs.several_pretrainings import SeveralPretrainingsError
from ssl_rs.stages.site import Site, SiteSettings
from ssl_rs.training.schedule import Schedule, check_schedule
from ssl_rs.training.tracking import Logger


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
        """Build the components.

        Raises:
            InputError: The backbone is none of ours, or a component cannot be built.
        """
        backbone, initialization = settings.build("backbone"), settings.build("initialization")
        optimizer = settings.build("optimizer", made_later=True)
        schedule, logger = settings.build("schedule"), settings.build("logger")
        if type(backbone) is not Backbone:  # all else knows an encoder by its name
            kind = settings.values["backbone"].get("_target_")
            raise InputError(
                f"backbone._target_={kind}: encoders are those of segmentation-models-pytorch and timm, which "
                "ssl_rs.encoder.Backbone builds by name, which all commands know them by. Choose one of theirs."
            )
        return cls(backbone, initialization, optimizer, schedule, logger, settings.value("run_dir", str | None))

    def check(self, surroundings: SiteSettings, planned: bool = False) -> None:
        """Refuse what is wrong whatever the data holds.

        Args:
            surroundings: Where it runs.
            planned: It runs later: the weights that it starts from may not be there yet.

        Raises:
            InputError: Settings of the optimizer, a schedule without a factor, weights that are not there, or a folder
                of somebody else's.
        """
        with explained("optimizer", self.optimizer.keywords):
            weight = nn.Parameter(torch.zeros(1))
            weight.grad = torch.zeros(1)
            step = self.optimizer([weight]).step
            needed = [each.name for each in signature(step).parameters.values() if each.default is each.empty]
            if needed:
                raise TypeError(
                    f"a step of {self.optimizer.func.__name__} needs a {needed[0]}, which no step here has."
                )
            if surroundings.trainer.computes_on_cpu:  # elsewhere it would open a context on a GPU
                _try(step)
        check_call(self.schedule, "schedule", ("step", "max_steps"))
        check_schedule(self.schedule, surroundings.trainer.max_steps)
        if self.run_dir and not planned:
            RunDirectory(Path(self.run_dir)).check_own()
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

    def starts_from(self, site: Site) -> Provenance | None:
        """Return what the encoder starts from, None where it is not there: applying it then says why.

        Raises:
            InputError: It is there and cannot be used.
        """
        try:
            return self.initialization.locate(self.target(site))
        except MissingWeightsError:
            return None


def _try(step: Callable[[], object]) -> None:
    """Take a step of an optimizer, which may refuse only then.

    Raises:
        ValueError: What it asserts does not hold.
    """
    try:
        step()
    except AssertionError as error:
        raise ValueError(str(error)) from error
