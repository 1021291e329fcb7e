"""First chunks made outside the engines: crops and margins, and the process, with a made-up diffusers in it."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stt2v.engine.errors import BackendError, OutOfMemoryError, UsageError
from stt2v.engine.first_chunk import first_chunk_frames, still
from stt2v.engine.media.first_chunk import central_square, nearest, squeezed, with_margins, without_margins
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.session import Session

TORCH = """
float16, float32 = "float16", "float32"

class OutOfMemoryError(RuntimeError):
    pass

class cuda:
    is_available = staticmethod(lambda: False)

class Generator:
    def manual_seed(self, seed):
        self.seed = seed
        return self
"""

DIFFUSERS = """
import json, os, pathlib, types
import numpy, torch
from PIL import Image

def record(**call):
    with open(os.environ["RECORD"], "a") as file:
        file.write(json.dumps(call, default=lambda value: getattr(value, "seed", str(value))) + "\\n")

class Loaded:
    vae = types.SimpleNamespace(enable_slicing=lambda: None)

    @classmethod
    def from_pretrained(cls, name, **options):
        if os.environ.get("FAIL") == "weights":
            raise OSError("no connection\\nand a second line")
        record(loads=cls.__name__, name=name, options=options)
        return cls()

class MotionAdapter(Loaded): ...
class DDIMScheduler(Loaded): ...

def ramp(side, blue):  # red and green say where a pixel is, blue which frame
    levels = numpy.arange(side) * 256 // side
    red, green = numpy.meshgrid(levels, levels)
    return Image.fromarray(numpy.stack([red, green, 0 * red + blue], -1).astype("u1"))

class Pipeline(Loaded):
    def __call__(self, given, **options):
        if os.environ.get("FAIL") == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if os.environ.get("FAIL") == "killed":
            os.kill(os.getpid(), 9)
        if os.environ.get("FAIL") == "exit":
            raise SystemExit("gave up")
        record(calls=type(self).__name__, options=options)
        pathlib.Path(os.environ["RECORD"] + ".group").write_text(str(os.getpgrp()))
        return self.make(given, options["generator"].seed)

class AnimateDiffPipeline(Pipeline):
    def make(self, prompt, seed):
        return types.SimpleNamespace(frames=[[ramp(512, frame + seed) for frame in range(16)]])

class StableVideoDiffusionPipeline(Pipeline):
    def make(self, image, seed):
        return types.SimpleNamespace(frames=[[image.rotate(180) if frame else image for frame in range(25)]])

class StableDiffusionXLPipeline(Pipeline):
    def make(self, prompt, seed):
        return types.SimpleNamespace(images=[ramp(1024, seed)])
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts made-up libraries in place, here and for the process; returns the file in which they note their calls."""
    library = tmp_path / "library"
    for name, code in (("torch", TORCH), ("diffusers", DIFFUSERS), ("transformers", ""), ("accelerate", "")):
        (library / name).mkdir(parents=True)
        (library / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(library)
    monkeypatch.setenv("PYTHONPATH", str(library))
    monkeypatch.setenv("RECORD", str(tmp_path / "calls"))
    return tmp_path / "calls"


def calls(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 0 * down], axis=-1).astype(np.uint8))


def test_ctrl_c_does_not_reach_the_process(record: Path) -> None:
    still("a field", 3)
    assert int(record.with_name("calls.group").read_text()) != os.getpgrp()


def test_animatediff(record: Path) -> None:
    frames = first_chunk_frames("animatediff", "a cat", None, 33)
    assert (frames.shape, frames.dtype) == ((16, 256, 256, 3), np.uint8)
    assert frames[3, 5, 7].tolist() == [7, 5, 36]
    scheduler, _, pipeline, call = calls(record)
    assert scheduler["options"] == {
        "subfolder": "scheduler",
        "clip_sample": False,
        "timestep_spacing": "linspace",
        "beta_schedule": "linear",
        "steps_offset": 1,
    }
    assert pipeline["name"] == "SG161222/Realistic_Vision_V5.1_noVAE"
    assert call["options"] == {
        "negative_prompt": "bad quality, worse quality",
        "num_frames": 16,
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "generator": 33,
    }


def test_svd_from_a_picture(record: Path, tmp_path: Path) -> None:
    gradient(800, 400).save(tmp_path / "wide.png")
    frames = first_chunk_frames("svd", "a cat", tmp_path / "wide.png", 7, count=4, size=(64, 32))
    square = central_square(gradient(800, 400))
    assert np.array_equal(frames[:1], nearest(square[None], (64, 32)))
    assert np.array_equal(frames[3:], nearest(square[None, ::-1, ::-1], (64, 32)))
    assert [call["calls"] for call in calls(record) if "calls" in call] == ["StableVideoDiffusionPipeline"]


def test_svd_from_a_prompt(record: Path) -> None:
    frames = first_chunk_frames("svd", "a cat", None, 9)
    assert frames.shape == (16, 256, 256, 3)
    assert np.array_equal(frames[0], nearest(squeezed(still("a cat", 9))[None], (256, 256))[0])
    assert calls(record)[1]["options"] == {"generator": 9}


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        ("weights", BackendError, "weights of animatediff cannot be loaded .no connection.;"),
        ("memory", OutOfMemoryError, "CUDA out of memory"),
        ("killed", OutOfMemoryError, "killed"),
        ("exit", BackendError, "gave up"),
    ],
)
def test_failures_are_one_line(
    record: Path, monkeypatch: pytest.MonkeyPatch, failure: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setenv("FAIL", failure)
    with pytest.raises(error, match=said) as caught:
        first_chunk_frames("animatediff", "a cat", None, 33)
    assert "\n" not in str(caught.value)


def test_missing_extra(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(BackendError, match=r"accelerate.*stt2v\[t2i\]"):
        still("a cat", 33)
    assert not record.exists()


@pytest.mark.parametrize(("width", "left"), [(576, 0), (577, 0), (579, 2), (1000, 212)])
def test_square_is_cut_from_the_middle_as_the_reference_rounds(width: int, left: int) -> None:
    picture = gradient(width, 576)
    assert np.array_equal(central_square(picture), np.asarray(picture)[:, left : left + 576])


def test_square_is_bicubic_at_576_rows() -> None:
    picture = gradient(333, 200)  # 959 columns at 576 rows: 383 too many
    scaled = picture.resize((int(333 * (576 / 200)), 576), Image.Resampling.BICUBIC)
    assert np.array_equal(central_square(picture), np.asarray(scaled.crop((191.5, 0, 767.5, 576))))


def test_square_of_a_high_picture_has_no_bars() -> None:
    square = central_square(Image.new("RGB", (300, 801), "white"))
    assert square.shape == (576, 576, 3)
    assert square.min() == 255


def test_margins() -> None:
    square = np.asarray(gradient(576, 576))
    board = with_margins(square)
    assert board.shape == (576, 1024, 3)
    assert not board[:, :224].any()
    assert not board[:, -224:].any()
    assert np.array_equal(without_margins(board[None]), square[None])


@pytest.mark.parametrize(("side", "size"), [(576, (256, 256)), (512, (256, 256)), (576, (60, 44))])
def test_nearest_is_that_of_torch(side: int, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    frames = np.random.default_rng(0).integers(0, 255, (2, side, side, 3), np.uint8)
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(planes, size=size[::-1]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(nearest(frames, size), expected)


@pytest.mark.parametrize(("kind", "planned"), [(None, None), ("modelscope", None), ("animatediff", "animatediff")])
def test_the_plan_knows_who_makes_the_first_chunk(kind: str | None, planned: str | None) -> None:
    plan = plan_run(STREAMING_T2V, Request(prompt="a cat", first_chunk=kind).resolve(STREAMING_T2V))
    assert plan.first_chunk == planned
    assert plan.steps == (len(plan.chunks) - (planned is not None)) * 50
    assert any("first chunk by" in line for line in plan.lines()) == (planned is not None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first_chunk": "zeroscope"}, "modelscope, animatediff, svd"),
        ({"image": Path("a.png")}, "--first-chunk svd"),
        ({"image": Path("a.png"), "first_chunk": "animatediff"}, "--first-chunk svd"),
    ],
)
def test_first_chunks_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Request(prompt="a cat", **change).resolve(STREAMING_T2V)


def test_an_image_is_for_svd() -> None:
    request = Request(prompt="a cat", image=Path("a.png"), first_chunk="svd")
    assert request.resolve(STREAMING_T2V).first_chunk == "svd"


def test_a_prompt_alone_starts_from_its_still(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("stt2v.engine.session.still", lambda prompt, seed: gradient(100 + seed, len(prompt) * 20))
    request = Request(num_frames=1, seed=3, steps=1, enhancer="none", interpolate=False)
    with Session.open("tiny") as tiny:
        session = Session(replace(tiny.model, inputs=("image", "prompt")), tiny.engines, tiny.tokenizers)
        given, made = (
            next(session.generate(replace(request, **start))).frames
            for start in ({"image": gradient(103, 100)}, {"prompt": "a cat"})
        )
    assert np.array_equal(given, made)
