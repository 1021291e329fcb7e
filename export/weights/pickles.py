"""What is published otherwise into the files of the weight folder, once."""

import re
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from stt2v.engine.errors import ExportError
from stt2v.export.quiet import quiet
from stt2v.export.weights.base import State
from stt2v.export.weights.ema_vfi import load_ema_vfi


def read_pickle(path: Path, keep: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint whose keys begin as the regular expression `keep` says. Runs no code of the file.

    Raises ExportError when it is no checkpoint, holds other objects than tensors need, or nothing is kept.
    """
    try:
        with quiet():
            # Memory-mapped, so that a checkpoint larger than memory can be converted.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        state = loaded.get("state_dict", loaded)
    except Exception as error:  # torch's message would advise to run the file's code
        raise ExportError(
            f"{path} is no checkpoint of plain tensors ({type(error).__name__}); use the published file"
        ) from error
    kept = {key: value for key, value in state.items() if isinstance(value, Tensor) and re.match(keep, key)}
    if not kept:
        raise ExportError(f"{path} holds no tensors that are needed here; use the published file")
    return kept


def convert_pickle(source: Path, target: Path, keep: str = "") -> None:
    """The kept tensors of the checkpoint `source` as the safetensors file `target`. Raises ExportError."""
    save_file(_separate(read_pickle(source, keep)), target)


def convert_ema_vfi(source: Path, target: Path) -> None:
    """EMA-VFI's published checkpoint as safetensors. Raises ExportError when a key is missing or over."""
    state = read_pickle(source)
    load_ema_vfi(state)
    save_file(_separate(state), target)


def join_tokenizer(vocabulary: Path, merges: Path, target: Path) -> None:
    """One JSON file from the two of CLIP's older tokenizers. Raises ExportError when they are none."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("vocab.json", vocabulary), ("merges.txt", merges)):
            (Path(folder) / name).symlink_to(path.resolve())
        try:
            CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(target))
        except Exception as error:  # the library raises nothing more precise
            raise ExportError(f"{vocabulary.name} and {merges.name} are no tokenizer ({error}); pull again") from error


def _separate(state: State) -> dict[str, Tensor]:
    """The same tensors, none sharing memory with another or being part of a larger one: safetensors wants it so."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in state.items():
        storage = tensor.untyped_storage()
        alone = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        separate[key] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return separate
