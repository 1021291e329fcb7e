"""Small graphs with every kind of layer that matters to a compiler: convolution, linear, attention, step parts.

And what is checked of every graph, these or a family's at toy width.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from stt2v.engine.backends.base import Engine
from stt2v.engine.parity import Parity, compare, limit_for
from stt2v.export.capture import program_from_graph
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.random_weights import random_state
from stt2v.export.reference import reference_of, seeded_inputs
from stt2v.export.step import Half, Network, Step, Update, UpdateRule
from stt2v.export.to_onnx import onnx_from_program

FRAMES, CHANNELS, SIZE, TOKENS, CONTEXT, WIDTH = 3, 4, 8, 5, 8, 16
LATENTS = (FRAMES, CHANNELS, SIZE, SIZE)
RULE = UpdateRule(noise=True)
MODEL = {"name": "toy", "family": "toy", "sizes": (SIZE, SIZE), "defaults": {"fps": 8.0}}


class ToyNetwork(Network):
    """x: [B, F, C, h, w], context: [B, T, D], label: [1 or B, 1, 1, C]; convolution, attention to context, MLP."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = nn.functional.silu) -> None:
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.key = nn.Linear(CONTEXT, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, CHANNELS)

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        size = x.shape[-2:]
        hidden = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        hidden = hidden.flatten(3).transpose(2, 3)  # [B, F, h * w, WIDTH]
        key = self.key(conditions["context"])[:, None].expand(-1, hidden.shape[1], -1, -1)
        hidden = hidden + nn.functional.scaled_dot_product_attention(hidden, key, key) * (1 + timestep)
        hidden = self.down(self.activation(self.up(hidden))) + conditions["label"]
        return hidden.transpose(2, 3).unflatten(3, size)


class ToyEncoder(nn.Module):
    """tokens: [T], int64; image: [3, h, w] -> context: [1, T, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, CONTEXT)
        self.image = nn.Conv2d(3, CONTEXT, 2)
        self.norm = nn.LayerNorm(CONTEXT)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return self.norm(self.tokens(tokens) + self.image(image[None]).mean((2, 3)))[None]


def with_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    module.load_state_dict(random_state(shapes, seed))
    return module.eval()


def step(seed: int = 0, **options: Callable[[Tensor], Tensor]) -> Graph:
    inputs = {
        "x": torch.zeros(LATENTS),
        "guidance": torch.zeros(FRAMES),
        "coefficients": torch.zeros(8),
        "noise": torch.zeros(LATENTS),
        "label": torch.zeros(1, 1, 1, CHANNELS),  # not in forward's order nor the alphabet's
        "context": torch.zeros(2, TOKENS, CONTEXT),
    }
    module = Step(with_weights(ToyNetwork(**options), seed), RULE)
    return Graph("step", module, inputs, ("x_next", "x0"))


def half(seed: int = 0) -> Graph:
    inputs = {
        "x": torch.zeros(LATENTS),
        "coefficients": torch.zeros(8),
        "context": torch.zeros(1, TOKENS, CONTEXT),
        "label": torch.zeros(1, 1, 1, CHANNELS),
    }
    return Graph("half", Half(with_weights(ToyNetwork(), seed)), inputs, ("prediction",))


def update() -> Graph:
    latents = {name: torch.zeros(LATENTS) for name in ("x", "uncond", "cond")}
    inputs = {**latents, "guidance": torch.zeros(FRAMES), "coefficients": torch.zeros(8), "noise": torch.zeros(LATENTS)}
    return Graph("update", Update(RULE), inputs, ("x_next", "x0"))


def encoder() -> Graph:
    inputs = {"tokens": torch.tensor([3, 1, 4, 1, 5]), "image": torch.zeros(3, SIZE, SIZE)}
    return Graph("encoder", with_weights(ToyEncoder(), 1), inputs, ("context",))


GRAPHS: dict[str, GraphMaker] = {"step": step, "half": half, "update": update, "encoder": encoder}


def checked_by_onnx_runtime(graph: Graph) -> ir.Model:
    """`graph` as ONNX, once ONNX Runtime has computed with it what the module itself does."""
    program = program_from_graph(graph)
    model = onnx_from_program(program)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    inputs = seeded_inputs(graph)
    actual = session.run(list(graph.outputs), inputs)
    expected = EagerEngine(graph, program.spec).run(inputs)
    for output, value in zip(actual, expected.values(), strict=True):
        np.testing.assert_allclose(output, value, rtol=0, atol=1e-4 * np.abs(value).max())
    return model


def parity_of(engine: Engine, graph: Graph, precision: str, seed: int = 0) -> Parity:
    """`engine` beside the module of `graph`, which is in float32. Raises BackendError when the engine does not run."""
    reference = reference_of(graph, engine.spec, seed)
    limit = limit_for(precision, reference.made_in)
    return compare(graph.name, engine.run(reference.inputs(engine.spec)), reference.outputs, limit)
