"""What shows the base video while it is made."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError, UsageError
from stt2v.engine.media import contact_sheet
from stt2v.engine.media.contact_sheet import COLUMNS, LABEL, WIDTH, ContactSheet
from stt2v.engine.media.video import LIVE, VideoWriter
from stt2v.engine.progress import Silent
from stt2v.engine.views import Views


def levels(*values: int) -> Frames:
    """A frame of one grey level for each value: [n, 32, 64, 3]."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 32, 64, 3)).copy()


def seen(path: Path) -> list[int]:
    """The grey levels of the frames that a player finds in a file."""
    with av.open(str(path)) as container:
        return [round(float(frame.to_ndarray(format="rgb24").mean())) for frame in container.decode(video=0)]


def test_a_preview_plays_while_it_grows(tmp_path: Path) -> None:
    path, values = tmp_path / "live.mp4", [20, 60, 100, 140, 180, 220]
    with VideoWriter(path, 64, 32, 8.0, {}, LIVE) as preview:
        for count in range(2, len(values) + 1, 2):
            preview.write(levels(*values[count - 2 : count]))
            assert seen(path) == pytest.approx(values[: count - 1], abs=2)  # the newest frame comes with the next one
    assert seen(path) == pytest.approx(values, abs=2)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 8


def test_a_preview_of_a_run_that_fails_can_be_seen(tmp_path: Path) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "live.mp4", 64, 32, 8.0, {}, LIVE) as preview:
            preview.write(levels(20, 200))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen(tmp_path / "live.mp4") == pytest.approx([20, 200], abs=2)


def test_a_contact_sheet_has_a_row_for_each_block(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    sheet = ContactSheet(path)
    for rows, block in enumerate((levels(*range(0, 250, 10)), levels(50, 100)), start=1):
        sheet.write(block)
        with Image.open(path) as picture:
            assert picture.size == (COLUMNS * WIDTH, rows * (LABEL + WIDTH // 2))
    pixels = np.asarray(Image.open(path))
    middle = LABEL + WIDTH // 4
    assert pixels[middle, WIDTH // 2 :: WIDTH, 0].tolist() == [0, 50, 100, 140, 190, 240]
    assert pixels[middle + LABEL + WIDTH // 2, WIDTH // 2 :: WIDTH, 0].tolist() == [50, 100, 0, 0, 0, 0]
    assert pixels[:LABEL].any()
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def test_a_contact_sheet_of_a_long_video_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "MOST_ROWS", 4)
    sheet = ContactSheet(tmp_path / "sheet.png")
    for block in range(10):
        sheet.write(levels(10 * block))
    with Image.open(tmp_path / "sheet.png") as picture:
        rows = np.asarray(picture)[LABEL + WIDTH // 4 :: LABEL + WIDTH // 2, 0, 0]
    assert rows.tolist() == [0, 40, 80]


def test_a_contact_sheet_is_no_higher_than_its_format_can_be(tmp_path: Path) -> None:
    sheet, block = ContactSheet(tmp_path / "sheet.webp"), levels(0)[:, :, :32]
    for _ in range(95):
        sheet.write(block)
    with Image.open(tmp_path / "sheet.webp") as picture:
        assert picture.height == 48 * (LABEL + WIDTH)


@pytest.mark.parametrize(
    ("views", "error"),
    [
        (Views(preview=Path("live.avi")), UsageError),
        (Views(contact_sheet=Path("sheet.txt")), UsageError),
        (Views(preview=Path("no/such/folder/live.mp4")), OutputError),
        (Views(contact_sheet=Path("no/such/folder/sheet.png")), OutputError),
    ],
)
def test_places_that_cannot_be_written_are_refused_at_once(views: Views, error: type[Exception]) -> None:
    with pytest.raises(error), views.opened(64, 32, 8.0, Silent()):
        pass


def test_a_view_that_fails_does_not_stop_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    notes: list[str] = []

    class Notes(Silent):
        def note(self, line: str) -> None:
            notes.append(line)

    with Views(tmp_path / "live.mp4", folder / "sheet.png").opened(64, 32, 8.0, Notes()) as shown:
        folder.rmdir()
        shown(0, levels(10, 20))
        shown(0, levels(50))
        shown(1, levels(30, 40))
    assert len(notes) == 1
    assert notes[0].endswith("the video goes on without it")
    assert len(seen(tmp_path / "live.mp4")) == 4
