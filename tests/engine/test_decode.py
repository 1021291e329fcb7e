"""Pixels to 8-bit pictures."""

import numpy as np

from stt2v.engine.stages.decode import from_uint8, through_8_bits, to_uint8

EVERY_LEVEL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
PIXELS = np.random.default_rng(0).uniform(-1.2, 1.2, (3, 3, 8, 10)).astype(np.float32)


def test_a_picture_has_the_colours_of_each_frame() -> None:
    """As the reference works it out for all frames at once."""
    unit = (PIXELS + np.float32(1.0)) / np.float32(2.0) * np.float32(255.0)
    levels = (np.float32(255.0) * np.clip(unit, 0.0, 255.0) / np.float32(255.0)).astype(np.uint8)
    pictures = to_uint8(PIXELS)
    assert pictures.flags.c_contiguous
    np.testing.assert_array_equal(pictures, levels.transpose(0, 2, 3, 1))


def test_levels_survive_rounding_and_come_near_by_truncation() -> None:
    values = from_uint8(EVERY_LEVEL)
    np.testing.assert_array_equal(through_8_bits(values), values)
    lost = EVERY_LEVEL.reshape(-1).astype(int) - to_uint8(values).reshape(-1)
    assert set(lost) <= {0, 1}


def test_what_is_beyond_white_and_black_is_cut_off() -> None:
    beyond = np.array([-7.0, 7.0], np.float32).reshape(2, 1, 1, 1)
    assert to_uint8(beyond).ravel().tolist() == [0, 255]
    assert through_8_bits(beyond).ravel().tolist() == [-1.0, 1.0]
