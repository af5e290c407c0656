"""What the sliding window costs beside the network that it runs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_rs.benchmarks.base import Findings, Workplace, alternate, check_repeats, milliseconds
from ssl_rs.encoder import check_side, input_divisor
from ssl_rs.errors import InputError
from ssl_rs.precision import autocast
from ssl_rs.segmentation.network import build_segmentation_model
from ssl_rs.segmentation.sliding_window import predict_scene, window_starts

CLASSES = 6


@dataclass(frozen=True)
class WindowBenchmark:
    """Times `evaluation.window` over a random scene, and the same network on as many windows that lie on the device.

    Args:
        repeats: Turns, of which the median counts.
        calls: Scenes a turn.
        side: Of the scene, pixels.
    """

    repeats: int = 5
    calls: int = 1
    side: int = 1024

    def __post_init__(self) -> None:
        check_repeats(self.repeats, self.calls)
        if self.side < 1:
            raise InputError(f"benchmark.side={self.side} must be at least 1 pixel.")

    def __call__(self, workplace: Workplace) -> Findings:
        """Measure with the backbone, decoder and windows of the config; the data set gives bands and value scale."""
        plan, window = workplace.plan, workplace.window
        site, manifest = plan.site, plan.site.store.manifest
        bands = len(manifest.bands)
        model = build_segmentation_model(workplace.decoder, plan.recipe.backbone.name, bands, CLASSES)
        check_side(window.size, input_divisor(model), "evaluation.window.size")
        model.eval().to(site.device).to(memory_format=torch.channels_last)
        values = np.random.default_rng(site.seed).random((bands, self.side, self.side)) * manifest.value_scale
        scene = values.astype(manifest.dtype)
        starts = window_starts(self.side, window)
        count = len(starts) ** 2
        batches = [min(window.batch_size, count - first) for first in range(0, count, window.batch_size)]
        images = torch.rand(max(batches), bands, window.size, window.size, device=site.device)

        @torch.no_grad()
        def predict(windows: Tensor) -> Tensor:
            with autocast(site.device, site.precision):
                logits: Tensor = model(windows)
            return logits

        passes = 8 if window.test_time_augmentation else 1  # as many as `mean_over_turns` makes

        def bare() -> None:
            for size in batches:
                for _ in range(passes):
                    predict(images[:size])

        ways = {
            "sliding_window": lambda: predict_scene(predict, scene, manifest.value_scale, window, site.device),
            "bare_network": bare,
        }
        seconds = alternate(ways, self.repeats, self.calls, site.device)
        return _findings(seconds["sliding_window"], seconds["bare_network"], self.side, count)


def _findings(whole: float, bare: float, side: int, windows: int) -> Findings:
    ratio = bare / whole
    figures = {
        "pixels": side,
        "windows": windows,
        "milliseconds": {"sliding_window": round(whole * 1000, 3), "bare_network": round(bare * 1000, 3)},
        "megapixels_per_second": round(side * side / whole / 1e6, 4),
        "window_over_network": round(ratio, 4),
    }
    table = [
        (f"scene of {side} px, {windows} windows", "ms", "windows/s"),
        ("sliding window", milliseconds(whole), f"{windows / whole:.1f}"),
        ("bare network", milliseconds(bare), f"{windows / bare:.1f}"),
    ]
    return Findings(figures, table, f"The sliding window runs at {ratio:.1%} of the bare network's rate.")
