"""Arrays on disk that are written some rows at a time, aside, and renamed when they are whole."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_rs.data.store import Kind, array_file
from ssl_rs.files import sha256_of, writing


class ArrayWriter:
    """Write an array [..., H, W] by its rows; nothing appears under its name before all of it is on disk.

    Args:
        path: The .npy file.
        shape: Of the whole array.
        dtype: Of its values.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with writing(path):
            self._file = open(self.aside, "wb")  # noqa: SIM115 - closed by finish or close
            np.lib.format.write_array_header_1_0(self._file, header)  # type: ignore[arg-type]
        self._start = self._file.tell()

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Write rows [..., h, W] from row `top` on."""
        assert rows.dtype == self.dtype, f"{self.path}: {rows.dtype} instead of {self.dtype}"
        *_, height, width = self.shape
        planes = np.ascontiguousarray(rows).reshape(-1, *rows.shape[-2:])
        with writing(self.path):
            for plane, values in enumerate(planes):
                self._file.seek(self._start + (plane * height + top) * width * self.dtype.itemsize)
                self._file.write(values.data)

    def finish(self) -> str:
        """Put the file in place, flushed to the disk, and return its sha256."""
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.aside.replace(self.path)
        return sha256_of(self.path)

    def close(self) -> None:
        """Remove what has not been finished."""
        with suppress(OSError):  # of a full disk: what is still to be flushed is not wanted any more
            self._file.close()
        with suppress(OSError):
            self.aside.unlink()


class SceneFiles:
    """The arrays of one scene, each opened when its first rows come; what is not finished vanishes.

    Args:
        folder: Of the store.
        number: Of the scene.
        height: Rows of every array.
    """

    def __init__(self, folder: Path, number: int, height: int) -> None:
        self.folder = folder
        self.number = number
        self.height = height
        self._writers: dict[Kind, ArrayWriter] = {}

    def write(self, kind: Kind, top: int, rows: NDArray[Any]) -> None:
        """Write rows [..., h, W] of one kind of array from row `top` on."""
        if kind not in self._writers:
            shape = (*rows.shape[:-2], self.height, rows.shape[-1])
            self._writers[kind] = ArrayWriter(self.folder / array_file(self.number, kind), shape, rows.dtype)
        self._writers[kind].write(top, rows)

    def finish(self, leave_out: Collection[Kind] = ()) -> dict[Kind, str]:
        """Put the files in place but for those that are not needed; return the sha256 of each."""
        return {kind: writer.finish() for kind, writer in self._writers.items() if kind not in leave_out}

    def __enter__(self) -> "SceneFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()
