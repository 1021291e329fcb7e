"""Images in, videos out."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from stt2v.engine.errors import InputError, OutputError, UsageError
from stt2v.engine.media.image import fit_image, image_hash, load_image, model_image
from stt2v.engine.media.join import join_videos
from stt2v.engine.media.read import count_frames, read_comment
from stt2v.engine.media.video import FINAL, LIVE, Encoding, VideoWriter
from stt2v.engine.media.whole import check_place, whole_file


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


def test_slivers_are_fitted_but_for_those_that_would_take_gigabytes(tmp_path: Path) -> None:
    Image.new("1", (64, 6401)).save(tmp_path / "sliver.png")
    with pytest.raises(InputError, match=r"sliver\.png is 64x6401, its longer side may be 100 times the shorter"):
        load_image(tmp_path / "sliver.png")
    for size in ((64, 5000), (5000, 64)):
        for fit in ("crop", "pad"):
            assert fit_image(gradient(*size), 128, 72, fit)[0].shape == (72, 128, 3)


def test_model_image_range() -> None:
    values = model_image(np.array([[[0, 127, 255]]], np.uint8))
    assert values.shape == (1, 3, 1, 1)
    assert values.ravel() == pytest.approx([-1.0, 127 / 127.5 - 1, 1.0], abs=1e-6)


MODES = {
    "1": "picture.png",
    "L": "picture.png",
    "LA": "picture.png",
    "P": "picture.gif",
    "PA": "picture.tif",
    "RGB": "picture.bmp",
    "RGBA": "picture.webp",
    "RGBX": "picture.tif",
    "CMYK": "picture.jpg",
    "YCbCr": "picture.tif",
    "I;16": "picture.png",
    "I;16B": "picture.tif",
    "I": "picture.tif",
    "HSV": "",
    "La": "",
    "RGBa": "",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    """With the colours that it means, as far as the mode and the format hold them; without a file, as it is given."""
    plain = gradient(80, 80)
    picture = deep(plain, mode) if mode[0] == "I" else (plain.quantize() if mode[0] == "P" else plain).convert(mode)
    path = tmp_path / MODES[mode]
    if MODES[mode]:
        picture.save(path)
    loaded = load_image(path if MODES[mode] else picture)
    assert loaded.mode == "RGB"
    if mode != "1":
        assert (
            np.abs(np.asarray(loaded).astype(int) - np.asarray(plain)).max() <= 6
        )  # JPEG, and palettes of 256 colours


def deep(picture: Image.Image, mode: str) -> Image.Image:
    """A grey picture in 16 bits."""
    levels = np.asarray(picture.convert("L")).astype(np.uint32) * 257
    return Image.fromarray(levels.astype({"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]))


def test_lab_is_understood(tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = Image.new("RGB", (80, 80), (200, 60, 20))
    converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    assert converted is not None
    converted.save(tmp_path / "picture.tif")
    assert np.asarray(load_image(tmp_path / "picture.tif"))[40, 40].tolist() == pytest.approx([200, 60, 20], abs=4)


def test_a_colour_profile_counts(tmp_path: Path) -> None:
    """A profile in which red and blue have changed places."""
    srgb, ours = (name.encode("utf-16-be") for name in ("sRGB", "ours"))
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(srgb, ours))
    places = [swapped.index(name) for name in (b"rXYZ", b"bXYZ")]
    for place, name in zip(places, (b"bXYZ", b"rXYZ"), strict=True):
        swapped[place : place + 4] = name
    picture = Image.new("RGB", (80, 80), (200, 60, 20))
    picture.save(tmp_path / "swapped.png", icc_profile=bytes(swapped))
    picture.save(tmp_path / "damaged.png", icc_profile=bytes(swapped[:200]))
    assert np.asarray(load_image(tmp_path / "swapped.png"))[0, 0].tolist() == pytest.approx([20, 60, 200], abs=3)
    assert np.asarray(load_image(tmp_path / "damaged.png"))[0, 0].tolist() == [200, 60, 20]


@pytest.mark.parametrize("name", ["picture.gif", "picture.webp", "picture.png", "picture.tif"])
def test_an_animation_begins_with_its_first_frame(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (80, 80), colour) for colour in ("red", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert np.asarray(load_image(tmp_path / name))[40, 40].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (80, 80), 100_000).save(tmp_path / "picture.tif")
    with pytest.raises(InputError, match="convert it to 8 or 16 bits"):
        load_image(tmp_path / "picture.tif")


def test_what_could_be_read_for_ever_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        for read in (load_image, image_hash):
            with pytest.raises(InputError, match="is no file"):
                read(path)


def test_postscript_starts_no_program(tmp_path: Path) -> None:
    gradient(80, 80).save(tmp_path / "picture.eps")
    with pytest.raises(InputError, match="cannot be read"):
        load_image(tmp_path / "picture.eps")


def test_orientation_is_applied(tmp_path: Path) -> None:
    picture = gradient(100, 80)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (80, 100)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (80, 80), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(load_image(tmp_path / "clear.png")).min() == 255


def test_a_picture_without_a_file_is_called_given() -> None:
    whole = BytesIO()
    Image.effect_noise((80, 80), 50).save(whole, "PNG")
    with Image.open(BytesIO(whole.getvalue()[:2000])) as half, pytest.raises(InputError, match="image given cannot be"):
        load_image(half)


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
        writer.write(iter(frames[4:]))
    decoded = read(path)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 4
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
        assert container.metadata["comment"] == "settings"
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_same_frames_same_bytes_on_any_number_of_cores(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    frames = moving_frames(60, 256, 96)
    try:
        for name, count in [("few", 1), ("all", len(cores))]:
            os.sched_setaffinity(0, list(cores)[:count])
            with VideoWriter(tmp_path / f"{name}.mp4", 96, 256, 24, {}) as writer:
                writer.write(frames)
    finally:
        os.sched_setaffinity(0, cores)
    assert (tmp_path / "few.mp4").read_bytes() == (tmp_path / "all.mp4").read_bytes()


@pytest.mark.parametrize(("how", "slices"), [(FINAL, 1), (LIVE, LIVE.threads)])
def test_threads_share_the_pictures_that_nobody_may_wait_for(how: Encoding, slices: int, tmp_path: Path) -> None:
    path, height = tmp_path / "video.mp4", 64 * LIVE.threads
    with VideoWriter(path, 48, height, 24, {}, how) as writer:
        writer.write(moving_frames(3, height))
    with av.open(str(path)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert [sum(unit in (1, 5) for unit in units(picture)) for picture in pictures] == 3 * [slices]


def units(picture: bytes) -> Iterator[int]:
    """The types of the units of a picture; 1 and 5 are slices of it (ITU-T H.264, table 7-1)."""
    while picture:
        end = 4 + int.from_bytes(picture[:4])
        yield picture[4] & 31
        picture = picture[end:]


@pytest.mark.parametrize("fps", [24, 23.976, 8.5, 0.01])
@pytest.mark.parametrize("lengths", [(1,), (9, 8, 1, 2), (1, 1, 9)])
def test_segments_are_joined_as_they_are(fps: float, lengths: tuple[int, ...], tmp_path: Path) -> None:
    ends = np.cumsum(lengths)
    frames = moving_frames(ends[-1])
    segments = [tmp_path / f"{end}.mp4" for end in ends]
    for path, end, length in zip(segments, ends, lengths, strict=True):
        with VideoWriter(path, 48, 32, fps, {}) as writer:
            writer.write(frames[end - length : end])
    joined = tmp_path / "joined.mp4"
    join_videos(segments, joined, fps, {"comment": "settings"})
    np.testing.assert_array_equal(read(joined), np.concatenate([read(path) for path in segments]))
    with av.open(str(joined)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        assert container.metadata["comment"] == "settings"
        times = [frame.pts for frame in container.decode(stream)]
    assert len(set(np.diff(times))) <= 1
    assert times[0] == 0


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"old"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"new"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "a.mp4", tmp_path / "disk" / "video.mp4"
    link.symlink_to(target)
    for text in ("first", "second"):
        with whole_file(link) as temporary:
            temporary.write_text(text)
        assert (link.is_symlink(), target.read_text()) == (True, text)
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "video.mp4")
    with pytest.raises(OutputError, match=r"a\.mp4 cannot be written"):
        check_place(link)


def test_what_killed_processes_left_goes_and_what_is_in_work_stays(tmp_path: Path) -> None:
    left = tmp_path / ".stt2v-12345678.part.mp4"
    left.write_bytes(b"half")
    with whole_file(tmp_path / "a.mp4") as one, whole_file(tmp_path / "b.mp4") as other:
        assert not left.exists()
        for temporary in (one, other):
            temporary.write_bytes(b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "video.mp4", list[tuple[str, bool]]()

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((target.read_text() if target.is_file() else target.name, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(path) as temporary:
        temporary.write_text("frames")
    assert synced == [("frames", False), (tmp_path.name, True)]


def test_threads_at_once_make_files_of_the_usual_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usual").touch()
    rights, umask = (tmp_path / "usual").stat().st_mode, os.umask

    def slow(mask: int) -> int:
        before = umask(mask)
        time.sleep(0.001)  # for another thread to come between
        return before

    monkeypatch.setattr(os, "umask", slow)

    def write(number: int) -> int:
        with whole_file(tmp_path / str(number % 8)) as temporary:
            temporary.touch()
        (tmp_path / f"other-{number}").touch()
        return (tmp_path / f"other-{number}").stat().st_mode

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(write, range(80))) == {rights}
    assert {(tmp_path / str(number)).stat().st_mode for number in range(8)} == {rights}


def test_a_relative_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path("10:30.mp4"), 48, 32, 8, {"comment": "settings"}) as writer:
        writer.write(moving_frames(3))
    Path("http:").mkdir()
    join_videos([Path("10:30.mp4")], Path("http:/joined.mp4"), 8, {"comment": "settings"})
    for path in (Path("10:30.mp4"), Path("http:/joined.mp4")):
        assert (count_frames(path), read_comment(path)) == (3, "settings")


def test_impossible_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path, error in [
        (tmp_path / "video.avi", UsageError),
        (tmp_path / "folder.mp4", UsageError),
        (tmp_path / "gone" / "video.mp4", OutputError),
        (tmp_path / ("long" * 63 + ".mp4"), UsageError),
    ]:
        with pytest.raises(error):
            VideoWriter(path, 48, 32, 8, {})
    with pytest.raises(OutputError):
        check_place(Path("/proc/video.mp4"))
