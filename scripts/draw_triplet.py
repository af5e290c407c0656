"""Draw what the triplet network sees: some training crops and the three views made of each.

usage: python scripts/draw_triplet.py OUT.png [override ...]     overrides as of ssl_rs.pretrain
"""

import sys

import matplotlib
import torch
from matplotlib.figure import Figure

from ssl_rs.bands import shown_bands
from ssl_rs.config import Settings, compose_config, resolve
from ssl_rs.data.sampling import to_unit
from ssl_rs.randomness import Rows
from ssl_rs.stages.pretraining import read_plan, scene_crops, views_of

CROPS = 5


def main(out: str, overrides: list[str]) -> None:
    """Write the picture: a column a crop, a row a view."""
    plan = read_plan(Settings("pretrain", resolve(compose_config("pretrain", overrides))))
    manifest, rows = plan.site.store.manifest, Rows(0, CROPS, CROPS)
    stored = scene_crops(plan, plan.site.seed).batch(0, rows)
    views = views_of(plan, stored, 0, rows)
    crop = to_unit(stored.images, manifest.value_scale)
    named = {"crop": crop, **{name: view.image.cpu() for name, view in views.items()}}
    matplotlib.use("Agg")
    figure = Figure(figsize=(1.6 * CROPS, 1.66 * len(named)), layout="constrained")
    axes = figure.subplots(len(named), CROPS)
    for row, (name, batch) in zip(axes, named.items(), strict=True):
        for axis, image in zip(row, batch, strict=True):
            axis.imshow(torch.movedim(image[list(shown_bands(manifest.bands))], 0, -1).numpy())
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=12)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
