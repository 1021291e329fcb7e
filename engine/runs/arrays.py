"""Named arrays as one file of a run, in the safetensors format, which holds nothing that could run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file, save

NamedArrays = Mapping[str, npt.NDArray[Any]]


def save_arrays(path: Path, arrays: NamedArrays) -> None:
    """Write `arrays` to `path`. Raises OSError, which safetensors' own writer would hide."""
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def load_arrays(path: Path) -> NamedArrays:
    """All arrays of a file."""
    loaded: NamedArrays = load_file(path)
    return loaded


def load_slice(path: Path, name: str, first: int, stop: int) -> npt.NDArray[Any]:
    """A range of the first axis of one array, of which nothing else is read."""
    with safe_open(path, "np") as file:
        part: npt.NDArray[Any] = file.get_slice(name)[first:stop]
    return part


def load_array(path: Path, name: str) -> npt.NDArray[Any]:
    """One array of a file."""
    with safe_open(path, "np") as file:
        array: npt.NDArray[Any] = file.get_tensor(name)
    return array
