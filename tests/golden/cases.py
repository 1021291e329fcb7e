"""Reading golden cases: the rules of the format are those of the reference data, for any root folder."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file
from torch import Tensor

from stt2v.export.random_weights import recipe
from stt2v.export.weights.base import take

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One folder with a `config.json`."""

    folder: Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return config

    @property
    def component(self) -> str:
        return str(self.config["component"])

    @functools.cached_property
    def inputs(self) -> Arrays:
        return load_file(self.folder / "inputs.safetensors")

    @functools.cached_property
    def outputs(self) -> Arrays:
        return load_file(self.folder / "outputs.safetensors")

    def tensor(self, name: str) -> Tensor:
        """The input `name` as a torch tensor."""
        return torch.from_numpy(self.inputs[name])

    def stacked(self, pattern: str) -> list[Tensor]:
        """The inputs `pattern.format(0)`, `pattern.format(1)`, ... as far as they go."""
        names = itertools.takewhile(self.inputs.__contains__, map(pattern.format, itertools.count()))
        return [self.tensor(name) for name in names]

    def weights(self, entry: str = "weights", config: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """The tensors of a `weights*` entry under their original names, whatever its source.

        The file of `weights` may be given as `weights_path`, that of `weights_X` as `weights_of_X`; an entry that is
        absent is the folder's own file. `config` is the part of the configuration that holds the entry, when it is not
        the top level.
        """
        entries = self.config if config is None else config
        path_entry = "weights_path" if entry == "weights" else entry.replace("weights_", "weights_of_", 1)
        source = entries.get(entry, entries.get(path_entry))
        if source is None:
            return _tensors(load_file(self.folder / "weights.safetensors"))
        if isinstance(source, str):
            return _tensors(load_file(self.folder / source))
        path = self.folder / source.get("path", "weights.safetensors")
        if source["source"] != "recipe" and path.is_file():
            return _tensors(load_file(path))
        manifest = self._manifest(source)
        prefix = source.get("recipe_prefix", "")
        arrays = {k: recipe(source["recipe_seed"], prefix + k, tuple(m["shape"])) for k, m in manifest.items()}
        _check_recipe(arrays, manifest)
        return _tensors(arrays)

    def _manifest(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """Key names and shapes of a recipe: here, or in the sibling with the same seed and prefix."""
        for folder in [self.folder, *sorted(p.parent for p in self.folder.parent.glob("*/config.json"))]:
            config = json.loads((folder / "config.json").read_text())
            for entry, manifest in _manifests(config):
                if all(entry.get(k) == source.get(k) for k in ("recipe_seed", "recipe_prefix")):
                    return manifest
            stored = config.get("weights")
            if isinstance(stored, dict) and all(
                stored.get(k) == source.get(k) for k in ("recipe_seed", "recipe_prefix")
            ):
                path = folder / "weights.safetensors"
                if path.is_file():
                    return {k: {"shape": list(v.shape)} for k, v in load_file(path).items()}
        raise LookupError(f"{self.folder}: no case beside it lists the keys of {source}")


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix`, of which stored keys may lack leading names, under the rest of their keys."""
    names = prefix.split(".")
    suffixes = (".".join(names[index:]) for index in range(len(names) - 1))
    return next(filter(None, (take(weights, suffix) for suffix in suffixes)), {})


def _manifests(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Pairs of a weights entry and its manifest: `weights_X` goes with `weights_manifest` or `X_manifest`."""
    for key, entry in config.items():
        if not key.startswith("weights") or not isinstance(entry, dict) or "source" not in entry:
            continue
        part = key.removeprefix("weights").removeprefix("_")
        names = (f"{part}_manifest", f"weights_{part}_manifest") if part else ("weights_manifest",)
        for name in names:
            if config.get(name):
                yield entry, config[name]


def _check_recipe(arrays: Mapping[str, npt.NDArray[np.float32]], manifest: Mapping[str, Any]) -> None:
    for key, entry in manifest.items():
        if "first" in entry and abs(float(arrays[key].flat[0]) - entry["first"]) > 1e-6:
            raise ValueError(f"recipe makes another tensor for {key}: {arrays[key].flat[0]} != {entry['first']}")


def _tensors(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@dataclass(frozen=True)
class Limit:
    """How far a tensor may be off: `rel` is max|a-b| / max|b|, `absolute` is max|a-b|."""

    rel: float | None = 1e-4
    absolute: float | None = None
    levels: int = 1  # for 8-bit tensors: largest difference ...
    share: float = 0.005  # ... and the share of values that may differ at all

    def violation(self, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str | None:
        """What is wrong with `actual`, or None."""
        if actual.shape != expected.shape:
            return f"shape {actual.shape} instead of {expected.shape}"
        if actual.size == 0:
            return None
        if expected.dtype == np.uint8:
            return self._levels_violation(actual, expected)
        finite = np.isfinite(expected)
        if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
            return "inf and nan in other places"
        if not finite.any():
            return None
        error = float(np.abs(actual[finite].astype(np.float64) - expected[finite]).max())
        scale = float(np.abs(expected[finite]).max())
        if self.absolute is not None and not error <= self.absolute:
            return f"off by {error:.3g}, allowed {self.absolute:g}"
        if self.rel is not None and not error <= self.rel * scale:
            return f"off by {error / scale if scale else error:.3g} of the largest value, allowed {self.rel:g}"
        return None

    def _levels_violation(self, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str | None:
        if actual.dtype != np.uint8:
            return f"type {actual.dtype} instead of uint8"
        off = np.abs(actual.astype(int) - expected.astype(int))
        if off.max() > self.levels or (off > 0).mean() > self.share:
            return f"off by {off.max()} levels, {(off > 0).mean():.2%} of the values differ"
        return None


EXACT = Limit(rel=0.0, levels=0, share=0.0)


@dataclass(frozen=True)
class Adapter:
    """How one component's case is computed with the product's code.

    `compute` returns every stored output under its stored name; `limits` maps name patterns (fnmatch) to limits other
    than the default, first match wins. `compute` also asserts what the case holds besides, such as tables in
    config.json.
    """

    compute: Callable[[Case], Mapping[str, Any]]
    limits: Mapping[str, Limit] = field(default_factory=dict)
