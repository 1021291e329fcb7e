"""The folder that `stt2v pull` makes: one safetensors file, or several shards, for each network."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from stt2v.engine.errors import ExportError


@dataclass(frozen=True)
class WeightFolder:
    """Weights under their original keys, below `path`."""

    path: Path

    def has(self, name: str) -> bool:
        """Whether there is anything of the network `name`."""
        return (self.path / f"{name}.safetensors").is_file() or (self.path / name).is_dir()

    def below(self, folder: str) -> "WeightFolder":
        """The weights in one of its folders."""
        return WeightFolder(self.path / folder)

    def read(self, name: str) -> dict[str, Tensor]:
        """All tensors of the network `name`: from `name.safetensors`, or the files in the folder `name`.

        Some are published in half precision; graphs are made in single, so that is what they are read in.
        Raises ExportError when there is nothing, or a file is damaged.
        """
        single = self.path / f"{name}.safetensors"
        files = [single] if single.is_file() else sorted((self.path / name).glob("*.safetensors"))
        if not files:
            raise ExportError(f"no weights at {single} or in {self.path / name}; run `stt2v pull`, or give --weights")
        try:
            return {key: _single(tensor) for file in files for key, tensor in load_file(file).items()}
        except Exception as error:  # safetensors raises a class of its own that is no OSError
            raise ExportError(
                f"weights in {files[0].parent} cannot be read ({error}); run `stt2v pull` again"
            ) from error


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
