"""Run by torchrun from test_distributed.py: the gradients of one step of each of STAGES, written by rank 0.

usage: gradients_of_ranks.py FOLDER GLOBAL_BATCH
"""

import sys
from dataclasses import replace

import torch

from ssl_rs import batch_norm, distributed
from ssl_rs.distributed import Processes
from ssl_rs.encoder import Backbone, Normalization, Statistics
from ssl_rs.pretext.byol import Byol
from ssl_rs.pretext.contrastive import Contrastive
from ssl_rs.pretext.decoder import AdditiveDecoder
from ssl_rs.pretext.dense_contrastive import DenseContrastive
from ssl_rs.pretext.inpainting import Inpainting
from ssl_rs.pretext.moco_v2 import MoCoV2
from ssl_rs.pretext.momentum import MomentumRule
from ssl_rs.pretext.network import PretextNetwork
from ssl_rs.pretext.simclr import SimClr
from ssl_rs.pretext.transform_prediction import TransformPrediction
from ssl_rs.pretext.vicreg import VicReg
from ssl_rs.randomness import Rows
from ssl_rs.segmentation.loss import SegmentationLoss
from ssl_rs.segmentation.network import (
    CROSS_ENTROPY,
    SegmentationBatch,
    SegmentationNetwork,
    build_segmentation_model,
)
from ssl_rs.views.augmented import AugmentedMaker
from ssl_rs.views.base import crop_view, make_views
from ssl_rs.views.clean import CleanMaker
from ssl_rs.views.corrupted import CorruptedMaker
from ssl_rs.views.fused import ColorJitter
from ssl_rs.views.transformed import TransformedMaker

SIZE = 64
STATISTICS = Statistics((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "a test")


def pretraining(rows, backbone="resnet18"):
    """Return the network and this rank's rows of the views."""
    color = ColorJitter((0.7, 1.3), (0.5, 1.5), (0.5, 1.5), (-0.3, 0.3), 0.5)
    makers = {
        "clean": CleanMaker("crop", 0.5, 0.5, 0.5),
        "transformed": TransformedMaker("clean", (0.7, 0.95), color),
        "corrupted": CorruptedMaker("clean", 6, (0.2, 0.33), color),
    }
    images = torch.rand(rows.total, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    views = make_views(crop_view(images[rows.start : rows.stop]), makers, seed=3, step=5, rows=rows)
    encoder = Backbone(backbone).build(3)
    channels = tuple(encoder.out_channels)
    tasks = {
        "inpainting": Inpainting(
            channels, 3, lambda channels, out_channels: AdditiveDecoder(channels, out_channels, (32, 32, 16, 16))
        ),
        "transform_prediction": TransformPrediction(channels),
        "contrastive": Contrastive(channels),
    }
    views = {name: replace(view, image=view.image.double()) for name, view in views.items()}
    return PretextNetwork(encoder, Normalization(STATISTICS), tasks, "joint"), views


def methods(rows):
    """Return a network of all published methods and this rank's rows of their views, some pixels without data."""
    maker = AugmentedMaker("crop", ColorJitter((0.6, 1.4), (0.6, 1.4), grayscale=0.2, probability=0.8), (0.3, 1.0))
    pairs = ("simclr", "moco_v2", "byol", "vicreg")
    makers = {f"{pair}_{side}": maker for pair in pairs for side in ("first", "second")}
    generator, mine = torch.Generator().manual_seed(1), slice(rows.start, rows.stop)
    images = torch.rand(rows.total, 3, SIZE, SIZE, generator=generator)
    valid = torch.ones(rows.total, 1, SIZE, SIZE, dtype=torch.bool)
    valid[0, :, : SIZE // 2] = False
    views = make_views(crop_view(images[mine], valid=valid[mine]), makers, seed=3, step=5, rows=rows)
    views = {name: replace(view, image=view.image.double()) for name, view in views.items()}
    encoder, rule = Backbone("resnet18").build(3), MomentumRule(0.9, 1.0)
    channels = tuple(encoder.out_channels)
    tasks = {
        "simclr": SimClr(channels, (32, 16), 0.5),
        "moco_v2": MoCoV2(channels, rule, (32, 16), queue=12),
        "byol": Byol(channels, rule, (32, 16), (32,)),
        "vicreg": VicReg(channels, (32, 16)),
        "dense_contrastive": DenseContrastive(channels, rule, widths=(32, 16), queue=12),
    }
    return PretextNetwork(encoder, Normalization(STATISTICS), tasks, "joint"), views


def finetuning(rows, loss=CROSS_ENTROPY, weights=None):
    """Return the network and this rank's rows of a batch whose ranks have unequal numbers of labeled pixels."""
    import segmentation_models_pytorch as smp

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(rows.total, 3, SIZE, SIZE, generator=generator)
    masks = torch.randint(0, 4, (rows.total, SIZE, SIZE), generator=generator)
    masks[0] = 255
    masks[1, : SIZE // 2] = 255
    model = build_segmentation_model(smp.Unet, "resnet18", 3, 4)
    mine = slice(rows.start, rows.stop)
    network = SegmentationNetwork(model, Normalization(STATISTICS), 255, loss, weights)
    return network, SegmentationBatch(images[mine].double(), masks[mine])


def unequal_classes(rows):
    """Return fine-tuning with a loss whose every part depends on the pixels of all ranks."""
    return finetuning(rows, SegmentationLoss(focusing=2.0, dice=1.0), torch.tensor([0.5, 1.0, 1.5, 2.0]))


STAGES = {
    "pretrain": pretraining,
    "methods": methods,
    "finetune": finetuning,
    "unequal_classes": unequal_classes,
    "activation_in_batch_norm": lambda rows: pretraining(rows, "tu-mobilenetv3_small_100"),
}


def gradients(stage, total):
    """Return the gradients and the loss of one step over a global batch, averaged over ranks as the loop does."""
    processes = Processes.from_environment()
    torch.manual_seed(0)
    rows = Rows.of_rank(processes.rank, processes.world_size, total // processes.world_size)
    network, batch = STAGES[stage](rows)
    network.double()  # what is left to differ is the arithmetic of the loss, which is float32
    batch_norm.synchronize_batch_norm(network, torch.device("cpu"))
    module = distributed.average_gradients(network, torch.device("cpu"))
    loss = torch.stack([output.loss for output in module(batch).values()]).sum()
    loss.backward()
    found = {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }
    buffers = {name: value.clone() for name, value in network.named_buffers() if value.is_floating_point()}
    if isinstance(network, PretextNetwork):
        network.after_part(1)
    spread = network.probe_collapse() if isinstance(network, PretextNetwork) else {}
    spread = {f"collapse/{name}": distributed.mean_over_ranks(value.double()) for name, value in spread.items()}
    return {**found, **buffers, **spread, "loss": distributed.mean_over_ranks(loss.detach())}


if __name__ == "__main__":
    own = Processes.from_environment()
    distributed.start(own, torch.device("cpu"))
    for each in STAGES:
        result = gradients(each, int(sys.argv[2]))
        if own.is_first:
            torch.save(result, f"{sys.argv[1]}/{each}.pt")
    distributed.stop()
