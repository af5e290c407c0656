"""Run from test_distributed.py: alone it trains; two ranks go on, one of which does not see the newest.

usage: checkpoints_of_ranks.py FOLDER [metrics]

With metrics, two ranks begin, of which one has a metric more.
"""

import dataclasses
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parent / "training"))
from test_loop import Network, Recorder, job

from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.training import state
from ssl_rs.training.loop import train
from ssl_rs.training.state import Identity


class Chatty(Network):
    """One more metric."""

    def forward(self, batch):
        outputs = super().forward(batch)
        far = outputs["far"]
        return outputs | {"far": dataclasses.replace(far, metrics={"more": far.loss.detach()})}


def main(folder, with_metrics):
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        train(job(folder), Recorder)
        return
    rank, whole = int(os.environ["RANK"]), state._newest_first
    dist.init_process_group("gloo")

    def newest_first(folder):
        return whole(folder)[rank:]

    if not with_metrics:
        state._newest_first = newest_first
    here = job(folder, processes=Processes(rank, 2, rank, 2), identity=Identity("hash", 1, "fp32"))
    if with_metrics and rank:
        here = dataclasses.replace(here, network=Chatty())
    try:
        train(here, Recorder)
    except InputError as error:
        (folder / f"rank{rank}.txt").write_text(str(error))
    dist.barrier()  # one that leaves while the other still talks makes gloo abort it
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["metrics"])
