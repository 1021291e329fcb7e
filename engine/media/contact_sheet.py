"""One picture that shows a whole video: a row of frames for each chunk."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.media.video import check_output
from stt2v.engine.media.whole import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 6
WIDTH = 160  # pixels of a frame on the sheet
LABEL = 14  # pixels above a row, for the number of its first frame
MOST_ROWS = 100
TALLEST = 16_383  # pixels, of a WebP
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class ContactSheet:
    """A picture at `path` that has a new row after every block of frames, and is whole at any time.

    Of more blocks than fit it keeps every second one, then every fourth, and so on. Raises UsageError for a name that
    is no picture's, OutputError for a folder that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        check_output(path, *SUFFIXES)
        self.path = path
        self._rows: dict[int, Image] = {}
        self._blocks = self._frames = 0
        self._stride = 1

    def write(self, frames: Frames) -> None:
        """Add a row that shows `frames`: [n, H, W, 3], uint8. Raises OutputError."""
        if self._blocks % self._stride == 0:
            self._rows[self._blocks] = _row(frames, self._frames)
            if len(self._rows) > min(MOST_ROWS, TALLEST // self._rows[self._blocks].height):
                self._stride *= 2
                self._rows = {block: row for block, row in self._rows.items() if block % self._stride == 0}
            self._save()
        self._blocks += 1
        self._frames += len(frames)

    def _save(self) -> None:
        from PIL import Image

        rows = list(self._rows.values())
        sheet = Image.new("RGB", (COLUMNS * WIDTH, sum(row.height for row in rows)))
        for index, row in enumerate(rows):
            sheet.paste(row, (0, index * row.height))
        with whole_file(self.path) as whole:
            sheet.save(whole)


def _row(frames: Frames, number: int) -> "Image":
    """Some of `frames` side by side, spread evenly, under the number of the first."""
    from PIL import Image, ImageDraw

    height = max(1, round(frames.shape[1] * WIDTH / frames.shape[2]))
    row = Image.new("RGB", (COLUMNS * WIDTH, LABEL + height))
    ImageDraw.Draw(row).text((2, 1), f"frame {number}", "white")
    for column, index in enumerate(np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)):
        row.paste(Image.fromarray(frames[index]).resize((WIDTH, height)), (column * WIDTH, LABEL))
    return row
