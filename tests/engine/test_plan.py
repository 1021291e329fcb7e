"""Frame arithmetic."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from stt2v.engine.errors import PlanError, UsageError
from stt2v.engine.models import MODELS, find_model
from stt2v.engine.plan import base_frames, end_after, plan_chunks, plan_run, prompt_of
from stt2v.engine.request import Request
from stt2v.engine.schedules import SCHEDULES

SVD = MODELS["streaming-svd"]


@given(st.integers(1, 3000), st.integers(2, 60), st.data())
def test_chunks_cover_every_frame_once(num_frames: int, chunk: int, data: st.DataObject) -> None:
    conditional = data.draw(st.integers(1, chunk - 1))
    chunks = plan_chunks(num_frames, chunk, conditional)
    assert chunks[0].stop == chunk
    assert all(b.start == a.stop and b.stop - b.start == chunk - conditional for a, b in pairwise(chunks))
    assert chunks[-1].stop >= num_frames
    assert len(chunks) == 1 or chunks[-1].start < num_frames


@pytest.mark.parametrize(("frames", "extra"), [(1, 0), (25, 0), (26, 1), (43, 1), (44, 2), (100, 5), (600, 32)])
def test_number_of_streaming_chunks(frames: int, extra: int) -> None:
    assert len(plan_chunks(frames, 25, 7)) == 1 + extra


@pytest.mark.parametrize(("frames", "chunk", "conditional"), [(0, 25, 7), (-3, 25, 7), (10, 25, 25), (10, 25, 0)])
def test_impossible_plans_are_refused(frames: int, chunk: int, conditional: int) -> None:
    with pytest.raises(PlanError):
        plan_chunks(frames, chunk, conditional)


def test_interpolation_halves_the_base_video() -> None:
    assert [base_frames(n, True) for n in (1, 2, 3, 200, 201)] == [1, 1, 2, 100, 101]
    assert base_frames(37, False) == 37


def test_default_run_of_streaming_svd() -> None:
    plan = plan_run(SVD, Request(image=Path("photo.jpg")).resolve(SVD))
    assert (plan.num_frames, plan.base_frames, len(plan.chunks), plan.generated_frames) == (200, 100, 6, 115)
    assert plan.steps == 25 + 5 * 30
    assert (plan.width, plan.height, plan.windows) == (1280, 720, (0, 26, 52, 62))
    assert any("1280x720" in line for line in plan.lines())
    assert plan.to_json()["generated_frames"] == 115


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 0},
        {"num_frames": -1},
        {"seed": -1},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"steps": 0},
        {"guidance": (1.0, float("inf"))},
        {"fit": "stretch"},
        {"image": None},
        {"first_chunk": "svd"},
        {"window": 8, "overlap": 8},
        {"overlap": -1},
        {"window": 12},
        {"num_frames": 10**12},
        {"fps": 0.0001},
        {"steps": 1001},
        {"window": 10**9},
        {"enhancer": "none", "window": 8},
        {"enhancer": "none", "overlap": 99},
        {"blending": False, "overlap": 5},
    ],
)
def test_values_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        replace(Request(image=Path("photo.jpg")), **change).resolve(SVD)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [1, 999, 1000])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_steps_that_a_schedule_does_not_have_are_refused_before_work(name: str, steps: int) -> None:
    model = MODELS[name]
    begin = {"prompt": "a cat"} if "prompt" in model.inputs else {"image": Path("photo.jpg")}
    request = Request(**begin, steps=steps)
    if (name, steps) == ("streaming-t2v", 1000):
        with pytest.raises(UsageError, match="steps is 1000, the first would be at timestep 1000"):
            request.resolve(model)
    else:
        how = request.resolve(model).streaming
        assert np.isfinite(SCHEDULES[how.schedule](steps).table).all()


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="streaming-svd"):
        find_model("sora")


def test_declaration_survives_the_manifest() -> None:
    for model in MODELS.values():
        assert type(model).from_json(json.loads(json.dumps(model.to_json()))) == model


def test_run_without_enhancer_has_the_base_size() -> None:
    plan = plan_run(SVD, Request(image=Path("photo.jpg"), enhancer="none").resolve(SVD))
    assert (plan.width, plan.height, plan.windows, plan.clip_frames) == (1024, 576, (), 100)


def test_short_clip_is_generated_to_a_window() -> None:
    plan = plan_run(SVD, Request(image=Path("photo.jpg"), num_frames=40).resolve(SVD))
    assert (plan.base_frames, plan.clip_frames, len(plan.chunks), plan.windows) == (20, 38, 2, (0,))


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("num_frames", [1, 16, 25, 26, 37, 76, 77, 100, 101, 200, 600, 1200, 2500])
def test_every_length_is_covered(num_frames: int, interpolate: bool) -> None:
    request = Request(image=Path("photo.jpg"), num_frames=num_frames, interpolate=interpolate)
    plan = plan_run(SVD, request.resolve(SVD))
    assert plan.base_frames == (-(-num_frames // 2) if interpolate else num_frames)
    assert plan.generated_frames >= plan.clip_frames >= plan.base_frames
    covered = {frame for start in plan.windows for frame in range(start, start + 38)}
    assert covered == set(range(plan.clip_frames))


def test_without_blending_windows_do_not_overlap() -> None:
    request = Request(image=Path("photo.jpg"), num_frames=152, blending=False)
    assert plan_run(SVD, request.resolve(SVD)).windows == (0, 38)


def test_a_video_that_ends_early_is_told_what_it_was_told() -> None:
    model = MODELS["streaming-t2v"]
    settings = Request(prompt="a cat; 0: it walks; 64: it sleeps", enhancer="none").resolve(model)
    plan = plan_run(model, settings)
    early = end_after(model, settings, plan, 3)
    assert (early.num_frames, early.chunks) == (32, plan.chunks[:3])
    assert early.chunk_prompts == plan.chunk_prompts[:3]
    assert end_after(model, settings, plan, len(plan.chunks)) == plan


@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["", "s"])), max_size=4),
    st.sampled_from(["a cat; ", ""]),
    st.booleans(),
    st.sampled_from([2.0, 8.0]),
    st.integers(1, 30),
)
def test_a_video_that_ended_early_can_be_made_again(
    starts: list[tuple[int, str]], base: str, interpolate: bool, fps: float, chunks: int
) -> None:
    model = MODELS["streaming-t2v"]
    prompt = base + "; ".join(f"{number}{unit}: text {index}" for index, (number, unit) in enumerate(starts))
    request = Request(prompt=prompt, num_frames=200, fps=fps, enhancer="none", interpolate=interpolate)
    try:
        plan = plan_run(model, request.resolve(model))
    except UsageError:
        reject()
    early = end_after(model, request.resolve(model), plan, min(chunks, len(plan.chunks)))
    again = replace(request, num_frames=early.num_frames, prompt=prompt_of(early, prompt))
    assert plan_run(model, again.resolve(model)) == early


def test_an_early_end_fills_the_window_of_the_enhancer() -> None:
    settings = Request(image=Path("photo.jpg")).resolve(SVD)
    early = end_after(SVD, settings, plan_run(SVD, settings), 1)
    assert (early.num_frames, early.base_frames, early.clip_frames, len(early.chunks)) == (50, 25, 38, 2)


def test_disk_grows_with_the_number_of_frames() -> None:
    short, long = (
        plan_run(SVD, Request(image=Path("photo.jpg"), num_frames=count).resolve(SVD)) for count in (600, 1200)
    )
    assert 1.8 < long.run_bytes / short.run_bytes < 2
    picture = 1024 * 576 * 3
    assert long.run_bytes > long.generated_frames * picture
    assert any(line.startswith("disk: about ") for line in long.lines())
