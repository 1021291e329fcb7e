"""From a model's declaration and its weights to the graphs of all its stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from stt2v.engine.media.canvas import cut_size
from stt2v.engine.models.i2vgen_xl import key_lengths
from stt2v.engine.models.model import Enhancing, Model
from stt2v.export.families import ema_vfi, i2vgen_xl, mini, streaming_svd, streaming_t2v, vid2vid
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.mini.captions import tokenizer as mini_tokenizer
from stt2v.export.tokenizers import OPEN_CLIP_PADDING, byte_tokenizer, read_tokenizer
from stt2v.export.weights.folder import WeightFolder

SEED = 0  # of all random weights


@dataclass(frozen=True)
class Recipe:
    """What an engine set is made from: graphs by name, and text files that belong beside the engines."""

    graphs: Mapping[str, GraphMaker]
    files: Mapping[str, str]


def recipe_for(model: Model, weights: Path | None) -> Recipe:
    """The recipe of `model` with the weights in the folder `weights`, or random ones.

    A folder without an interpolator, whose weights are published apart, makes a set without one.
    Raises ExportError when another file of the folder is missing or one does not fit.
    """
    source = WeightFolder(weights) if weights else None
    parts = [FAMILIES[model.family](model, source)]
    if model.enhancing:
        parts.append(ENHANCERS[model.enhancing.name](model.enhancing, source, toy=model.toy))
    if model.interpolate and (interpolator := INTERPOLATORS.get(model.family, _interpolator)(model, source)):
        parts.append(interpolator)
    graphs = {name: graph for part in parts for name, graph in part.graphs.items()}
    if model.toy:
        graphs = {name: partial(_rounded, make) for name, make in graphs.items()}
    return Recipe(graphs, {name: text for part in parts for name, text in part.files.items()})


def _rounded(make: GraphMaker) -> Graph:
    """The graph with weights that float16 holds, so that a shipped set of random weights is half as large."""
    graph = make()
    with torch.no_grad():
        for weight in graph.module.parameters():
            weight.copy_(weight.half())
    return graph


def _streaming_svd(model: Model, source: WeightFolder | None) -> Recipe:
    config = streaming_svd.Config(model.chunk, model.conditional, model.height, model.width, model.decode_group)
    if source:
        networks = streaming_svd.load_networks(source.read("streaming-svd"), source.read("svd-xt/unet"))
    else:
        structure = streaming_svd.TINY if model.toy else streaming_svd.Structure()
        networks = streaming_svd.random_networks(structure, SEED)
    return Recipe(streaming_svd.graphs(networks, config), {})


def _streaming_t2v(model: Model, source: WeightFolder | None) -> Recipe:
    config = streaming_t2v.Config(model.chunk, model.conditional, model.height, model.width, model.decode_group)
    if source:
        networks = streaming_t2v.load_networks(source.read("streaming-t2v"), source.read("modelscope/unet"))
    else:
        structure = streaming_t2v.TOY if model.toy else streaming_t2v.PUBLISHED
        networks = streaming_t2v.random_networks(structure, SEED)
    return Recipe(streaming_t2v.graphs(networks, config), {"text_tokenizer.json": _modelscope_tokenizer(source)})


def _modelscope_tokenizer(source: WeightFolder | None) -> str:
    """That of ModelScope, whose text tower is open_clip's, as is vid2vid's."""
    if source is None:
        return byte_tokenizer()
    return read_tokenizer(source.path / "modelscope" / "tokenizer" / "tokenizer.json", OPEN_CLIP_PADDING)


def _i2vgen_xl(how: Enhancing, source: WeightFolder | None, toy: bool) -> Recipe:
    networks = i2vgen_xl.TOY if toy else i2vgen_xl.PUBLISHED
    if source:
        weights: i2vgen_xl.Weights = source.below("i2vgen-xl").read
        tokenizer = read_tokenizer(source.path / "i2vgen-xl" / "tokenizer" / "tokenizer.json")
    else:
        weights = i2vgen_xl.random_weights(networks, SEED)
        tokenizer = byte_tokenizer()
    windows = key_lengths(how.window)
    graphs = i2vgen_xl.EnhancerGraphs(networks, weights, how.width, how.height, windows)
    return Recipe(graphs.makers(), {"enhance_tokenizer.json": tokenizer})


def _vid2vid(how: Enhancing, source: WeightFolder | None, toy: bool) -> Recipe:
    if source:
        parts = ("unet", "text_encoder", "autoencoder")
        networks = vid2vid.load_networks(*(source.read(f"vid2vid/{part}") for part in parts))
    else:
        networks = vid2vid.random_networks(vid2vid.TOY if toy else vid2vid.PUBLISHED, SEED)
    graphs = vid2vid.Vid2VidGraphs(networks, how.width, how.height, (how.window,))
    return Recipe(graphs.makers(), {"enhance_tokenizer.json": _modelscope_tokenizer(source)})


def _mini(model: Model, source: WeightFolder | None) -> Recipe:
    graphs = mini.streaming_graphs(model, mini.networks_of(source, SEED))
    return Recipe(graphs, {"text_tokenizer.json": mini_tokenizer().to_str()})


def _mini_enhancer(how: Enhancing, source: WeightFolder | None, toy: bool) -> Recipe:
    graphs = mini.EnhancerGraphs(mini.networks_of(source, SEED), how)
    return Recipe(graphs.makers(), {"enhance_tokenizer.json": mini_tokenizer().to_str()})


def _mini_interpolator(model: Model, source: WeightFolder | None) -> Recipe:
    return Recipe(mini.InterpolatorGraphs(source, _sizes(model)).makers(), {})


def _sizes(model: Model) -> tuple[tuple[int, int], ...]:
    """What pictures an interpolator gets: without the enhancer and with it."""
    size, how = (model.width, model.height), model.enhancing
    return (size, cut_size(size, (how.width, how.height))) if how else (size,)


def _interpolator(model: Model, source: WeightFolder | None) -> Recipe | None:
    if source and not source.has("ema-vfi"):
        return None
    config = ema_vfi.TOY if model.toy else ema_vfi.PUBLISHED
    weights = source.read("ema-vfi") if source else ema_vfi.random_weights(config, SEED)
    return Recipe(ema_vfi.InterpolatorGraphs(config, weights, _sizes(model)).makers(), {})


FAMILIES: Mapping[str, Callable[[Model, WeightFolder | None], Recipe]] = {
    "mini": _mini,
    "streaming-svd": _streaming_svd,
    "streaming-t2v": _streaming_t2v,
}
ENHANCERS: Mapping[str, Callable[..., Recipe]] = {
    "i2vgen-xl": _i2vgen_xl,
    "mini-enhancer": _mini_enhancer,
    "vid2vid": _vid2vid,
}
INTERPOLATORS: Mapping[str, Callable[[Model, WeightFolder | None], Recipe | None]] = {"mini": _mini_interpolator}
"""Of families that have one of their own."""
