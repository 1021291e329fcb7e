"""Which engines a run calls, stage by stage and in which order; pure arithmetic like the plan it follows."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from stt2v.engine.blend import window_starts
from stt2v.engine.models.i2vgen_xl import EnhancerSettings, key_lengths, plan_passes
from stt2v.engine.models.mini import run_steps
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.plan import RunPlan
from stt2v.engine.request import Settings
from stt2v.engine.stages.decode import decode_groups
from stt2v.engine.stages.denoise import by_halves


class Called(NamedTuple):
    """A call of an engine, one of `together` of this engine that do not depend on each other."""

    engine: str
    together: int = 1


Calls = Counter[Called]
Order = Iterator[Called]
"""The engines as they are called, one after the other."""
Steps = Callable[..., Order]
"""`steps` on the engines of a run."""


def run_calls(
    model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str], gpus: int = 1
) -> dict[str, Calls]:
    """Stage -> engine -> calls, the stages in their order, for a set that has `graphs` in so many processes.

    Pairs of the interpolator are counted one by one, as if its engine took one at a time.
    """
    return {stage: Counter(order) for stage, order in run_order(model, settings, plan, graphs, gpus).items()}


def run_order(
    model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str], gpus: int = 1
) -> dict[str, Order]:
    """Stage -> the engines as they are called. Frames are interpolated as soon as the enhancer makes them."""
    own = partial(steps, graphs, gpus)
    stages = {"generate": _generate(model, settings, plan, own)}
    if plan.enhancing:
        stages["enhance"] = _ENHANCERS[plan.enhancing.name](plan.enhancing, plan, own)
    if plan.interpolate:
        stages["interpolate"] = _each(f"interpolate_{plan.width}x{plan.height}", max(0, plan.base_frames - 1))
    return stages


def steps(graphs: Collection[str], gpus: int, name: str, count: int, together: int = 1) -> Order:
    """`count` denoising steps, fused or by halves as `guided_step` has it; `together` at a time are independent.

    Where there are no graphs yet, all are counted on.
    """
    prefix = name.removesuffix("step")
    half = f"{prefix}half"
    if by_halves(name, graphs or (name, half), gpus):
        update = f"{prefix}update" if f"{prefix}update" in graphs else "update"
        yield from [*[Called(half, 2 * together)] * 2, Called(update)] * count
    else:
        yield from [Called(name, together)] * count


def shared(order: Iterable[Called]) -> Order:
    """Those of the calls that processes beside the first one do, too."""
    return (call for call in order if call.together > 1)


def _alone(*names: str) -> Order:
    """Calls of which each needs what the one before gives, or that are made one at a time."""
    return map(Called, names)


def _each(name: str, count: int) -> Order:
    """Calls of one engine that do not depend on each other."""
    return iter([Called(name, count)] * count)


def _generate(model: Model, settings: Settings, plan: RunPlan, steps: Steps) -> Order:
    conditions, has_text = _CONDITIONS[model.family]
    if has_text:
        yield from _alone(*["text_encoder"] * (len({*plan.chunk_prompts}) or 1))
    groups = Counter(decode_groups(model.chunk, model.decode_group))
    for index in range(int(settings.first_chunk is not None), len(plan.chunks)):
        yield from _alone(*conditions(index))
        first = "step" if model.one_network else "first_step"
        how = settings.streaming if index else model.first
        yield from steps("step" if index else first, how.steps)
        for size, count in groups.items():
            yield from _each(f"vae_decode_{size}", count)


def _streaming_svd(chunk: int) -> Iterator[str]:
    if chunk < 2:  # the anchor is the same from the second chunk on
        yield "image_encoder"
    yield "conditions" if chunk else "first_conditions"
    yield "vae_encode"


def _streaming_t2v(chunk: int) -> Iterator[str]:
    if chunk == 1:
        yield "anchor"
    yield "conditions" if chunk else "first_conditions"


def _mini(chunk: int) -> Iterator[str]:
    if chunk < 2:
        yield "anchor"
    yield "conditions"
    if chunk:
        yield "vae_encode"


def _mini_enhancer(how: Enhancing, plan: RunPlan, steps: Steps) -> Order:
    frames = plan.clip_frames
    windows, groups = (len(window_starts(frames, how.window, overlap)) for overlap in (how.overlap, 0))
    yield from _alone("enhance_text_encoder", "enhance_conditions")
    yield from _each("enhance_vae_encode", frames)
    yield from steps(f"enhance_{how.window}_step", windows * run_steps(how.steps), windows)
    yield from _each("enhance_vae_decode", groups)


def _i2vgen_xl(how: Enhancing, plan: RunPlan, steps: Steps) -> Order:
    settings = EnhancerSettings(how.window, how.overlap, key_lengths(how.window), how.steps)
    yield from _alone("enhance_text_encoder")
    for number, part in enumerate(plan_passes(plan.clip_frames, settings)):
        windows, step = len(part.starts), f"enhance_{part.window}_step"
        yield from _each("enhance_vae_encode", len(part.frames))
        for _ in range(windows):
            if number:  # a window begins with what the pass before made of its first frame
                yield from _alone("enhance_vae_decode")
            yield from _alone("enhance_image_encoder", "enhance_vae_encode", f"enhance_{part.window}_conditions")
            yield from steps(step, 1, windows)
        yield from steps(step, windows * (settings.run_steps - 1), windows)
    yield from _each("enhance_vae_decode", plan.base_frames)


def _vid2vid(how: Enhancing, plan: RunPlan, steps: Steps) -> Order:
    frames = plan.clip_frames
    windows = len(window_starts(frames, how.window, how.overlap))
    yield from _alone("enhance_text_encoder", "enhance_conditions")
    yield from _each("enhance_vae_encode", frames)
    yield from steps(f"enhance_{how.window}_step", windows * how.steps, windows)
    yield from _each("enhance_vae_decode", plan.base_frames)


_CONDITIONS: Mapping[str, tuple[Callable[[int], Iterator[str]], bool]] = MappingProxyType(
    {"mini": (_mini, True), "streaming-svd": (_streaming_svd, False), "streaming-t2v": (_streaming_t2v, True)}
)
"""Family -> the engines of a chunk's conditions, and whether texts are encoded before all chunks."""
_ENHANCERS: Mapping[str, Callable[[Enhancing, RunPlan, Steps], Order]] = MappingProxyType(
    {"i2vgen-xl": _i2vgen_xl, "mini-enhancer": _mini_enhancer, "vid2vid": _vid2vid}
)
