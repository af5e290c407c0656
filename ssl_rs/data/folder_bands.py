"""Which channels of the files in a user's own folder are read, and what they are called."""

import warnings
from collections.abc import Iterator, Sequence

from ssl_rs.data.image_files import count_bands, open_raster
from ssl_rs.data.source_files import SourceFile
from ssl_rs.data.tiff_file import TiffFile
from ssl_rs.errors import InputError

ALPHA = "alpha"
"""Name of a channel that says where an image has data."""


LOOKED_AT = 16
"""Images, spread over all, that say how many bands images have."""


def check_bands(bands: Sequence[str] | None, channels: Sequence[int] | None) -> None:
    """Refuse names or numbers of channels that mean nothing.

    Args:
        bands: Of the channels that are read; None: not named.
        channels: Which are read, counted from 1; None: all.

    Raises:
        InputError: Says what would be accepted.
    """
    if bands is not None and (not bands or len(set(bands)) < len(bands)):
        raise InputError(f"dataset.bands must be names that differ, one a channel, got {list(bands)}.")
    if bands is not None and ALPHA in (bands[0], *bands[:-1]):
        raise InputError(f"dataset.bands: {ALPHA} must be the last of several, got {list(bands)}.")
    if channels is None:
        return
    if not channels or min(channels) < 1 or len(set(channels)) < len(channels):
        raise InputError(f"dataset.channels must be numbers from 1 on that differ, got {list(channels)}.")
    if bands is not None and len(bands) != len(channels):
        raise InputError(
            f"dataset.bands={list(bands)} and dataset.channels={list(channels)}: expected a name for each of the "
            f"{len(channels)} channels, got {len(bands)}."
        )


def names_by_file(
    groups: Sequence[Sequence[SourceFile]], channels: Sequence[int] | None, go_on: bool
) -> tuple[str, ...]:
    """Return names for the channels that are read, by their number in most of the images that are looked at.

    Args:
        groups: Images, one of them at least in each group; of the first group that has one that can be opened, some
            are looked at. Where two numbers are equally frequent, the first image counts.
        channels: Which are read, counted from 1; None: all.
        go_on: Where none of these can be opened, try the others, and the next group.

    Raises:
        InputError: No image can be opened, or it is left open what the last band is.
    """
    problems: list[InputError] = []
    for file in _usual_first(groups, go_on, problems):
        try:
            image = open_raster(file)
            called = isinstance(image, TiffFile) and image.calls_last_band_alpha
            alike = isinstance(image, TiffFile) and called and image.last_band_looks_like_alpha()
        except InputError as error:
            problems.append(error)
            continue
        numbers = tuple(channels or range(1, image.num_bands + 1))
        if called and image.num_bands in numbers:
            _ask_or_tell(file, image.num_bands, numbers, channels is not None, alike)
        return _names(numbers, channels is not None)
    raise problems[0]


def _usual_first(
    groups: Sequence[Sequence[SourceFile]], go_on: bool, problems: list[InputError]
) -> Iterator[SourceFile]:
    """Yield of each group the images that are looked at, first those with as many bands as most, then the others.

    Args:
        groups: As of `names_by_file`.
        go_on: As of `names_by_file`.
        problems: Why some cannot be opened is added.
    """
    for files in groups if go_on else groups[:1]:
        spread = [files[round(place * (len(files) - 1) / (LOOKED_AT - 1))] for place in range(LOOKED_AT)]
        by_bands: dict[int, list[SourceFile]] = {}
        for file in dict.fromkeys(spread):
            try:
                by_bands.setdefault(count_bands(file), []).append(file)
            except InputError as error:
                problems.append(error)
        for alike in sorted(by_bands.values(), key=len, reverse=True):
            yield from alike
        if go_on:
            yield from (file for file in files if file not in spread)


def _ask_or_tell(file: SourceFile, last: int, numbers: Sequence[int], chosen: bool, alike: bool) -> None:
    """Ask what a last band is that is called alpha and looks like it; one that does not is told of.

    Raises:
        InputError: It looks like it.
    """
    if alike:
        others = [number for number in numbers if number != last]
        given = ",".join(_names(others, chosen))
        also = f" dataset.channels=[{','.join(map(str, [*others, last]))}]" if chosen else ""
        raise InputError(
            f"{file} calls the last of its {last} bands alpha. Say what it is: dataset.bands=[{given},{ALPHA}]{also} "
            f"if it tells where there is data, dataset.bands=[{given},nir]{also} (or another name) if it is a band "
            "like the others."
        )
    warnings.warn(
        f"{file} calls the last of its {last} bands alpha, as GDAL does of any fourth band of 8 bits. It is taken for "
        "a band like the others, since its values are not just 0 and the largest. If it says where there is data, name "
        "it alpha in dataset.bands.",
        stacklevel=2,
    )


def _names(numbers: Sequence[int], chosen: bool) -> tuple[str, ...]:
    """Return the names of channels of which nothing but their numbers is known.

    Three that are all of a file are red, green and blue; of three that somebody chose, nobody knows.
    """
    return tuple(f"band_{number}" for number in numbers) if chosen or len(numbers) != 3 else ("red", "green", "blue")
