"""The folder of a run, held while a process works in it, so that no other does."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from ssl_rs import distributed
from ssl_rs.config import to_yaml
from ssl_rs.errors import InputError, InUseError
from ssl_rs.run_directory import RunDirectory
from ssl_rs.stages.environment import environment
from ssl_rs.stages.site import Site


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
    with ExitStack() as stack:
        with distributed.others_wait(site.processes):
            if site.processes.is_first:
                run.check_own()
                stack.enter_context(closing(run.lock()))
                if run.read_result() is not None:
                    raise InUseError(f"{run.path} was finished by another process just now. Start the command again.")
                run.drop_half_written()
        yield
