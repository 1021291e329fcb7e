"""Pictures of a quality report: a contact sheet of videos, and the share of right objects from chunk to chunk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SHOWN = 12  # frames of each video on a sheet
WIDTH, HEIGHT, MARGIN = 640, 260, 40
COLOURS = ((30, 80, 200), (200, 80, 30), (40, 150, 60))


def sheet(videos: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """One row a video, frames from its first to its last. videos: [B, F, H, W, 3], uint8."""
    chosen = np.linspace(0, videos.shape[1] - 1, SHOWN).round().astype(int)
    rows = [np.concatenate(list(video[chosen]), axis=1) for video in videos]
    return Image.fromarray(np.concatenate(rows))


def plot(by_chunk: Mapping[str, Sequence[float]]) -> Image.Image:
    """A line for each name: the share of right objects in every chunk, from 50 to 100 %."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    across, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    draw.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline="grey")
    for share in (0.5, 0.75, 1.0):
        draw.text((6, HEIGHT - MARGIN - down * (2 * share - 1) - 6), f"{share:.0%}", fill="black")
    for number, ((name, shares), colour) in enumerate(zip(by_chunk.items(), COLOURS, strict=False)):
        places = np.linspace(MARGIN, MARGIN + across, len(shares))
        heights = [HEIGHT - MARGIN - down * max(2 * share - 1, 0) for share in shares]
        draw.line(list(zip(places.tolist(), heights, strict=True)), fill=colour, width=2)
        draw.text((MARGIN + 8 + 180 * number, 14), name, fill=colour)
    draw.text((MARGIN, HEIGHT - 24), f"right objects in chunks 1 to {max(map(len, by_chunk.values()))}", fill="black")
    return canvas
