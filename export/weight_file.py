"""One file for the weights of all engines of a set, in which every distinct tensor is stored once."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Closing

PAGE, CACHE_LINE = 4096, 64


class WeightFile(Closing):
    """Appends tensors to the file at `path`, addressed by the SHA-256 of their bytes.

    Nothing of a tensor is kept but its hash and place, so the file may be larger than memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._places: dict[bytes, int] = {}

    def place(self, array: npt.NDArray[Any]) -> tuple[int, int]:
        """Offset and length in bytes of the contents of `array`, written unless they are there already."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            # Large tensors start on a page, so that they can be memory-mapped; padding all would swell small sets.
            alignment = PAGE if data.nbytes >= 256 * PAGE else CACHE_LINE
            offset = -(-self._file.tell() // alignment) * alignment
            self._file.seek(offset)
            self._file.write(data)
            self._places[key] = offset
        return self._places[key], data.nbytes

    def flush(self) -> None:
        """Make everything placed so far readable by others."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()
