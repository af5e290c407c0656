"""Which bands stand for red, green and blue: what has a hue, what a picture shows, what reads ImageNet's filters."""

from collections.abc import Sequence

RGB = ("red", "green", "blue")


def color_bands(bands: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the indices of the bands that stand for red, green and blue.

    Those named red, green and blue, with or without capitals and in whatever order they lie; else, of exactly three
    bands, these in their order, since false color such as near infrared, red, green is shown and jittered as RGB
    everywhere in the field; else None.

    Args:
        bands: Names of the C bands.
    """
    names = [band.lower() for band in bands]
    if set(RGB) <= set(names):
        return names.index("red"), names.index("green"), names.index("blue")
    return (0, 1, 2) if len(names) == 3 else None


def shown_bands(bands: Sequence[str]) -> tuple[int, int, int]:
    """Return the indices of the three bands of a picture: `color_bands`, else the first three, of fewer one in gray."""
    return color_bands(bands) or ((0, 1, 2) if len(bands) > 2 else (0, 0, 0))


def told_bands(bands: Sequence[str]) -> str:
    """Return in words which bands a picture shows, e.g. "bands red, green, blue"."""
    shown = dict.fromkeys(shown_bands(bands))  # one, if gray
    said = f"band{'s' * (len(shown) > 1)} {', '.join(bands[band] for band in shown)}"
    unnamed = len(shown) > 1 and color_bands(bands) is None
    return f"{said} as red, green, blue: none is called so" if unnamed else said
