"""Run from test_distributed.py: alone it trains; two ranks go on, one of which does not see the newest.

usage: checkpoints_of_ranks.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parent / "training"))
from test_loop import Recorder, job

from ssl_rs.distributed import Processes
from ssl_rs.errors import InputError
from ssl_rs.training import state
from ssl_rs.training.loop import train
from ssl_rs.training.state import Identity


def main(folder):
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        train(job(folder), Recorder)
        return
    rank, whole = int(os.environ["RANK"]), state._newest_first
    dist.init_process_group("gloo")

    def newest_first(folder):
        return whole(folder)[rank:]

    state._newest_first = newest_first
    here = job(folder, processes=Processes(rank, 2, rank, 2), identity=Identity("hash", 1, "fp32"))
    try:
        train(here, Recorder)
    except InputError as error:
        (folder / f"rank{rank}.txt").write_text(str(error))
    dist.barrier()  # one that leaves while the other still talks makes gloo abort it
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
