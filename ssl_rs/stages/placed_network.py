"""A network where it is trained: on its device, as one with those of the other ranks, and with its optimizer."""

from typing import Any

import torch
from torch import nn

from ssl_rs import batch_norm
from ssl_rs.build import explained
from ssl_rs.depthwise import train_depthwise_in_fp32
from ssl_rs.stages.recipe import Recipe
from ssl_rs.stages.site import Site
from ssl_rs.training.settings import TrainerSettings


def place_network(network: nn.Module, encoder: nn.Module, site: Site, recipe: Recipe) -> torch.optim.Optimizer:
    """Move the network to its device, make its ranks one, and give it an optimizer.

    Args:
        network: Holds the encoder.
        encoder: May have a learning rate of its own.
        site: Where it runs.
        recipe: The optimizer.

    Raises:
        InputError: The optimizer refuses its settings.
    """
    network.to(site.device).to(memory_format=torch.channels_last)
    batch_norm.synchronize_batch_norm(network, site.device)
    train_depthwise_in_fp32(network, site.device)
    with explained("optimizer"):
        optimizer = recipe.optimizer(_parameter_groups(network, encoder, site.trainer))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] * group.pop("lr_factor", 1.0)
    return optimizer


def _parameter_groups(network: nn.Module, encoder: nn.Module, trainer: TrainerSettings) -> list[Any]:
    """Return what is trained: all parameters alike, or groups of which the encoder's and the undecayed come later."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    of_encoder = set(encoder.parameters()) if trainer.encoder_lr_factor != 1 else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in trained:
        undecayed = not trainer.decay_norms_and_biases and parameter.ndim <= 1
        groups.setdefault((parameter in of_encoder, undecayed), []).append(parameter)
    if not of_encoder and trainer.decay_norms_and_biases:
        return trained
    return [
        {"params": groups[inside, undecayed]}
        | ({"lr_factor": trainer.encoder_lr_factor} if inside else {})
        | ({"weight_decay": 0.0} if undecayed else {})
        for inside, undecayed in sorted(groups)
    ]
