import numpy as np
import pytest

from stt2v.engine.media.canvas import content, fitted_size, on_canvas


@pytest.mark.parametrize(
    ("picture", "fitted"), [((256, 256), (720, 720)), ((1024, 576), (1280, 720)), ((3, 1), (1280, 426))]
)
def test_fitted_size_keeps_the_aspect(picture, fitted):
    assert fitted_size(picture, (1280, 720)) == fitted


def test_square_pictures_get_black_columns_that_content_cuts_off():
    picture = np.full((8, 8, 3), 200, np.uint8)
    board = on_canvas(picture, (32, 16))
    assert board.shape == (16, 32, 3)
    assert not board[:, :8].any()
    assert not board[:, 24:].any()
    assert content(board, (16, 16)).min() == 200
