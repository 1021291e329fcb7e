"""Draw the loss curves that training wrote: python -m stt2v.export.mini.curves FILE.json ... --out DIR."""

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 480, 240, 36


def draw_curve(name: str, points: list[tuple[float, int, float]]) -> Image.Image:
    """A picture of one curve. points: seconds, steps, loss (drawn on a logarithmic axis)."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    losses = [math.log10(loss) for _, _, loss in points]
    low, high, last = min(losses), max(losses), points[-1][0]
    across, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    line = [
        (MARGIN + across * seconds / last, HEIGHT - MARGIN - down * (loss - low) / max(high - low, 1e-9))
        for (seconds, _, _), loss in zip(points, losses, strict=True)
    ]
    draw.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline="grey")
    draw.line(line, fill=(30, 80, 200), width=2)
    draw.text((MARGIN, 8), f"{name}: loss {points[-1][2]:.4f} after {points[-1][1]} steps, {last:.0f} s", fill="black")
    draw.text((2, MARGIN), f"{10**high:.3g}", fill="black")
    draw.text((2, HEIGHT - MARGIN - 10), f"{10**low:.3g}", fill="black")
    return canvas


def main() -> None:
    """One small PNG for each curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    for path in given.curves:
        picture = draw_curve(path.stem, json.loads(path.read_text()))
        picture.quantize(16).save(given.out / f"mini_{path.stem}.png", optimize=True)


if __name__ == "__main__":
    main()
