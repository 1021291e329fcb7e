"""Windows, offsets and hard cuts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt2v.engine.blend import draw_offsets, overlaps, place, window_starts
from stt2v.engine.errors import PlanError
from stt2v.engine.noise import Noise

lengths = st.integers(1, 40).flatmap(
    lambda window: st.tuples(st.integers(window, 400), st.just(window), st.integers(0, window - 1))
)


@given(lengths)
def test_windows_cover_every_length_exactly(sizes: tuple[int, int, int]) -> None:
    frames, window, overlap = sizes
    starts = window_starts(*sizes)
    assert starts[0] == 0
    assert starts[-1] + window == frames
    shared = overlaps(starts, window)
    assert set(shared[1:-1]) <= {overlap}
    assert all(overlap <= last < window for last in shared[1:][-1:])


def test_starts_are_the_reference_ones_where_they_fit() -> None:
    assert window_starts(11, 5, 2) == (0, 3, 6)
    assert window_starts(13, 5, 2) == (0, 3, 6, 8)
    assert window_starts(38, 38, 12) == (0,)


@pytest.mark.parametrize(("window", "overlap"), [(8, 8), (8, 9), (8, -1), (0, 0)])
def test_windows_that_cannot_advance(window: int, overlap: int) -> None:
    with pytest.raises(PlanError, match="lower the overlap"):
        window_starts(20, window, overlap)


def test_clip_below_one_window() -> None:
    with pytest.raises(PlanError, match="clip has 7 frames"):
        window_starts(7, 8, 3)


@given(lengths, st.integers(0, 2**32))
def test_every_frame_comes_from_a_window_that_has_it(sizes: tuple[int, int, int], seed: int) -> None:
    frames, window, _ = sizes
    starts = window_starts(*sizes)
    (offsets,) = draw_offsets(Noise(seed), "offset", 1, starts, window)
    out = np.full(frames, np.nan)
    for start, offset in zip(starts, offsets, strict=True):
        place(np.arange(start, start + window), start, offset, out)
    assert (out == np.arange(frames)).all()


def test_frames_before_the_offset_stay_with_the_earlier_window() -> None:
    out = np.empty(8)
    place(np.zeros(5), 0, 0, out)
    place(np.ones(5), 3, 1, out)
    assert out.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_offsets_use_the_whole_overlap_of_each_window() -> None:
    offsets = draw_offsets(Noise(0), "offset", 200, (0, 3, 6, 8), 5)
    assert offsets.shape == (200, 4)
    assert [set(column) for column in offsets.T.tolist()] == [{0}, {0, 1}, {0, 1}, {0, 1, 2}]
    assert not draw_offsets(Noise(0), "offset", 5, (0, 5), 5).any()
