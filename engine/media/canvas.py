"""Pictures of any aspect on a canvas of fixed size: scaled to fit, centred, black around; and cut out again.

Sizes are (width, height) in pixels; a picture is [H, W, 3], uint8.
"""

import numpy as np

from stt2v.engine.backends.base import Frames

Size = tuple[int, int]


def fitted_size(picture: Size, canvas: Size) -> Size:
    """The largest size of the picture's aspect inside the canvas, rounded down."""
    width, height = picture
    if canvas[1] / height > canvas[0] / width:
        return canvas[0], int(height * canvas[0] / width)
    return int(width * canvas[1] / height), canvas[1]


def cut_size(picture: Size, canvas: Size) -> Size:
    """What a video of such pictures has once it is cut out of the canvas again: even sides, as H.264 needs them."""
    width, height = fitted_size(picture, canvas)
    return width - width % 2, height - height % 2


def on_canvas(picture: Frames, canvas: Size) -> Frames:
    """The picture, bicubic at its `fitted_size`, in the middle of a black canvas."""
    from PIL import Image

    size = fitted_size((picture.shape[1], picture.shape[0]), canvas)
    board = np.zeros((canvas[1], canvas[0], 3), np.uint8)
    content(board, size)[:] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    return board


def content(board: Frames, size: Size) -> Frames:
    """The middle of a canvas, as a view: what `on_canvas` has put there."""
    left, top = (board.shape[1] - size[0]) // 2, (board.shape[0] - size[1]) // 2
    return board[top : top + size[1], left : left + size[0]]
