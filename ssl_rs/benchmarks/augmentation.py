"""What the fused views save: the same changes by kornia, one after another, and by torchvision, image by image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2

from ssl_rs.benchmarks.base import Findings, Workplace, alternate, check_repeats, milliseconds
from ssl_rs.randomness import Draws, Rows
from ssl_rs.views.base import crop_view, size_of
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.transformed import TransformedMaker

SIDE = (0.7, 0.95)
COLOR = ColorJitter((0.7, 1.3), (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3), 0.5)


@dataclass(frozen=True)
class AugmentationBenchmark:
    """Makes the paper's transformed view of `trainer.batch_size` images of `dataset.crop_size` in three ways.

    With `trainer.compile=true` the fused view is compiled, as it is in a run.

    All draw a flip or rotation, a part that is enlarged to the whole, brightness, contrast, saturation and hue, and
    grayscale for half of the images, for each image on its own. torchvision draws for a whole batch at once, so it
    goes image by image, as in a data loader.

    Args:
        repeats: Turns, of which the median counts.
        calls: Batches a turn.
    """

    repeats: int = 5
    calls: int = 3

    def __post_init__(self) -> None:
        check_repeats(self.repeats, self.calls)

    def __call__(self, workplace: Workplace) -> Findings:
        """Measure on random RGB images, on the device of the run."""
        site = workplace.plan.site
        size, count, device = site.dataset.crop_size, site.trainer.batch_size, site.device
        images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(site.seed)).to(device)
        ways = {
            "fused": fused(images, site.trainer.compile),
            "kornia": kornia_chain(images),
            "torchvision": torchvision_chain(images),
        }
        seconds = alternate(ways, self.repeats, self.calls, device)
        return _findings(seconds, count, size)


def fused(images: Tensor, compiled: bool = False) -> Callable[[], Tensor]:
    """Return what makes the view of images [B, 3, S, S] by one warp and one color matrix."""
    maker = TransformedMaker("crop", SIDE, COLOR)
    crop, rows = crop_view(images, (0, 1, 2)), Rows(0, len(images), len(images))
    make_view = maker.make
    if compiled:
        draws = Draws(0, 0, "transformed", rows, images.device)
        maker(crop, draws)  # constants come to the device before they are traced
        make_view = torch.compile(maker.make)
    step = 0

    @torch.no_grad()
    def make() -> Tensor:
        nonlocal step
        step += 1
        draws = Draws(0, step, "transformed", rows, images.device)
        return make_view(crop, *draws.send(*maker.draw(size_of(crop), draws))).image

    return make


def kornia_chain(images: Tensor) -> Callable[[], Tensor]:
    """Return what makes the view of images [B, 3, S, S] by kornia's augmentations, one after another."""
    size = images.shape[-1]
    chain = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        K.RandomRotation90((0, 3), p=0.5),
        K.RandomResizedCrop((size, size), scale=(SIDE[0] ** 2, SIDE[1] ** 2), ratio=(1.0, 1.0)),
        K.ColorJitter(COLOR.brightness, COLOR.contrast, COLOR.saturation, COLOR.hue, p=1.0),
        K.RandomGrayscale(p=COLOR.grayscale),
        data_keys=["input"],
    )

    @torch.no_grad()
    def make() -> Tensor:
        made: Tensor = chain(images)
        return made

    return make


def torchvision_chain(images: Tensor) -> Callable[[], Tensor]:
    """Return what makes the view of images [B, 3, S, S] by torchvision's transforms, image by image."""
    size = images.shape[-1]
    turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
    chain = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice(turns),
            v2.RandomResizedCrop(size, scale=(SIDE[0] ** 2, SIDE[1] ** 2), ratio=(1.0, 1.0), antialias=False),
            v2.ColorJitter(COLOR.brightness, COLOR.contrast, COLOR.saturation, COLOR.hue),
            v2.RandomGrayscale(COLOR.grayscale),
        ]
    )

    @torch.no_grad()
    def make() -> Tensor:
        return torch.stack([chain(image) for image in images])

    return make


def _findings(seconds: Mapping[str, float], count: int, size: int) -> Findings:
    ratios = {name: seconds[name] / seconds["fused"] for name in ("kornia", "torchvision")}
    figures = {
        "images": count,
        "pixels": size,
        "milliseconds": {name: round(value * 1000, 3) for name, value in seconds.items()},
        "times_faster_than": {name: round(value, 2) for name, value in ratios.items()},
    }
    table = [(f"{count} images of {size} px", "ms", "x fused")]
    table += [(name, milliseconds(value), f"{value / seconds['fused']:.1f}") for name, value in seconds.items()]
    told = " and ".join(f"{ratio:.1f} times as fast as {name}" for name, ratio in ratios.items())
    return Findings(figures, table, f"The fused view is {told}.")
