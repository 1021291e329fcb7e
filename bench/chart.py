"""A report as a picture: one bar a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw

ROW, LABELS, LONGEST, WORDS, MARGIN = 22, 260, 420, 260, 12  # pixels
COLOUR, FAINT = (30, 80, 200), (170, 190, 230)


@dataclass(frozen=True)
class Bar:
    """One row: what it is of, how long its bar is beside the others', and its value in words."""

    label: str
    value: float
    words: str
    faint: bool = False


class Charted(Protocol):
    """A report that has a picture."""

    def chart(self) -> tuple[str, Sequence[Bar]]:
        """Its title and rows."""
        ...


def draw_chart(report: Charted, path: Path) -> None:
    """Write the picture of a report to `path`, as PNG."""
    title, bars = report.chart()
    size = (LABELS + LONGEST + WORDS, 2 * MARGIN + ROW * (len(bars) + 1))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, fill="black")
    largest = max((bar.value for bar in bars), default=0) or 1
    for number, bar in enumerate(bars, start=1):
        top, width = MARGIN + ROW * number, LONGEST * bar.value / largest
        draw.text((MARGIN, top + 4), bar.label, fill="black")
        draw.rectangle((LABELS, top + 3, LABELS + width, top + ROW - 4), fill=FAINT if bar.faint else COLOUR)
        draw.text((LABELS + width + 6, top + 4), bar.words, fill="black")
    canvas.save(path, "PNG")
