import math

import numpy as np
import pytest

from stt2v.engine.errors import UsageError
from stt2v.engine.flow import dense_flow
from stt2v.engine.metrics import mawe, mean_colour, resized, seam_ratio, sharpness, splat


@pytest.fixture
def frame():
    """Smooth texture, [64, 80, 3]."""
    y, x = np.mgrid[:64, :80]
    waves = [np.sin(x / a + y / b) for a, b in ((3, 5), (7, -4), (5, 9))]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def uniform(x, y, shape=(64, 80)):
    return np.broadcast_to(np.array([x, y], np.float32)[:, None, None], (2, *shape))


def test_perfect_flow_has_no_error(frame):
    result = mawe([frame, np.roll(frame, 3, axis=1)], [uniform(3, 0)])
    assert result.value == 0
    assert result.pairs[0].known == pytest.approx(77 / 80)
    assert result.note == ""


def test_value_by_hand():
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    frames[1] = 10
    assert mawe(frames, [uniform(0.4, 0, (2, 2))]).value == pytest.approx(100 / (9.5 * 0.4))


@pytest.mark.parametrize(
    ("change", "flow", "expected", "words"),
    [(0, (0, 0), math.nan, "neither move"), (5, (0, 0), math.inf, "without any motion"), (5, (99, 0), 0.0, "leaves")],
)
def test_degenerate_videos_are_reported(frame, change, flow, expected, words):
    result = mawe([frame, frame // 2 + change if change else frame], [uniform(*flow)])
    assert result.value == expected or (math.isnan(expected) and math.isnan(result.value))
    assert words in result.note


def test_last_pixel_in_raster_order_wins():
    row = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    flow = np.zeros((2, 1, 4), np.float32)
    flow[0, 0] = [2, 1, 0, 0]
    warp = splat(row, flow)
    assert warp.image[0, :, 0].tolist() == [0, 0, 2, 3]
    assert warp.known[0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(("frames", "flows"), [(1, 0), (3, 1)])
def test_frames_and_flows_must_fit(frame, frames, flows):
    with pytest.raises(UsageError):
        mawe([frame] * frames, [uniform(0, 0)] * flows)


def test_resized_keeps_a_ramp():
    ramp = np.arange(0, 80, 10, dtype=np.uint8)[None, :, None] * np.ones((3, 1, 3), np.uint8)
    assert resized(ramp, 6, 16)[0, :, 0].tolist() == [0, 2, 8, 12, 18, 22, 28, 32, 38, 42, 48, 52, 58, 62, 68, 70]


def test_seam_ratio_sees_a_jump():
    frames = [np.full((8, 8, 3), level, np.uint8) for level in (10, 11, 12, 20, 21, 22)]
    assert seam_ratio(frames, [3]) == pytest.approx(8)
    assert math.isnan(seam_ratio(frames, []))


def test_blur_lowers_sharpness(frame):
    blurred = (frame[:, 3:] / 2 + frame[:, :-3] / 2).astype(np.uint8)
    sharp, soft = sharpness([frame, blurred])
    assert soft < sharp


def test_mean_colour_moves_with_the_frames(frame):
    warmer = frame.astype(int)
    warmer[..., 0] += 4
    pair = np.stack([frame, np.minimum(warmer, 255).astype(np.uint8)])
    assert mean_colour(pair) - mean_colour(pair[:1]) == pytest.approx([2, 0, 0], abs=1e-3)


def test_dense_flow_finds_a_shift(frame):
    flow = dense_flow(frame, np.roll(frame, (2, -3), axis=(0, 1)))
    assert np.median(flow, axis=(1, 2)) == pytest.approx([-3, 2], abs=0.1)


def test_dense_flow_of_a_still_is_zero(frame):
    assert not dense_flow(frame, frame).any()
