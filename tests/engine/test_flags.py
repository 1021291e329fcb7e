"""The flags of a request arrive where they belong."""

import shlex
from pathlib import Path
from typing import Any

import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stt2v.engine.flags import Order, takes_request
from stt2v.engine.models import DEFAULT_MODEL
from stt2v.engine.record import command_line
from stt2v.engine.request import Request


def spelled(*words: str) -> tuple[Order, int]:
    """What a command gets that takes an order and a flag of its own."""
    seen: list[tuple[Order, int]] = []
    app = typer.Typer()

    @app.command()
    @takes_request
    def probe(order: Order, own: int = 1) -> None:
        seen.append((order, own))

    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def requests() -> st.SearchStrategy[Request]:
    """Requests that flags can spell; a path is absolute, as it is in a record."""
    texts = st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"))
    paths = st.none() | st.text("ab -=ü", min_size=1).map(lambda name: Path("/", name))
    numbers = st.none() | st.floats(allow_nan=False, width=32)
    pairs = st.none() | st.tuples(st.floats(-9, 9), st.floats(-9, 9))
    return st.builds(
        Request,
        prompt=texts,
        image=paths,
        seed=st.none() | st.integers(),
        fps=numbers,
        guidance=pairs,
        fit=st.sampled_from(["crop", "pad"]),
        negative_prompt=texts,
        enhancer=st.none() | st.sampled_from(["none", "vid2vid"]),
        window=st.none() | st.integers(),
        blending=st.booleans(),
        interpolate=st.sampled_from([None, False]),
    )


def ordered(**asked: Any) -> Order:
    return Order(DEFAULT_MODEL, Request(**asked))


def test_no_flags_leave_everything_to_the_model() -> None:
    assert spelled() == (ordered(), 1)


def test_every_flag() -> None:
    words = (
        "--prompt=a boat --image=b.jpg --num-frames=9 --seed=7 --fps=12.5 --steps=3 --guidance=1.5:3 --fit=pad"
        " --negative-prompt=fog --no-enhance --window=16 --overlap=4 --no-randomized-blending --no-interpolate"
        " --first-chunk=svd --own=2"
    )
    order = ordered(
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
    assert spelled(*(f"--{word}" for word in f" {words}".rstrip().split(" --")[1:])) == (order, 2)


def test_other_spellings() -> None:
    assert spelled("--chunk-size=16", "--overlap-size=4") == (ordered(window=16, overlap=4), 1)
    assert spelled("--enhancer=vid2vid") == (ordered(enhancer="vid2vid"), 1)
    assert spelled("--model=streaming-t2v")[0].model == "streaming-t2v"
    assert spelled("--guidance=2")[0].request.guidance == (2.0, 2.0)


@given(requests())
def test_the_command_in_a_record_makes_the_same_request(request_: Request) -> None:
    _, command, *words = shlex.split(command_line("tiny", request_))
    assert command == "generate"
    assert spelled(*words)[0] == Order("tiny", request_)
