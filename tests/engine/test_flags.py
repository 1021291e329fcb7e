"""The flags of a request arrive where they belong."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from stt2v.engine.flags import takes_request
from stt2v.engine.request import Request


def spelled(*words: str) -> tuple[Request, int]:
    """What a command gets that takes a request and a flag of its own."""
    seen: list[tuple[Request, int]] = []
    app = typer.Typer()

    @app.command()
    @takes_request
    def probe(request: Request, own: int = 1) -> None:
        seen.append((request, own))

    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def test_no_flags_leave_everything_to_the_model() -> None:
    assert spelled() == (Request(), 1)


def test_every_flag() -> None:
    words = (
        "--prompt=a boat --image=b.jpg --num-frames=9 --seed=7 --fps=12.5 --steps=3 --guidance=1.5:3 --fit=pad"
        " --negative-prompt=fog --no-enhance --window=16 --overlap=4 --no-randomized-blending --no-interpolate"
        " --first-chunk=svd --own=2"
    )
    request = Request(
        prompt="a boat",
        image=Path("b.jpg"),
        num_frames=9,
        seed=7,
        fps=12.5,
        steps=3,
        guidance=(1.5, 3.0),
        fit="pad",
        negative_prompt="fog",
        enhancer="none",
        window=16,
        overlap=4,
        blending=False,
        interpolate=False,
        first_chunk="svd",
    )
    assert spelled(*(f"--{word}" for word in f" {words}".rstrip().split(" --")[1:])) == (request, 2)


def test_other_spellings() -> None:
    assert spelled("--chunk-size=16", "--overlap-size=4") == (Request(window=16, overlap=4), 1)
    assert spelled("--enhancer=vid2vid") == (Request(enhancer="vid2vid"), 1)
    assert spelled("--guidance=2")[0].guidance == (2.0, 2.0)
