"""Scenes written side by side by several processes; what comes of each is told in the order of the scenes."""

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ssl_rs.data.dataset import Dataset, SceneSource
from ssl_rs.data.records import read_record
from ssl_rs.data.scene_writer import WrittenScene, record_file, write_scene
from ssl_rs.data.tiff_file import small_cache
from ssl_rs.errors import InputError

Outcome = WrittenScene | InputError


def write_scenes(dataset: Dataset, scenes: Sequence[SceneSource], folder: Path, num_workers: int) -> Iterator[Outcome]:
    """Write every scene that is not there yet; yield what is known about each, or why it cannot be used.

    Args:
        dataset: Where the scenes belong.
        scenes: Their numbers are their places.
        folder: Where the arrays go.
        num_workers: Processes besides this one; 0: this one does it.

    Raises:
        ChildProcessError: A process died.
        KeyboardInterrupt: Ctrl-C ended one.
        OSError: A file cannot be written, or has vanished since the data set was listed.
    """
    missing = [number for number in range(len(scenes)) if not (folder / record_file(number)).is_file()]
    if num_workers == 0 or len(missing) < 2:
        yield from (_attempt(dataset, number, scene, folder) for number, scene in enumerate(scenes))
        return
    # Forked processes would share the locks of this one's threads; spawned ones start afresh.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(missing)), context, _start, (dataset, folder)) as pool:
        futures: dict[int, Future[Outcome]] = {}
        children: set[BaseProcess] = set()
        try:
            with _deaf_children():
                for number in missing:
                    futures[number] = pool.submit(_work, number, scenes[number])
                    children.update(multiprocessing.active_children())  # one may have started with each scene
            for number, scene in enumerate(scenes):
                yield futures.pop(number).result() if number in futures else _attempt(dataset, number, scene, folder)
        except BrokenProcessPool as error:
            pool.shutdown(wait=True, cancel_futures=True)  # then each has its exit code
            if any(child.exitcode == -signal.SIGINT for child in children):
                raise KeyboardInterrupt from error  # Ctrl-C came while this process was deaf to it
            raise ChildProcessError(
                "a process that reads scenes was killed, perhaps because the memory ran out"
            ) from error
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.terminate()  # a large scene takes a minute; what is half-written is aside
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Within it, processes start without an ear for Ctrl-C: while they import, it would make them print a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _attempt(dataset: Dataset, number: int, scene: SceneSource, folder: Path) -> Outcome:
    record = folder / record_file(number)
    try:
        return read_record(WrittenScene, record) if record.is_file() else write_scene(dataset, number, scene, folder)
    except InputError as error:
        _check_still_there(scene)
        return error


def _check_still_there(scene: SceneSource) -> None:
    """Tell a bad scene from a disk that was taken away: else on_bad_scene=skip would leave out all that is to come.

    Raises:
        FileNotFoundError: A file has vanished since the data set was listed.
    """
    for file in () if scene.problem else scene.files:
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, "was there when the data set was listed, and is gone", str(file))


_state: dict[str, tuple[Dataset, Path]] = {}
"""What a worker works on: sent once, not with every scene."""


def _start(dataset: Dataset, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes; only the first one says so
    _state["work"] = (dataset, folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    small_cache().__enter__()


def _work(number: int, scene: SceneSource) -> Outcome:
    dataset, folder = _state["work"]
    return _attempt(dataset, number, scene, folder)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed: nobody waits for it any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
