"""A network trained in its run's folder, from where an earlier start was stopped."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ssl_rs.config import read_yaml, to_yaml
from ssl_rs.errors import InputError, some
from ssl_rs.stages.environment import environment
from ssl_rs.stages.identified import Identified, changed_settings
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site
from ssl_rs.training.job import Job
from ssl_rs.training.loop import train
from ssl_rs.training.state import OtherRunError, Progress
from ssl_rs.training.tracking import NoLogger, Tracker


def train_network(
    job: Job, site: Site, recipe: Recipe, run: Identified, config: Mapping[str, Any],
    begin: Callable[[], None] | None = None,
) -> tuple[Progress, Tracker]:  # fmt: skip
    """Train a network from where it stopped.

    Args:
        job: What is trained.
        site: Where it runs.
        recipe: The logger.
        run: Its folder and hash.
        config: The settings, as config.yaml and the mirror of the logs show them.
        begin: What the first process also writes down once nothing speaks against the run.

    Raises:
        InputError: As `train`; of a folder that holds another run, with the settings that differ.
    """
    site.settle_memory()
    try:
        return train(job, partial(_open_tracker, site, recipe, run, config, begin))
    except OtherRunError as error:
        raise InputError(f"{error} Settings that differ: {_differences(run, config, error)}.") from error


def _open_tracker(
    site: Site, recipe: Recipe, run: Identified, config: Mapping[str, Any], begin: Callable[[], None] | None
) -> Tracker:
    """Write down what the run is, on the first process, and open the mirror of its logs."""
    directory = run.directory
    logger = recipe.logger if site.processes.is_first else NoLogger()
    if site.processes.is_first:
        directory.begin(to_yaml(config), environment(site))
        if begin is not None:
            begin()
    name = f"{directory.path.name}-{run.hash}" if recipe.run_dir else directory.path.name
    return logger.open(directory.path, name, config, directory.read_metrics())


def _differences(run: Identified, config: Mapping[str, Any], error: OtherRunError) -> str:
    """Return which settings of a folder's run are others than these; "none", and what it is then, where none is."""
    stored = run.directory.config
    different = changed_settings(read_yaml(stored), config) if stored.is_file() else []
    others = "none, so its data, the weights it starts from or the number of processes are others than before"
    return some(different, between="; ") or (others if "config_hash was" in str(error) else "none")
