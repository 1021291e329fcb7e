"""Prompts that change over a video."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stt2v.engine.errors import UsageError
from stt2v.engine.models import MODELS
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.plan import plan_chunks, plan_run
from stt2v.engine.prompts import PromptSchedule, Segment, parse_prompts, per_chunk
from stt2v.engine.request import Request

WORDS = st.text("abc ,.:", min_size=1).map(str.strip).filter(bool)
STARTS = [chunk.start for chunk in plan_chunks(80, 16, 8)]  # 0, 16, 24, ... 72


@given(st.text())
def test_text_without_a_start_is_plain(text: str) -> None:
    assume(not re.search(r"\d+(\.\d+)?s?\s*:", text))
    assert parse_prompts(text) == PromptSchedule(text)


@pytest.mark.parametrize(
    "text",
    [
        "a cat; a dog",
        "cat: the film; part 2: the dog",
        "16:9, a city",
        "a night; 10:30 pm",
        "4k: a cat",
        "12 s",
        "",
        ";",
    ],
)
def test_semicolons_and_colons_alone_are_text(text: str) -> None:
    assert parse_prompts(text) == PromptSchedule(text)


def test_segments_and_base() -> None:
    schedule = parse_prompts("a cat; 0: it walks; slowly ;64: it jumps; 6.5s : it sleeps;")
    assert schedule.base == "a cat"
    assert schedule.segments == (
        Segment(0, "", "it walks; slowly"),
        Segment(64, "", "it jumps"),
        Segment(6.5, "s", "it sleeps"),
    )


@given(WORDS, st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["", "s"]), WORDS), min_size=1))
def test_what_is_written_is_read(base: str, segments: list[tuple[int, str, str]]) -> None:
    text = "; ".join([base, *(f"{number}{unit}: {words}" for number, unit, words in segments)])
    assert parse_prompts(text) == PromptSchedule(base, tuple(Segment(*segment) for segment in segments))


@pytest.mark.parametrize("text", ["0:", "a cat; 0: ; 64: it jumps", "0: walks; 2.5: jumps", "0: walks; -8: jumps"])
def test_segments_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_prompts(text)
    assert "\n" not in str(caught.value)


def test_starts_are_snapped_to_the_nearest_chunk() -> None:
    parts = parse_prompts("a cat; 27: it walks; 5s: it sleeps").parts(STARTS, 8.0, 80)
    assert [(part.text, part.chunk, part.frame) for part in parts] == [
        ("a cat", 0, 0),
        ("a cat, it walks", 2, 24),
        ("a cat, it sleeps", 4, 40),
    ]
    assert per_chunk(parts, 4) == ("a cat", "a cat", "a cat, it walks", "a cat, it walks")


def test_base_that_ends_a_sentence_takes_no_comma() -> None:
    (part,) = parse_prompts("A cat. ; 0: It walks").parts(STARTS, 8.0, 80)
    assert part.text == "A cat. It walks"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0: walks; 80: jumps", "0 to 79"),
        ("0: walks; 10s: jumps", "frame 80"),
        ("0: walks; 40: jumps; 24: sleeps", "order"),
        ("0: walks; 40: jumps; 5s: sleeps", "order"),
        ("0: walks; 23: jumps; 25: sleeps", "the next begins at frame 32"),
        ("0: walks; 74: jumps; 78: sleeps", "no other"),
        ("40: walks", "begin with `0:`"),
    ],
)
def test_times_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_prompts(text).parts(STARTS, 8.0, 80)
    assert "\n" not in str(caught.value)


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=4),
    st.integers(1, 300),
    st.booleans(),
    st.sampled_from(["", "a cat; "]),
)
def test_every_chunk_has_one_prompt_or_the_times_are_refused(
    frames: list[int], num_frames: int, interpolate: bool, base: str
) -> None:
    text = base + "; ".join(f"{frame}: scene {index}" for index, frame in enumerate(frames))
    request = Request(prompt=text, num_frames=num_frames, interpolate=interpolate)
    try:
        plan = plan_run(STREAMING_T2V, request.resolve(STREAMING_T2V))
    except UsageError:
        return
    assert frames == sorted(set(frames))
    assert len(plan.chunk_prompts) == len(plan.chunks)
    assert plan.prompts[0].frame == 0
    assert all(a.chunk < b.chunk and a.frame < b.frame < num_frames for a, b in pairwise(plan.prompts))
    for part in plan.prompts:
        assert part.frame == plan.chunks[part.chunk].start * (2 if interpolate else 1)
        assert plan.chunk_prompts[part.chunk] == part.text


def test_the_plan_shows_the_prompts() -> None:
    request = Request(prompt="a cat; 0: it walks; 64: it jumps; 6s: it sleeps", num_frames=160, fps=24)
    plan = plan_run(STREAMING_T2V, request.resolve(STREAMING_T2V))
    assert "prompt from frame 64 (chunk 7): a cat, it jumps" in plan.lines()
    shown = json.loads(json.dumps(plan.to_json()))["prompts"]
    assert shown[2] == {"text": "a cat, it sleeps", "chunk": 17, "frame": 144, "asked": 144.0}


def test_a_model_of_one_prompt_takes_no_schedule() -> None:
    svd = MODELS["streaming-svd"]
    request = Request(image=Path("photo.jpg"), prompt="0: a cat; 100: a dog")
    with pytest.raises(UsageError, match="one prompt for the whole video"):
        plan_run(svd, request.resolve(svd))
