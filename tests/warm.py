"""Commands in fresh processes that need not import torch and all that: they are forked from one that has."""

import multiprocessing
import os
import runpy
import sys

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ssl_rs.stages.pretraining", "ssl_rs.stages.finetuning"])


def become(module, arguments, folder, log, environment):
    """Do what `python -m MODULE ARGUMENTS` does, in a session of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it was read when torch was imported
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class WarmProcess:
    """What of subprocess.Popen the tests use, for `python -m MODULE ARGUMENTS`.

    It is what a cold start is but for the imports and the seed of Python's hashes, which all of them share: a test
    that compares two runs starts one of them cold.
    """

    def __init__(self, module, arguments, folder, log, environment):
        given = (module, list(arguments), str(folder), str(log), dict(environment))
        self.process = CONTEXT.Process(target=become, args=given)
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        """The exit code, negative of a signal; None while it runs."""
        return self.process.exitcode

    poll = returncode.fget

    def wait(self, timeout):
        """Return the exit code."""
        self.process.join(timeout)
        assert self.returncode is not None, f"process {self.pid} has not ended within {timeout} s"
        return self.returncode
