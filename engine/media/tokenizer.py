"""Prompts as token ids."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stt2v.engine.errors import EngineSetError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Loaded

Tokens = npt.NDArray[np.int64]


class Tokenizer:
    """A tokenizer kept in an engine set; padding and truncation are part of its file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, text: str) -> Tokens:
        """Token ids of one text: [1, length]. Raises EngineSetError when the file is no tokenizer."""
        return np.array([self._loaded.encode(text).ids], np.int64)

    @functools.cached_property
    def _loaded(self) -> "Loaded":
        from tokenizers import Tokenizer as Loaded

        try:
            return Loaded.from_file(str(self.path))
        except Exception as error:  # the library raises nothing more precise
            raise EngineSetError(f"{self.path} is no tokenizer ({error}); build the engine set again") from error
