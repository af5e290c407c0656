"""What the networks make of a few test tiles: image, truth, each initialization with the fewest and the most labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssl_rs.reporting.figures import color_map, png_data_uri
from ssl_rs.reporting.runs import LabeledClass, LeftOut, Run
from ssl_rs.reporting.tables import Table

MOST_TILES = 4
LARGEST_SIDE = 256  # pixels
LARGEST = 2**28  # bytes of all arrays: an honest file has a megabyte


@dataclass(frozen=True)
class Samples:
    """The samples.npz of a run.

    Args:
        names: One a tile.
        images: uint8 [N, h, w, 3].
        truth: uint8 [N, h, w], class or any other index where ignored.
        prediction: uint8 [N, h, w].
    """

    names: Sequence[str]
    images: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class Picture:
    """One picture of the grid.

    Args:
        uri: The picture itself, as a data URI.
        right: Share of the valid pixels that agree with the truth, in [0, 1]; None for image and truth.
    """

    uri: str
    right: float | None = None


class Column(NamedTuple):
    """A row of the table at one label fraction, as a column of the grid."""

    label: str
    fraction: float


@dataclass(frozen=True)
class SampleGrid:
    """Pictures of test tiles.

    Args:
        seed: Of the runs that are shown.
        columns: The predictions, behind image and truth.
        rows: Name of the tile, and its pictures: image, truth, one a column (None where the run did not keep it).
        classes: The legend.
    """

    seed: int
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Picture | None]]]
    classes: Sequence[LabeledClass]

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Each label, and how many columns it heads."""
        return list(Counter(column.label for column in self.columns).items())


def sample_grid(table: Table) -> tuple[SampleGrid | None, list[LeftOut]]:
    """Lay out the samples of a table at its smallest and largest label fraction, for the seed that has most of them.

    Returns:
        The grid, None where no run kept samples; and each samples.npz that is broken.
    """
    shown: dict[Column, list[tuple[Run, Samples]]] = {}
    left_out = []
    for run in table.runs:
        path = run.directory / "samples.npz"
        if run.label_fraction not in (table.fractions[0], table.fractions[-1]) or not path.is_file():
            continue
        try:
            samples = read_samples(run)
        except Exception as error:  # numpy, zipfile and zlib raise errors of many kinds for damaged files
            left_out.append(LeftOut(path, f"no samples of test tiles ({type(error).__name__}: {error})"))
            continue
        shown.setdefault(Column(run.label, run.label_fraction), []).append((run, samples))
    if not shown:
        return None, left_out
    seeds = Counter(seed for cell in shown.values() for seed in {run.seed for run, _ in cell})
    seed = max(seeds, key=lambda each: (seeds[each], -each))
    chosen: dict[Column, Samples] = {}
    for column, cell in shown.items():
        for run, samples in cell:
            if run.seed == seed:
                chosen.setdefault(column, samples)  # weights of several pretrainings: the first are shown
    classes = table.runs[0].classes
    return SampleGrid(seed, list(chosen), _rows(list(chosen.values()), classes), classes), left_out


def read_samples(run: Run) -> Samples:
    """Read the samples of a run; nothing in the file is executed.

    Raises:
        Exception: Of many types: no such archive, or shapes that do not fit.
    """
    with np.load(run.directory / "samples.npz", allow_pickle=False) as archive:
        if sum(member.file_size for member in archive.zip.infolist()) > LARGEST:
            raise ValueError(f"it claims more than {LARGEST / 2**20:.0f} MiB")
        images, truth, prediction = (archive[key] for key in ("images", "truth", "prediction"))
        names = [str(name) for name in archive["names"]]
    shape = (len(names), *images.shape[1:3])
    fits = images.shape == (*shape, 3) and truth.shape == prediction.shape == shape
    if not fits or any(values.dtype != np.uint8 for values in (images, truth, prediction)):
        raise ValueError("expected uint8 images [N, h, w, 3], truth and prediction [N, h, w], and N names")
    return Samples(names, images, truth, prediction)


def _rows(columns: Sequence[Samples], classes: Sequence[LabeledClass]) -> list[tuple[str, list[Picture | None]]]:
    first = columns[0]
    rows = []
    for index, name in enumerate(first.names[:MOST_TILES]):
        pictures: list[Picture | None] = [
            Picture(png_data_uri(first.images[index], LARGEST_SIDE, smooth=True)),
            Picture(_painted(first.truth[index], classes)),
        ]
        rows.append((name, pictures + [_prediction(samples, name, classes) for samples in columns]))
    return rows


def _prediction(samples: Samples, name: str, classes: Sequence[LabeledClass]) -> Picture | None:
    if name not in samples.names:
        return None
    index = samples.names.index(name)
    truth, prediction = samples.truth[index], samples.prediction[index]
    valid = truth < len(classes)
    right = float((truth == prediction)[valid].mean()) if valid.any() else None
    return Picture(_painted(prediction, classes), right)


def _painted(indices: np.ndarray, classes: Sequence[LabeledClass]) -> str:
    return png_data_uri(color_map(indices, [each.color for each in classes]), LARGEST_SIDE, smooth=False)
