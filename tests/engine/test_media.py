"""Images in, videos out."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stt2v.engine.errors import InputError, OutputError, UsageError
from stt2v.engine.media.image import fit_image, load_image, model_image
from stt2v.engine.media.video import VideoWriter


def gradient(width: int, height: int) -> Image.Image:
    across = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(np.broadcast_to(across, (height, width, 3)).astype(np.uint8))


def moving_frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    frames = np.zeros((count, height, width, 3), np.uint8)
    for index in range(count):
        frames[index, :, : 8 + index] = (200, 60, 20)
    return frames


def read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(
    ("size", "word"),
    [((256, 144), ""), ((320, 144), "of the width"), ((144, 144), "of the height"), ((101, 97), "of the height")],
)
def test_crop_fills_the_model_size(size: tuple[int, int], word: str) -> None:
    pixels, note = fit_image(gradient(*size), 128, 72, "crop")
    assert pixels.shape == (72, 128, 3)
    assert word in note
    assert bool(note) == bool(word)
    assert pixels[:, -1].mean() > pixels[:, 0].mean()  # no black bar at the bright side


@pytest.mark.parametrize("size", [(144, 144), (400, 100)])
def test_pad_keeps_the_whole_picture(size: tuple[int, int]) -> None:
    pixels, note = fit_image(Image.new("RGB", size, "white"), 128, 72, "pad")
    assert "black bars" in note
    shown = pixels.any(axis=2).mean()
    picture, frame = size[0] / size[1], 128 / 72
    assert shown == pytest.approx(min(picture / frame, frame / picture), abs=0.03)


def test_picture_of_the_right_shape_is_resized_like_the_reference() -> None:
    picture = gradient(256, 144)
    pixels, _ = fit_image(picture, 128, 72, "crop")
    assert np.array_equal(pixels, np.asarray(picture.resize((128, 72), Image.Resampling.BICUBIC)))


def test_slivers_are_fitted() -> None:
    for size in ((64, 5000), (5000, 64)):
        for fit in ("crop", "pad"):
            assert fit_image(gradient(*size), 128, 72, fit)[0].shape == (72, 128, 3)


def test_model_image_range() -> None:
    values = model_image(np.array([[[0, 127, 255]]], np.uint8))
    assert values.shape == (1, 3, 1, 1)
    assert values.ravel() == pytest.approx([-1.0, 127 / 127.5 - 1, 1.0], abs=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((80, 80), 40000, np.uint16))
    picture = deep if mode == "I;16" else gradient(80, 80).convert(mode)
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr", "I;16") else "picture.png")
    picture.save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    if mode == "I;16":
        assert np.asarray(loaded).mean() == pytest.approx(40000 / 257, abs=1)


def test_orientation_is_applied(tmp_path: Path) -> None:
    picture = gradient(100, 80)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (80, 100)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(load_image(tmp_path / "clear.png")).min() == 255


def test_unusable_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for name, word in [
        ("gone.png", "exist"),
        ("text.png", "cannot be read"),
        ("dot.png", "1x1"),
        ("bomb.png", "pixels"),
    ]:
        with pytest.raises(InputError, match=word) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_video_holds_the_frames(tmp_path: Path) -> None:
    frames = moving_frames(9)
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 48, 32, 8.0, {"comment": "settings"}) as writer:
        writer.write(frames[:4])
        assert not path.exists()
        writer.write(frames[4:])
    decoded = read(path)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
        assert container.metadata["comment"] == "settings"
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_same_frames_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with VideoWriter(tmp_path / f"{name}.mp4", 48, 32, 24, {}) as writer:
            writer.write(moving_frames(12))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_failed_run_leaves_nothing_and_keeps_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")

    def run() -> None:
        with VideoWriter(path, 48, 32, 8, {}) as writer:
            writer.write(moving_frames(3))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"old"


def test_impossible_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path, error in [
        (tmp_path / "video.avi", UsageError),
        (tmp_path / "folder.mp4", UsageError),
        (tmp_path / "gone" / "video.mp4", OutputError),
        (tmp_path / ("long" * 63 + ".mp4"), UsageError),
        (Path("/proc/video.mp4"), OutputError),
    ]:
        with pytest.raises(error):
            VideoWriter(path, 48, 32, 8, {})
