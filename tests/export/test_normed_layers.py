"""A layer behind a GroupNorm gives the same with the norm's factors in weights of each frame's own."""

import pytest
import torch
from torch import Tensor, nn
from triton import knobs

from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.kernel_pass import put_kernels
from stt2v.export.precision import in_type


class Tokens(nn.Module):
    """x: [N, 32, h, w] -> [N, h w, 32], normalised and through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.GroupNorm(4, 32), nn.Linear(32, 32)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.norm(x).flatten(2).transpose(1, 2))
        return out


@pytest.mark.parametrize(("side", "count"), [(8, 1), (7, 0)])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_layers_of_large_maps_take_them_as_they_are(
    dtype: torch.dtype, allowed: float, side: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)  # the references stand in for the kernels
    torch.manual_seed(0)
    module, x = Tokens(), torch.randn(3, 32, side, side) + 1
    program = flatten(exported_from_graph(in_type(Graph("tokens", module, {"x": x}, ("y",)), dtype)))
    assert put_kernels(program.module)["normed_layers"] == count
    with torch.no_grad():
        expected, actual = module(x), program.module(*program.weights.values(), x)[0]
    assert float((actual - expected).norm() / expected.norm()) < allowed


class Rows(Tokens):
    """The same rows, [N h w, 32]."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.norm(x).permute(0, 2, 3, 1).reshape(-1, 32))
        return out


class Pixels(Tokens):
    """x: [N, 32, F h, w] -> [N h w, F, 32]: its maps are seen as clips only behind the norm."""

    def forward(self, x: Tensor) -> Tensor:
        clips = self.norm(x).reshape(len(x), 32, 2, -1, x.shape[3])
        out: Tensor = self.layer(clips.permute(0, 3, 4, 2, 1).reshape(-1, 2, 32))
        return out


@pytest.mark.parametrize(("module", "count"), [(Rows(), 1), (Pixels(), 0)])
def test_layers_of_rows_laid_otherwise_give_the_same(
    module: Tokens, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    x = torch.randn(3, 32, 8, 8)
    program = flatten(exported_from_graph(Graph("rows", module, {"x": x}, ("y",))))
    assert put_kernels(program.module)["normed_layers"] == count
    with torch.no_grad():
        assert torch.allclose(program.module(*program.weights.values(), x)[0], module(x), atol=1e-5)
