"""The sprites of the world: emoji kept in one PNG, and plain shapes drawn by formula.

The emoji are Noto Color Emoji of Debian's package fonts-noto-color-emoji (SIL Open Font License 1.1, see
`data/OFL.txt`), rendered once by `draw_emoji` into `data/emoji.png`, one row of squares.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

SPRITE = 64  # pixels of a sprite's side
BITMAP = 109  # the only size in which the font holds its pictures
SUPERSAMPLE = 4
DATA = Path(__file__).parent / "data"

EMOJI = {
    "cat": "🐱",
    "dog": "🐶",
    "panda": "🐼",
    "frog": "🐸",
    "pig": "🐷",
    "fox": "🦊",
    "penguin": "🐧",
    "owl": "🦉",
    "butterfly": "🦋",
    "ladybug": "🐞",
    "fish": "🐠",
    "octopus": "🐙",
    "turtle": "🐢",
    "apple": "🍎",
    "banana": "🍌",
    "strawberry": "🍓",
    "pineapple": "🍍",
    "donut": "🍩",
    "pizza": "🍕",
    "football": "⚽",
    "rocket": "🚀",
    "car": "🚗",
    "sunflower": "🌻",
    "mushroom": "🍄",
    "cactus": "🌵",
    "robot": "🤖",
    "crown": "👑",
    "gift": "🎁",
}

SHAPES = ("circle", "square", "triangle", "star")

COLOURS = {
    "red": (214, 40, 40),
    "yellow": (250, 205, 30),
    "green": (40, 150, 60),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "white": (245, 245, 245),
}

OBJECTS = (*EMOJI, *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))

Pixels = npt.NDArray[np.float32]


def draw_emoji(font: Path, path: Path) -> None:
    """Render all emoji of `font` (NotoColorEmoji.ttf) to `path`, each fitted into a square of `SPRITE` pixels."""
    face = ImageFont.truetype(str(font), BITMAP)
    strip = Image.new("RGBA", (SPRITE * len(EMOJI), SPRITE))
    for index, letter in enumerate(EMOJI.values()):
        canvas = Image.new("RGBA", (2 * BITMAP, 2 * BITMAP))
        ImageDraw.Draw(canvas).text((20, 20), letter, font=face, embedded_color=True)
        strip.paste(_fitted(canvas.crop(canvas.getbbox())), (SPRITE * index, 0))
    strip.quantize(256, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a square, its longer side as long as that of the square less a margin."""
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    small = square.convert("RGBa").resize((SPRITE - 4, SPRITE - 4), Image.Resampling.LANCZOS).convert("RGBA")
    framed = Image.new("RGBA", (SPRITE, SPRITE))
    framed.paste(small, (2, 2))
    return framed


def _outline(shape: str, radius: float) -> list[tuple[float, float]]:
    """Corners of a shape around (0, 0), in sprite radii times `radius`."""
    if shape == "square":
        return [(x * radius * 0.8, y * radius * 0.8) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    if shape == "triangle":
        return [(radius * np.sin(a), radius * (0.15 - np.cos(a))) for a in np.arange(3) * 2 * np.pi / 3]
    if shape == "star":
        reach = radius * np.where(np.arange(10) % 2, 0.42, 1.0)
        return [(r * np.sin(a), -r * np.cos(a)) for r, a in zip(reach, np.arange(10) * np.pi / 5, strict=True)]
    return [(radius * np.sin(a), -radius * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 64, endpoint=False)]


def _draw_shape(name: str) -> Image.Image:
    """A filled shape with a dark rim, so that it stands out from any background."""
    colour, shape = name.split()
    side = SPRITE * SUPERSAMPLE
    canvas = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(canvas)
    for radius, fill in ((0.94, tuple(int(v * 0.45) for v in COLOURS[colour])), (0.78, COLOURS[colour])):
        corners = [(side / 2 * (1 + x), side / 2 * (1 + y)) for x, y in _outline(shape, radius)]
        draw.polygon(corners, fill=(*fill, 255))
    return canvas.convert("RGBa").resize((SPRITE, SPRITE), Image.Resampling.BOX).convert("RGBA")


@cache
def sprites() -> Pixels:
    """All objects in the order of `OBJECTS`: [N, 4, S, S], float32, RGBA in [0, 1], premultiplied."""
    strip = np.asarray(Image.open(DATA / "emoji.png").convert("RGBA"))
    emoji = strip.reshape(SPRITE, len(EMOJI), SPRITE, 4).swapaxes(0, 1)
    shapes = np.stack([np.asarray(_draw_shape(name)) for name in OBJECTS[len(EMOJI) :]])
    pixels = np.concatenate([emoji, shapes]).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    pixels[:, :3] *= pixels[:, 3:]
    return pixels
