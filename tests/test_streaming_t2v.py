"""StreamingT2V at toy width from a prompt to a video, through every stage, on the modules themselves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stt2v.engine.backends.base import Engine, Frames
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.models.conditions import Start, open_conditions
from stt2v.engine.models.model import Denoising, Enhancing
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.noise import Noise
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.videos import generate_video
from stt2v.export.build import build_engine_set
from stt2v.export.eager import EagerEngine
from stt2v.export.families import vid2vid
from stt2v.export.families.streaming_t2v import PUBLISHED, TOY, Config, graphs, random_networks
from stt2v.export.graph import GraphMaker
from stt2v.export.recipes import recipe_for

MODEL = replace(
    STREAMING_T2V,
    name="toy",
    width=32,
    height=32,
    chunk=4,
    conditional=2,
    first=Denoising("modelscope", 3, (9.0, 9.0)),
    streaming=Denoising("modelscope-ancestral", 2, (7.5, 7.5)),
    decode_group=4,
    num_frames=8,
    enhancing=Enhancing("vid2vid", 80, 48, window=4, overlap=2, steps=2),
    toy=True,
)
PROMPT = "a red fox"


class Eager(Mapping[str, Engine]):
    """The engines of graphs, made when first asked for."""

    def __init__(self, makers: Mapping[str, GraphMaker], without: tuple[str, ...] = ()) -> None:
        self._makers = {name: maker for name, maker in makers.items() if name not in without}
        self._made: dict[str, Engine] = {}

    def __getitem__(self, name: str) -> Engine:
        if name not in self._made:
            self._made[name] = EagerEngine(self._makers[name]())
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


Opener = Callable[..., Session]


@pytest.fixture(autouse=True, scope="module")
def single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def makers() -> Mapping[str, GraphMaker]:
    return recipe_for(MODEL, None).graphs


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, text in recipe_for(MODEL, None).files.items():
        (folder / name).write_text(text)
    return {name: Tokenizer(folder / f"{name}_tokenizer.json") for name in ("text", "enhance")}


@pytest.fixture(scope="module")
def session(makers: Mapping[str, GraphMaker], tokenizers: Mapping[str, Tokenizer]) -> Session:
    return Session(MODEL, Eager(makers), tokenizers)


def make(session: Session, **changes: object) -> Frames:
    request = Request(**{"prompt": PROMPT, "enhancer": "none", **changes})
    return np.concatenate([chunk.frames for chunk in session.generate(request)])


@pytest.fixture(scope="module")
def base(session: Session) -> Frames:
    return make(session)


def test_prompt_to_file(session: Session, tmp_path: Path) -> None:
    """Three chunks, enhanced in windows on a wide canvas and cut out of it, at the rate asked for."""
    request = Request(prompt=PROMPT)
    plan = session.plan(request)
    assert (len(plan.chunks), plan.windows, plan.width, plan.height) == (3, (0, 2, 4), 48, 48)
    path = generate_video(session, request, tmp_path / "out.mp4", Silent()).path
    with av.open(path) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        assert stream.average_rate == 8
    assert (len(frames), frames[0].shape) == (8, (48, 48, 3))
    assert np.std(frames) > 1


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_exactly_as_many_frames_as_asked_for(session: Session, num_frames: int) -> None:
    assert make(session, num_frames=num_frames, enhancer="vid2vid", steps=1).shape == (num_frames, 48, 48, 3)


def test_same_seed_same_video_bit_for_bit(session: Session, base: Frames) -> None:
    assert base.shape == (8, 32, 32, 3)
    np.testing.assert_array_equal(make(session), base)
    enhanced = make(session, enhancer="vid2vid")
    np.testing.assert_array_equal(make(session, enhancer="vid2vid"), enhanced)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 34}, {"steps": 3}, {"guidance": (1.0, 9.0)}, {"negative_prompt": "fog"}, {"prompt": "a blue whale"}],
)
def test_settings_reach_the_streaming_stage(session: Session, base: Frames, changes: dict[str, object]) -> None:
    assert not np.array_equal(make(session, **changes)[4:], base[4:])


@pytest.mark.parametrize("changes", [{"negative_prompt": ""}, {"overlap": 1}, {"blending": False}])
def test_settings_reach_the_enhancer(session: Session, changes: dict[str, object]) -> None:
    assert not np.array_equal(make(session, enhancer="vid2vid", **changes), make(session, enhancer="vid2vid"))


def test_another_anchor_changes_what_follows(session: Session, base: Frames) -> None:
    other = make(Session(replace(MODEL, anchor=1), session.engines, session.tokenizers))
    np.testing.assert_array_equal(other[:4], base[:4])
    assert not np.array_equal(other[4:], base[4:])


def test_switching_apm_off_changes_what_follows(session: Session, base: Frames) -> None:
    networks = random_networks(TOY, seed=0)
    with torch.no_grad():
        for mix in networks.unet.apm:
            mix.alpha.zero_()
        for weight in (w for network in vars(networks).values() for w in network.parameters()):
            weight.copy_(weight.half())  # as the recipe of a toy does
    config = Config(MODEL.chunk, MODEL.conditional, MODEL.height, MODEL.width, MODEL.decode_group)
    other = make(Session(MODEL, Eager(graphs(networks, config)), session.tokenizers))
    np.testing.assert_array_equal(other[:4], base[:4])
    assert not np.array_equal(other[4:], base[4:])


def test_halves_give_what_the_fused_steps_give(makers: Mapping[str, GraphMaker], session: Session) -> None:
    halves = Eager(makers, without=("first_step", "step", "enhance_4_step"))
    fused = make(session, enhancer="vid2vid").astype(int)
    halved = make(Session(MODEL, halves, session.tokenizers), enhancer="vid2vid")
    assert np.abs(halved - fused).max() <= 1  # a rounding error may cost a level


def test_a_prompt_for_each_chunk_changes_only_later_chunks(session: Session, base: Frames) -> None:
    other = make(session, prompt=f"0: {PROMPT}; 6: it sleeps")
    np.testing.assert_array_equal(other[:6], base[:6])
    assert not np.array_equal(other[6:], base[6:])


def test_the_last_text_serves_all_chunks_after_it(session: Session) -> None:
    tokens = [np.full((2, 77), number) for number in (1, 2)]
    conditions = open_conditions(MODEL, session.engines, Start(texts=tokens), Noise(0))
    anchor, control = np.zeros((1, 3, 32, 32), np.float32), np.zeros((2, 3, 32, 32), np.float32)
    one, two = (np.asarray(conditions.streaming(chunk, control, anchor)["context"]) for chunk in (1, 5))
    np.testing.assert_array_equal(one, two)


def test_another_enhancer_than_the_set_has_is_refused_with_the_command_that_builds_it(session: Session) -> None:
    with pytest.raises(EngineSetError, match="build-engines --model toy --enhancer i2vgen-xl"):
        session.generate(Request(prompt=PROMPT, enhancer="i2vgen-xl"))
    bare = Session(replace(MODEL, enhancing=None), session.engines, session.tokenizers)
    assert bare.plan(Request(prompt=PROMPT)).enhancing is None
    with pytest.raises(EngineSetError, match="no enhancer"):
        bare.generate(Request(prompt=PROMPT, enhancer="vid2vid"))
    with pytest.raises(UsageError, match="windows of 4"):
        session.generate(Request(prompt=PROMPT, window=6))


def test_i2vgen_xl_follows_too(tokenizers: Mapping[str, Tokenizer]) -> None:
    """Without a picture to begin with, the clip's first frame is what it is told."""
    model = replace(MODEL, enhancing=Enhancing("i2vgen-xl", 80, 48, window=4, overlap=2, steps=2))
    frames = make(Session(model, Eager(recipe_for(model, None).graphs), tokenizers), num_frames=5, enhancer=None)
    assert frames.shape == (5, 48, 48, 3)
    assert frames.std() > 1


def test_an_image_alone_is_no_prompt() -> None:
    with pytest.raises(UsageError, match="--prompt"):
        Request(image=Path("photo.jpg")).resolve(STREAMING_T2V)


@pytest.mark.slow
def test_compiled_engines_make_the_same_video(session: Session, tmp_path: Path) -> None:
    recipe = recipe_for(MODEL, None)
    build_engine_set(MODEL.to_json(), recipe.graphs, "onnxruntime", "fp32", "cpu", tmp_path / "set", files=recipe.files)
    with EngineSet.open(tmp_path / "set") as built:
        assert built.model == MODEL
        compiled = make(Session(built.model, built, built.tokenizers), enhancer="vid2vid")
    eager = make(session, enhancer="vid2vid").astype(int)
    assert np.abs(compiled - eager).max() <= 1  # a rounding error may cost a level


@pytest.mark.slow
def test_published_networks_have_as_many_parameters_as_their_checkpoints() -> None:
    base, enhancer = (
        {name: sum(p.numel() for p in part.parameters()) for name, part in vars(networks).items()}
        for networks in (random_networks(PUBLISHED, 0), vid2vid.random_networks(vid2vid.PUBLISHED, 0))
    )
    assert base["first_unet"] == enhancer["unet"] == 1_411_233_860
    assert base["vae"] == enhancer["vae"] == 83_653_863
    names = ("unet", "control", "image_tokens", "text_encoder")
    assert [base[name] for name in names] == [1_480_478_804, 621_981_664, 22_299_904, 340_387_840]


def test_a_first_chunk_from_elsewhere_is_gone_on_from(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def grey(*arguments: object) -> Frames:
        asked.append(arguments)
        return np.full((4, 32, 32, 3), 100, np.uint8)

    monkeypatch.setattr("stt2v.engine.pipeline.first_chunk_frames", grey)
    frames = make(session, first_chunk="animatediff", seed=5)
    assert asked == [("animatediff", PROMPT, None, 5, 4, (32, 32))]
    assert np.abs(frames[:4].astype(int) - 100).max() <= 1
    assert frames[4:].std() > 1
