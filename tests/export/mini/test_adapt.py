"""Published classes adapted to narrow networks compute what they computed."""

import torch
from torch import nn

from stt2v.export.mini.adapt import FlatConv3d, adapt
from stt2v.export.mini.measure import seam
from stt2v.export.mini.networks import Core
from stt2v.export.mini.quick import quickened
from stt2v.export.mini.training import Run


def test_a_convolution_over_time_is_the_same_when_flat() -> None:
    layers = nn.Sequential(nn.GroupNorm(8, 16), nn.Conv3d(16, 8, (3, 1, 1), padding=(1, 0, 0)))
    x = torch.randn(2, 16, 5, 3, 4)
    before = layers[1](x)
    adapt(layers, groups=4)
    assert isinstance(layers[1], FlatConv3d)
    assert layers[0].num_groups == 4
    torch.testing.assert_close(layers[1](x), before)


def test_a_worker_computes_what_its_module_does(tmp_path) -> None:
    run = Run(minutes=1, out=tmp_path, weights=tmp_path, device="cpu")
    module = Core().eval()
    worker = quickened(run.worker(module)).eval()
    given = (
        torch.randn(1, 16, 16, 8, 8),
        torch.tensor([500]),
        torch.ones(1, 16, dtype=torch.int64),
        torch.randn(1, 3, 64, 64),
        torch.randn(1, 8, 3, 64, 64),
    )
    with torch.no_grad():
        torch.testing.assert_close(worker(*given), module(*given), rtol=1e-4, atol=1e-4)
    assert all(a is not b for a, b in zip(module.parameters(), worker.parameters(), strict=True))


def test_seams_stand_out_where_they_are() -> None:
    frames = torch.zeros(1, 32, 3, 4, 4)
    steps = torch.ones(32)
    steps[16] = steps[24] = 3.0
    frames += steps.cumsum(0)[None, :, None, None, None]
    assert seam(frames, 8) == 3.0
    assert seam(frames, 16) < 3.0
