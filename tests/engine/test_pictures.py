"""Pictures as the enhancer's networks see them."""

import numpy as np
import pytest

from stt2v.engine.media.image import model_image
from stt2v.engine.media.pictures import centre_crop, clip_picture, clip_pixels, resized, rounded_picture

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    assert (centre_crop(PICTURE, (64, 48)) == PICTURE).all()
    assert (resized(PICTURE, (64, 48)) == PICTURE).all()


@pytest.mark.parametrize("size", [(32, 24), (24, 24), (20, 40), (100, 20)])
def test_crop_has_the_size_asked_for(size: tuple[int, int]) -> None:
    assert centre_crop(PICTURE, size).shape == (size[1], size[0], 3)


def test_crop_keeps_the_middle() -> None:
    striped = np.zeros((40, 120, 3), np.uint8)
    striped[:, 40:80] = 255
    assert (centre_crop(striped, (40, 40)) == 255).all()


def test_scaling_one_pixel_short_leaves_a_black_line() -> None:
    """53 // (53 / 48) is 47.0: the reference's crop reaches beyond the picture, and so does ours."""
    crop = centre_crop(np.full((90, 53, 3), 200, np.uint8), (48, 32))
    assert not crop[:, 0].any()
    assert (crop[:, 1:] == 200).all()


def test_clip_sees_a_normalised_square() -> None:
    seen = clip_picture(np.full((48, 64, 3), 128, np.uint8), side=16, crop=64)
    assert seen.shape == (16, 16, 3)
    pixels = clip_pixels(seen)
    assert pixels.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(pixels[0, :, 8, 8], [0.07634, 0.16890, 0.33995], atol=1e-5)


def test_levels_survive_the_way_to_pixels_and_back() -> None:
    assert (rounded_picture(model_image(PICTURE)) == PICTURE).all()
    assert rounded_picture(np.full((1, 3, 1, 1), 7.0, np.float32)).tolist() == [[[255, 255, 255]]]
