"""The statistics of BatchNorm of random weights, which have none of their own: measured on training images."""

from torch.optim.swa_utils import update_bn

from ssl_rs.data.sampling import to_unit
from ssl_rs.data.scene_crops import SceneCrops, goes_in_passes
from ssl_rs.precision import autocast
from ssl_rs.randomness import Rows
from ssl_rs.segmentation.dense_features import DenseFeatures
from ssl_rs.stages.site import Site

MEASURED_BATCHES, MEASURED_SIZE = 16, 16
"""Of unlabeled training windows, on which the statistics of BatchNorm of random weights are measured."""


def how_measured(kind: str, site: Site, side: int) -> dict[str, str]:
    """Return what is said of BatchNorm where its statistics are measured: random weights have none of their own.

    Args:
        kind: Of the initialization.
        site: As of `measure_batch_norm`.
        side: Likewise.
    """
    if kind != "random":
        return {}
    scenes = [site.store.manifest.scenes[each] for each in site.store.scenes_of("train")]
    # Earlier versions drew other windows where there is more to tell.
    where = ", drawn by their pixels with data" if any(scene.valid_share < 1 for scene in scenes) else ""
    where += ", in passes over the images" if goes_in_passes(scenes, side) else ""
    return {"batch_norm": f"measured on {MEASURED_BATCHES} x {MEASURED_SIZE} windows{where}"}


def measure_batch_norm(site: Site, side: int, features: DenseFeatures) -> None:
    """Give random weights the statistics of BatchNorm that any weights which saw images have.

    Those that a new layer starts with, mean 0 and variance 1, are true of no image: they would handicap the baseline
    that pretraining is measured by. No label is read.

    Args:
        site: Its training scenes are read.
        side: Pixels a side of a window.
        features: On the device of the site.
    """
    crops = SceneCrops(site.store, ("train",), side, site.seed)
    rows, scale = Rows(0, MEASURED_SIZE, MEASURED_SIZE), site.store.manifest.value_scale
    batches = (crops.batch(step, rows).images.to(site.device) for step in range(MEASURED_BATCHES))
    with autocast(site.device, site.precision):
        update_bn((to_unit(batch, scale) for batch in batches), features)
    features.eval()
