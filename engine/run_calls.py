"""Which engines a run calls, stage by stage and in which order; pure arithmetic like the plan it follows."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType

from stt2v.engine.blend import window_starts
from stt2v.engine.models.i2vgen_xl import EnhancerSettings, key_lengths, plan_passes
from stt2v.engine.models.mini import run_steps
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.plan import RunPlan
from stt2v.engine.request import Settings
from stt2v.engine.stages.decode import decode_groups

Calls = Counter[str]
Order = Iterator[str]
"""The engines as they are called, one after the other."""


def run_calls(model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str]) -> dict[str, Calls]:
    """Stage -> engine -> calls, the stages in their order, for a set that has `graphs`.

    Pairs of the interpolator are counted one by one, as if its engine took one at a time.
    """
    return {stage: Counter(order) for stage, order in run_order(model, settings, plan, graphs).items()}


def run_order(model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str]) -> dict[str, Order]:
    """Stage -> the engines as they are called. Frames are interpolated as soon as the enhancer makes them."""
    stages = {"generate": _generate(model, settings, plan, graphs)}
    if plan.enhancing:
        stages["enhance"] = _ENHANCERS[plan.enhancing.name](plan.enhancing, plan, graphs)
    if plan.interpolate:
        pairs = max(0, plan.base_frames - 1)
        stages["interpolate"] = iter([f"interpolate_{plan.width}x{plan.height}"] * pairs)
    return stages


def steps(name: str, count: int, graphs: Collection[str]) -> Order:
    """`count` denoising steps, fused where there is such an engine, else by halves (see `guided_step`)."""
    if name in graphs or not graphs:
        yield from [name] * count
        return
    prefix = name.removesuffix("step")
    update = f"{prefix}update" if f"{prefix}update" in graphs else "update"
    yield from [f"{prefix}half", f"{prefix}half", update] * count


def _generate(model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str]) -> Order:
    conditions, has_text = _CONDITIONS[model.family]
    if has_text:
        yield from ["text_encoder"] * (len({*plan.chunk_prompts}) or 1)
    for index in range(int(settings.first_chunk is not None), len(plan.chunks)):
        yield from conditions(index)
        first = "step" if model.one_network else "first_step"
        how = settings.streaming if index else model.first
        yield from steps("step" if index else first, how.steps, graphs)
        for size in decode_groups(model.chunk, model.decode_group):
            yield f"vae_decode_{size}"


def _streaming_svd(chunk: int) -> Order:
    if chunk < 2:  # the anchor is the same from the second chunk on
        yield "image_encoder"
    yield "conditions" if chunk else "first_conditions"
    yield "vae_encode"


def _streaming_t2v(chunk: int) -> Order:
    if chunk == 1:
        yield "anchor"
    yield "conditions" if chunk else "first_conditions"


def _mini(chunk: int) -> Order:
    if chunk < 2:
        yield "anchor"
    yield "conditions"
    if chunk:
        yield "vae_encode"


def _mini_enhancer(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Order:
    frames = plan.clip_frames
    windows, groups = (len(window_starts(frames, how.window, overlap)) for overlap in (how.overlap, 0))
    yield from ["enhance_text_encoder", "enhance_conditions", *["enhance_vae_encode"] * frames]
    yield from steps(f"enhance_{how.window}_step", windows * run_steps(how.steps), graphs)
    yield from ["enhance_vae_decode"] * groups


def _i2vgen_xl(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Order:
    settings = EnhancerSettings(how.window, how.overlap, key_lengths(how.window), how.steps)
    yield "enhance_text_encoder"
    for number, part in enumerate(plan_passes(plan.clip_frames, settings)):
        yield from ["enhance_vae_encode"] * len(part.frames)
        step = f"enhance_{part.window}_step"
        for _ in part.starts:
            if number:  # a window begins with what the pass before made of its first frame
                yield "enhance_vae_decode"
            yield from ("enhance_image_encoder", "enhance_vae_encode", f"enhance_{part.window}_conditions")
            yield from steps(step, 1, graphs)
        yield from steps(step, len(part.starts) * (settings.run_steps - 1), graphs)
    yield from ["enhance_vae_decode"] * plan.base_frames


def _vid2vid(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Order:
    frames = plan.clip_frames
    windows = len(window_starts(frames, how.window, how.overlap))
    yield from ["enhance_text_encoder", "enhance_conditions", *["enhance_vae_encode"] * frames]
    yield from steps(f"enhance_{how.window}_step", windows * how.steps, graphs)
    yield from ["enhance_vae_decode"] * plan.base_frames


_CONDITIONS: Mapping[str, tuple[Callable[[int], Order], bool]] = MappingProxyType(
    {"mini": (_mini, True), "streaming-svd": (_streaming_svd, False), "streaming-t2v": (_streaming_t2v, True)}
)
"""Family -> the engines of a chunk's conditions, and whether texts are encoded before all chunks."""
_ENHANCERS: Mapping[str, Callable[[Enhancing, RunPlan, Collection[str]], Order]] = MappingProxyType(
    {"i2vgen-xl": _i2vgen_xl, "mini-enhancer": _mini_enhancer, "vid2vid": _vid2vid}
)
