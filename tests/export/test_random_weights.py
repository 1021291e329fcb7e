import numpy as np
import pytest
import torch

from stt2v.engine.models import find_model
from stt2v.export.random_weights import LARGE, random_state, recipe
from stt2v.export.recipes import recipe_for

LARGE_SHAPES = {"linear.weight": (1024, 512), "conv.weight": (512, 256, 3, 3)}


def test_small_tensors_follow_the_recipe() -> None:
    shapes = {"norm.weight": (8,), "conv.weight": (8, 4, 3, 3), "mix_factor": (1,)}
    state = random_state(shapes, seed=3, prefix="net.")
    for key, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), recipe(3, f"net.{key}", shapes[key]))


@pytest.mark.parametrize(("key", "shape"), LARGE_SHAPES.items())
def test_large_tensors_take_no_memory_and_keep_the_scale(key: str, shape: tuple[int, ...]) -> None:
    weight = random_state({key: shape}, seed=3)[key]
    assert weight.shape == shape
    assert weight.untyped_storage().nbytes() < weight.nbytes / 100
    rows = weight.flatten(1)
    assert float(rows.norm(dim=1).mean()) == pytest.approx(1.0, abs=0.1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert int(torch.linalg.matrix_rank(rows[:, :512].double())) == 512


def test_large_tensors_have_their_seed_and_name() -> None:
    (key, shape), _ = LARGE_SHAPES.items()
    first, again = (random_state({key: shape}, seed=3)[key] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_state({key: shape}, seed=4)[key])
    assert not torch.equal(first, random_state({key: shape}, seed=3, prefix="other.")[key])


def test_toys_have_no_large_tensors() -> None:
    graphs = recipe_for(find_model("tiny"), None).graphs
    modules = [graphs[name]().module for name in ("step", "first_step", "enhance_8_step", "interpolate_128x64")]
    assert max(parameter.numel() for module in modules for parameter in module.parameters()) <= LARGE
