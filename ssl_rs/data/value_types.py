"""Types of an image's values: those that stores hold, and those that become one of them as they are read."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

ValueType = Literal["uint8", "uint16", "int16", "float32"]
"""Of the values in a store."""

STORED = get_args(ValueType)

GDAL_NAMES = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
"""What `gdal_translate -ot` calls them."""

USUAL_WHITE = {"uint8": 255, "uint16": 10000, "int16": 10000, "float32": 1}
"""The value of white in most files of a type: of reflectance, but for 8 bits."""

AS_FLOAT32 = ("int8", "int32", "uint32", "int64", "uint64", "float16", "float64")
"""Of files that are read as float32, which is exact for whole numbers up to 2 ** 24."""


def as_stored(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in a type that stores hold, where there is one; what float32 cannot hold becomes infinite."""
    if values.dtype.name not in AS_FLOAT32:
        return values
    with np.errstate(over="ignore"):  # told as infinite, with its place
        return values.astype(np.float32)
