"""Values between host and card."""

import numpy as np
import pytest
import torch

from stt2v.engine.backends.inductor_values import TorchValue, begun_on, on_device


def test_a_value_of_the_host_comes_as_its_engine_takes_it() -> None:
    value = np.arange(6, dtype=np.float64).reshape(2, 3).T
    tensor = on_device(value, "float32", "cpu")
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(np.asarray(TorchValue(tensor, begun_on("cpu"))), value)
    assert on_device(TorchValue(tensor), "float32", "cpu") is tensor
    value[:] = 9  # an engine may still read what it was given when the host has other use for the memory
    assert tensor.max() == 5


@pytest.mark.gpu
def test_a_result_does_not_wait_for_what_was_begun_after_it() -> None:
    value = np.random.default_rng(0).random((64, 1 << 16), np.float32)
    tensor = on_device(value, "float32", "cuda") * 2
    made = TorchValue(tensor, begun_on("cuda"))
    np.asarray(made)  # the first way back makes a stream, for which PyTorch waits until the card has nothing to do
    torch.cuda._sleep(1 << 32)  # cycles: about two seconds
    later = on_device(value, "float32", "cuda") * 3
    np.testing.assert_array_equal(np.asarray(made), value * 2)
    end = begun_on("cuda")
    assert not end.query()
    np.testing.assert_array_equal(np.asarray(TorchValue(later, end)), value * 3)
