"""Going through batches: every container is known, and nothing of it is lost."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_rs.training.structure import map_tensors, named_parts


class Pair(NamedTuple):
    images: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class Piece:
    image: Tensor
    name: str


BATCH = {"a": Piece(torch.rand(2), "x"), "b": (torch.rand(1, 3).expand(4, 3), [Pair(torch.arange(3), None)])}


def test_each_tensor_is_changed_and_its_surroundings_stay():
    held = map_tensors(Tensor.clone, BATCH)
    assert type(held["b"][1]) is list
    assert type(held["b"][1][0]) is Pair
    assert held["b"][1][0].masks is None
    assert type(held["a"]) is Piece
    assert held["a"].name == "x"
    pairs = list(zip(named_parts(held, "batch"), named_parts(BATCH, "batch"), strict=True))
    assert len(pairs) == 5
    for (name, copied), (own_name, given) in pairs:
        assert name == own_name
        if isinstance(given, Tensor):
            assert torch.equal(copied, given)
            assert copied.data_ptr() != given.data_ptr()
            assert copied.is_contiguous()  # an expanded one could not be written to


def test_parts_have_the_names_that_lead_to_them():
    assert [name for name, _ in named_parts(BATCH, "batch")] == [
        "batch.a.image", "batch.a.name", "batch.b.0", "batch.b.1.0.0", "batch.b.1.0.1",
    ]  # fmt: skip
    assert dict(named_parts(BATCH, "batch"))["batch.b.1.0.0"] is BATCH["b"][1][0].images
    assert list(named_parts(3, "alone")) == [("alone", 3)]
