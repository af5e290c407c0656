"""Scores of validation scenes while a network trains: to be looked at, not to choose weights by."""

from dataclasses import dataclass, replace
from functools import partial

from ssl_rs.config import Settings
from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.segmentation.network import Segments
from ssl_rs.stages.evaluation import Evaluator
from ssl_rs.training.job import Validation

KEY = "evaluation.every_steps"


def read_every_steps(settings: Settings) -> int | None:
    """Read how often validation scenes are scored; None: never.

    Raises:
        InputError: Less than 1.
    """
    every_steps: int | None = settings.value(KEY, int | None)
    if every_steps is not None and every_steps < 1:
        raise InputError(f"{KEY}={every_steps}: expected at least 1, or null for never.")
    return every_steps


@dataclass(frozen=True)
class Validator:
    """Scores the validation scenes of a data set as the result is scored.

    Args:
        every_steps: How often.
        evaluator: Of the validation scenes.
    """

    every_steps: int
    evaluator: Evaluator

    @classmethod
    def of(cls, evaluator: Evaluator, every_steps: int) -> "Validator":
        """Return what scores validation scenes as an evaluator scores others.

        Raises:
            InputError: There are no such scenes, or none with a pixel that counts.
        """
        if not evaluator.store.scenes_of("val"):
            raise InputError(
                f"{KEY}={every_steps}: {evaluator.store.manifest.dataset} has no validation scenes to score. Leave it "
                f"out, or {evaluator.settings.dataset.how_to_validate}."
            )
        try:
            return cls(every_steps, replace(evaluator, settings=replace(evaluator.settings, split="val")))
        except InputError as error:
            raise InputError(
                f"{KEY}={every_steps}: no validation scene of {evaluator.store.manifest.dataset} has a labeled pixel "
                f"that counts by dataset.protocol={evaluator.settings.dataset.protocol}. Check their masks, or leave "
                "it out."
            ) from error

    def of_network(self, network: Segments, processes: Processes) -> Validation:
        """Return what the training loop calls."""
        return Validation(self.every_steps, partial(self.evaluator.measure, network, processes))
