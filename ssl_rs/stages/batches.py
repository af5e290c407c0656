"""How the batch of a step comes about: what is drawn on the CPU, then what is computed from it on the device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ssl_rs.stages.site import Site
from ssl_rs.training.cuda_graph import is_known

Crops = TypeVar("Crops")
Numbers = TypeVar("Numbers")


@dataclass(frozen=True)
class Drawn(Generic[Crops, Numbers]):
    """Stored crops on the run's device, and what is random in what is made of them.

    Args:
        crops: As the store has them.
        numbers: What the makers of views, or the augmentation, drew.
    """

    crops: Crops
    numbers: Numbers


def completes_with(site: Site, parts: Iterable[object]) -> bool:
    """Tell whether a step may complete its batch by these: a recording would run a user's own once, and never again.

    Args:
        site: Where the run is.
        parts: What makes views, or augments.
    """
    return site.device.type != "cuda" or site.trainer.cuda_graph != "auto" or all(map(is_known, parts))
