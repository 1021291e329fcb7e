"""How often a run calls each engine, stage by stage; pure arithmetic like the plan it follows."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from stt2v.engine.blend import window_starts
from stt2v.engine.models.i2vgen_xl import EnhancerSettings, key_lengths, plan_passes
from stt2v.engine.models.mini import run_steps
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.plan import RunPlan
from stt2v.engine.request import Settings
from stt2v.engine.stages.decode import decode_groups

Calls = Counter[str]


def run_calls(model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str]) -> dict[str, Calls]:
    """Stage -> engine -> calls, the stages in their order, for a set that has `graphs`.

    Pairs of the interpolator are counted one by one, as if its engine took one at a time.
    """
    stages = {"generate": _generate(model, settings, plan, graphs)}
    if plan.enhancing:
        stages["enhance"] = _ENHANCERS[plan.enhancing.name](plan.enhancing, plan, graphs)
    if plan.interpolate:
        stages["interpolate"] = Counter({f"interpolate_{plan.width}x{plan.height}": max(0, plan.base_frames - 1)})
    return stages


def steps(name: str, count: int, graphs: Collection[str]) -> Calls:
    """`count` denoising steps, fused where there is such an engine, else by halves (see `guided_step`)."""
    if name in graphs or not graphs:
        return Counter({name: count})
    prefix = name.removesuffix("step")
    update = f"{prefix}update" if f"{prefix}update" in graphs else "update"
    return Counter({f"{prefix}half": 2 * count, update: count})


def _generate(model: Model, settings: Settings, plan: RunPlan, graphs: Collection[str]) -> Calls:
    later, own_first = len(plan.chunks) - 1, settings.first_chunk is None
    calls = steps("step", later * settings.streaming.steps, graphs)
    if own_first:
        calls += steps("step" if model.one_network else "first_step", model.first.steps, graphs)
    for size in decode_groups(model.chunk, model.decode_group):
        calls[f"vae_decode_{size}"] += later + own_first
    return +(calls + _CONDITIONS[model.family](plan, own_first, later))


def _streaming_svd(plan: RunPlan, own_first: bool, later: int) -> Calls:
    return Counter(
        image_encoder=own_first + bool(later),
        vae_encode=own_first + later,
        first_conditions=int(own_first),
        conditions=later,
    )


def _streaming_t2v(plan: RunPlan, own_first: bool, later: int) -> Calls:
    texts = len({*plan.chunk_prompts})
    return Counter(text_encoder=texts, anchor=int(bool(later)), first_conditions=int(own_first), conditions=later)


def _mini(plan: RunPlan, own_first: bool, later: int) -> Calls:
    chunks = own_first + later
    texts = len({*plan.chunk_prompts}) or 1
    return Counter(text_encoder=texts, anchor=own_first + bool(later), conditions=chunks, vae_encode=later)


def _mini_enhancer(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Calls:
    frames = plan.clip_frames
    windows, groups = (len(window_starts(frames, how.window, overlap)) for overlap in (how.overlap, 0))
    others = Counter(enhance_text_encoder=1, enhance_conditions=1, enhance_vae_encode=frames, enhance_vae_decode=groups)
    return others + steps(f"enhance_{how.window}_step", windows * run_steps(how.steps), graphs)


def _i2vgen_xl(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Calls:
    settings = EnhancerSettings(how.window, how.overlap, key_lengths(how.window), how.steps)
    calls = Counter(enhance_text_encoder=1)
    *_, last = passes = plan_passes(plan.clip_frames, settings)
    for part in passes:
        windows = len(part.starts)
        calls += steps(f"enhance_{part.window}_step", windows * settings.run_steps, graphs)
        calls += Counter(
            {
                "enhance_image_encoder": windows,
                "enhance_vae_encode": windows + len(part.frames),
                f"enhance_{part.window}_conditions": windows,
                "enhance_vae_decode": plan.base_frames if part is last else part.kept,
            }
        )
    return calls


def _vid2vid(how: Enhancing, plan: RunPlan, graphs: Collection[str]) -> Calls:
    frames = plan.clip_frames
    windows = len(window_starts(frames, how.window, how.overlap))
    others = Counter(
        enhance_text_encoder=1, enhance_conditions=1, enhance_vae_encode=frames, enhance_vae_decode=plan.base_frames
    )
    return others + steps(f"enhance_{how.window}_step", windows * how.steps, graphs)


_CONDITIONS: Mapping[str, Callable[[RunPlan, bool, int], Calls]] = MappingProxyType(
    {"mini": _mini, "streaming-svd": _streaming_svd, "streaming-t2v": _streaming_t2v}
)
_ENHANCERS: Mapping[str, Callable[[Enhancing, RunPlan, Collection[str]], Calls]] = MappingProxyType(
    {"i2vgen-xl": _i2vgen_xl, "mini-enhancer": _mini_enhancer, "vid2vid": _vid2vid}
)
