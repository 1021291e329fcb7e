"""What building an engine takes: as in the last build of it on this machine, or else what a table says."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stt2v.engine.inventory import inventory
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.engine.models.model import Model

GIB = 1 << 30

_I2VGEN_XL = {
    "enhance_text_encoder": 340,
    "enhance_image_encoder": 632,
    "enhance_vae_encode": 84,
    "enhance_vae_decode": 84,
    "enhance_conditions": 9,
    "enhance_step": 1411,
    "enhance_half": 1411,
    "enhance_update": 0,
}
_VID2VID = {
    "enhance_text_encoder": 340,
    "enhance_vae_encode": 84,
    "enhance_vae_decode": 84,
    "enhance_conditions": 26,
    "enhance_step": 1411,
    "enhance_half": 1411,
    "enhance_update": 0,
}
_STREAMING_SVD = {
    "image_encoder": 632,
    "vae_encode": 34,
    "first_conditions": 53,
    "conditions": 83,
    "first_step": 1525,
    "first_half": 1525,
    "step": 2267,
    "half": 2267,
    "update": 0,
    "vae_decode": 64,
}
_STREAMING_T2V = {
    "text_encoder": 340,
    "anchor": 654,
    "first_conditions": 26,
    "conditions": 41,
    "first_step": 1411,
    "first_half": 1411,
    "first_update": 0,
    "step": 2102,
    "half": 2102,
    "update": 0,
    "vae_decode": 84,
}
_MINI = {
    "text_encoder": 0.3,
    "anchor": 0.3,
    "conditions": 0.6,
    "step": 6,
    "vae_decode": 0.9,
    "interpolate": 0.5,
}
_MINI_ENHANCER = {
    "enhance_text_encoder": 0.3,
    "enhance_conditions": 0.1,
    "enhance_vae_encode": 0.5,
    "enhance_vae_decode": 0.9,
    "enhance_step": 3.7,
}
MILLIONS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "mini": _MINI,
        "streaming-svd": _STREAMING_SVD,
        "streaming-t2v": _STREAMING_T2V,
        "i2vgen-xl": _I2VGEN_XL,
        "mini-enhancer": _MINI_ENHANCER,
        "vid2vid": _VID2VID,
    }
)
"""Family or enhancer -> graph, its numbers left out -> millions of weights at the published width."""

INTERPOLATOR = 66
WIDTHS = MappingProxyType({"fp32": 4, "fp16": 2, "fp8": 1})
"""Precision -> bytes of a weight."""

SECONDS = MappingProxyType({("tensorrt-rtx", "step"): 315, ("tensorrt-rtx", "enhance_step"): 486})
"""(Backend, graph) -> seconds, where it was measured: on two shared cores, see ARCHITECTURE.md."""

HOST_BASE, HOST_WEIGHTS = 0.6 * GIB, MappingProxyType({"tensorrt-rtx": 3.4})
"""Host memory of a build: this much, and so many times the weights of what is compiled; 3 where not measured."""

SHARING = ("onnxruntime", "inductor")
"""Backends whose engines share their weights."""


@dataclass(frozen=True)
class Cost:
    """What building one engine takes; None where nothing is known. `source`: the last build, or a table."""

    graph: str
    seconds: float | None
    weight_bytes: int | None
    host_bytes: int | None
    source: str


def costs(model: Model, backend: str, precision: str, graphs: Iterable[str]) -> tuple[Cost, ...]:
    """What building each of the engines takes."""
    built = _built(model, backend, precision)
    return tuple(_measured(built[g], backend) if g in built else _tabled(model, backend, precision, g) for g in graphs)


def plain(graph: str) -> str:
    """The name of a graph without sizes and numbers: enhance_38_step is an enhance_step."""
    return re.sub(r"_\d+(x\d+)?", "", graph)


def disk_bytes(backend: str, parts: Iterable[Cost]) -> int:
    """What the engines take on disk; where they share weights, those of a step and its halves count once."""
    if backend not in SHARING:
        return sum(cost.weight_bytes or 0 for cost in parts)
    networks = {plain(cost.graph).replace("half", "step"): cost.weight_bytes or 0 for cost in parts}
    return sum(networks.values())


def published_graphs(model: Model) -> tuple[str, ...]:
    """The graphs of a model, without sizes and numbers."""
    names = [*MILLIONS[model.family], *(MILLIONS[model.enhancing.name] if model.enhancing else ())]
    return tuple(dict.fromkeys([*names, *(["interpolate"] if model.interpolate else [])]))


def _built(model: Model, backend: str, precision: str) -> dict[str, EngineEntry]:
    """The engines of the same model and size that were built here or elsewhere, those of the precision first."""
    manifests = [found.manifest for found in inventory() if found.manifest and _alike(found.manifest, model, backend)]
    manifests.sort(key=lambda manifest: manifest.precision == precision)
    return {entry.spec.name: entry for manifest in manifests for entry in manifest.engines}


def _alike(manifest: Manifest, model: Model, backend: str) -> bool:
    facts = ("name", "width", "height")
    return manifest.backend == backend and all(manifest.model[fact] == getattr(model, fact) for fact in facts)


def _measured(entry: EngineEntry, backend: str) -> Cost:
    host = entry.notes.get("builder_bytes") or _host(backend, entry.weight_bytes)
    return Cost(entry.spec.name, entry.seconds, entry.weight_bytes, host, "the last build")


def _tabled(model: Model, backend: str, precision: str, graph: str) -> Cost:
    name = plain(graph)
    known = {"interpolate": INTERPOLATOR, **MILLIONS.get(model.family, {})}
    known |= MILLIONS[model.enhancing.name] if model.enhancing else {}
    if model.toy or name not in known:
        return Cost(graph, None, None, None, "")
    weights = int(known[name] * 1_000_000 * WIDTHS[precision])
    return Cost(graph, SECONDS.get((backend, name)), weights, _host(backend, weights), "a table")


def _host(backend: str, weight_bytes: int) -> int:
    return int(HOST_BASE + HOST_WEIGHTS.get(backend, 3) * weight_bytes)
