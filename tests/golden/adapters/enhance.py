"""The enhancer I2VGen-XL: network, blending loop, preprocessing and the two passes."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from golden.cases import Adapter, Arrays, Case, Limit
from stt2v.engine.backends.base import Array, Engine, Frames, Value, Values
from stt2v.engine.blend import window_starts
from stt2v.engine.ddim import Schedule, alpha_bars, ddim_table, noised
from stt2v.engine.media.image import model_image
from stt2v.engine.media.pictures import centre_crop, clip_picture, clip_pixels, resized, rounded_picture
from stt2v.engine.models.i2vgen_xl import EnhancerPass, EnhancerSettings, plan_passes
from stt2v.engine.stages.denoise import guided_step
from stt2v.engine.stages.enhancer import encode_prompt
from stt2v.engine.stages.i2vgen_xl import I2VGenXL
from stt2v.engine.stages.windows import BlendedClip, LocalWindows, State
from stt2v.export.eager import EagerEngine
from stt2v.export.families.i2vgen_xl import EnhancerGraphs, Networks
from stt2v.export.graph import Graph
from stt2v.export.weights.base import take

GUIDANCE_ONLY = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)  # coefficients with which x0 is the guided prediction


class Recorder(EagerEngine):
    """A graph run as it is, keeping what it returned."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.recorded: list[dict[str, Value]] = []

    def run(self, inputs: Values) -> dict[str, Value]:
        outputs = super().run(inputs)
        self.recorded.append(outputs)
        return outputs


class Recorders(Mapping[str, Recorder]):
    """The engines of an enhancer, made when first asked for."""

    def __init__(self, graphs: EnhancerGraphs) -> None:
        self._makers = graphs.makers()
        self._made: dict[str, Recorder] = {}

    def __getitem__(self, name: str) -> Recorder:
        if name not in self._made:
            self._made[name] = Recorder(self._makers[name]())
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def networks(case: Case) -> Networks:
    parts = ("unet", "vae", "text_encoder", "image_encoder")
    found = {name: _without_notes(case.config[name]) for name in parts if name in case.config}
    return Networks(**found, clip_skip=case.config.get("clip_skip", 1))


def _without_notes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("model_type", "transformers_version")}


def engines(case: Case, size: tuple[int, int], windows: tuple[int, ...] = (), clip_skip: int = 1) -> Recorders:
    weights = case.weights()
    parts = replace(networks(case), clip_skip=clip_skip)
    return Recorders(EnhancerGraphs(parts, lambda name: take(weights, f"{name}."), *size, windows))


def frames_second(x: Tensor | Array) -> Array:
    """[..., F, C, h, w] -> [..., C, F, h, w], which is how the reference stores clips."""
    return np.asarray(x).swapaxes(-4, -3)


def i2vgen_unet(case: Case) -> Mapping[str, Any]:
    sample = frames_second(case.inputs["sample"])
    graphs = EnhancerGraphs(networks(case), lambda _: case.weights(), 0, 0, (1,)).makers()
    conditions, network = graphs["enhance_1_conditions"]().module, graphs["enhance_1_step"]().module.network
    taps: dict[str, Tensor] = {}
    _tap(taps, conditions, {name: name for name in ("context_embedding", "image_latents_proj_in")})
    names = {"image_latents_context": "image_latents_context_embedding", "fps_emb": "fps_embedding"}
    _tap(taps, conditions, {**names, "image_latents_temporal": "image_latents_temporal_encoder"})
    blocks = {f"{way}.{i}": f"{way}_blocks.{i}" for way in ("down", "up") for i in range(len(network.down_blocks))}
    _tap(taps, network, {name: name for name in ("conv_in", "transformer_in", "mid_block")} | blocks)
    _tap(taps, network, {"time_emb": "time_embedding"})
    context, fps_embedding, image_maps = conditions(
        text=case.tensor("encoder_hidden_states"),
        image_embedding=case.tensor("image_embeddings"),
        image_latents=torch.from_numpy(frames_second(case.inputs["image_latents"])),
        fps=case.tensor("fps").float(),
    )
    told = {"context": context, "fps_embedding": fps_embedding, "image_maps": image_maps}
    out = frames_second(network(torch.from_numpy(sample), case.tensor("timestep").float(), **told))
    taps["time_emb"] = taps["time_emb"].expand_as(taps["fps_emb"])
    return {**taps, "out": out, "out_memopt_chunk4": out}


def _tap(taps: dict[str, Tensor], module: nn.Module, names: Mapping[str, str]) -> None:
    """Keep the (first) output of submodules: names maps the name to keep it under to the submodule's path."""

    def keeper(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            taps[name] = output[0] if isinstance(output, tuple) else output

        return keep

    for name, path in names.items():
        module.get_submodule(path).register_forward_hook(keeper(name))


def randomized_blending(case: Case) -> Mapping[str, Any]:
    told, init = case.inputs["image_latents"], case.inputs["init_latents"]
    windows, _, _, window, height, width = told.shape
    graphs = EnhancerGraphs(networks(case), lambda _: case.weights(), width, height, (window,))
    made = Recorders(graphs)
    schedule = Schedule.from_config(case.config["scheduler"])
    steps, strength = case.config["num_inference_steps"], case.config["strength"]
    table = ddim_table(schedule, steps, strength, case.config["eta"])
    starts = window_starts(len(init), window, case.config["overlap_size"])
    assert list(starts) == case.config["chunk_starts"]
    conditions = [_conditions(case, made[f"enhance_{window}_conditions"], index) for index in range(windows)]
    guidance = np.full(window, case.config["guidance_scale"], np.float32)
    runner = LocalWindows(guided_step(made, f"enhance_{window}_step"), table, guidance, conditions)
    start = noised(schedule, int(table[0, 1]), init, case.inputs["noise"])
    clip = BlendedClip(window, starts, case.inputs["offsets"], runner)
    states = [State(start, np.empty_like(start))]
    for step in range(len(clip.offsets)):
        states.append(State(np.empty_like(start), np.empty_like(start)))
        clip.run(step, *states[-2:])
    trajectory = np.stack([frames_second(state.latents) for state in states[1:]])
    result = {"timesteps": table[:, 1].astype(np.int64), "latents_start": frames_second(start)[None]}
    result |= {"trajectory": trajectory[:, :], "final": trajectory[-1][None]}
    for name in case.outputs:
        if match := re.fullmatch(r"trajectory_every_(\d+)\w+", name):
            every = int(match[1])
            result[name] = trajectory[every - 1 :: every]
    return result | _first_step(made, window, [start[s : s + window] for s in starts], runner)


def _conditions(case: Case, engine: Engine, index: int) -> Values:
    return engine.run(
        {
            "text": case.inputs["prompt_embeds"],
            "image_embedding": case.inputs["image_embeddings"][index],
            "image_latents": frames_second(case.inputs["image_latents"][index])[:1],
            "fps": case.inputs["fps"][:1].astype(np.float32),
        }
    )


def _first_step(made: Mapping[str, Recorder], window: int, parts: list[Array], runner: LocalWindows) -> Arrays:
    """What the windows give in the first step, by halves."""
    half, update = made[f"enhance_{window}_half"], made[f"enhance_{window}_update"]
    halved = guided_step({name: made[name] for name in (half.spec.name, update.spec.name)}, f"enhance_{window}_step")
    stepped = list(replace(runner, step=halved).run_windows(0, [(part, part) for part in parts]))
    predictions = np.stack([np.asarray(outputs["prediction"]) for outputs in half.recorded])
    pairs = predictions.reshape(len(parts), 2, *parts[0].shape)
    coefficients = np.array(GUIDANCE_ONLY, np.float32)
    common = {"x": parts[0], "guidance": runner.guidance, "coefficients": coefficients}
    guided = [update.run({**common, "uncond": uncond, "cond": cond})["x0"] for uncond, cond in pairs]
    return {
        "unet_out_first_step": frames_second(pairs),
        "guided_v_first_step": np.stack(guided),
        "chunk_after_step_first": np.stack([x for x, _ in stepped]),
    }


@dataclass(frozen=True)
class Replay:
    """Recorded noise instead of drawn noise: arrays by stage, indexed by chunk; offsets by [step, window]."""

    draws: Mapping[str, npt.NDArray[Any]]

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self.draws[stage][chunk].reshape(shape)

    def uniform(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        raise NotImplementedError

    def integers(self, stage: str, chunk: int, step: int, low: int, high: int) -> int:
        drawn = int(self.draws[stage][step, chunk])
        assert low <= drawn < high
        return drawn


def _joined(case: Case, pattern: str) -> npt.NDArray[Any]:
    return torch.cat(case.stacked(pattern)).numpy()


def two_pass_process(case: Case) -> Mapping[str, Any]:
    config, video = case.config, case.inputs["video"]
    settings, plans, used = _plans(case)
    draws: dict[str, npt.NDArray[Any]] = {}
    for number in range(len(plans)):
        name = f"pass{number + 1}"
        draws[f"enhance_{number}_picture"] = _joined(case, name + ".image_vae_noise.{}")
        draws[f"enhance_{number}_frame"] = _joined(case, name + ".video_vae_noise.{}")
        draws[f"enhance_{number}_start"] = case.inputs[f"{name}.noise"]
        draws[f"enhance_{number}_offset"] = case.inputs[f"{name}.offsets"]
    windows = tuple({plan.window for plan in plans})
    made = engines(case, (config["width"], config["height"]), windows, config["clip_skip"])
    text = encode_prompt(made, case.inputs["prompt_ids"], case.inputs["negative_prompt_ids"])
    enhancer = I2VGenXL(made, text, Replay(draws), settings=settings)
    result: dict[str, Any] = {"prompt_embeds": text, "fps": np.full(2, settings.fps)}
    pictures = [case.inputs["image"]]
    for number, plan in enumerate(plans):
        result |= _one_pass(enhancer, number, plan, video[:used], pictures)
        pictures = list(case.outputs[f"pass{number + 1}.frames"])  # teacher-forced: 8-bit pictures round either way
    if len(plans) > 1:
        _check_in_one_go(enhancer, video[:used], case)
    return result


def _plans(case: Case) -> tuple[EnhancerSettings, tuple[EnhancerPass, ...], int]:
    """Settings, passes and how many frames the reference does not drop."""
    config, frames = case.config, len(case.inputs["video"])
    window, overlap = config["chunk_size"], config["overlap_size"]
    guidance = {call["guidance_scale"] for call in config.get("kwargs_sent_by_the_interface", ())} or {9.0}
    settings = EnhancerSettings(
        window=window,
        overlap=overlap,
        steps=config["num_inference_steps"],
        strength=config["strength"],
        guidance=guidance.pop(),
        schedule=Schedule.from_config(config["scheduler"]),
    )
    if not config["use_randomized_blending"]:
        return settings, (EnhancerPass(tuple(range(frames)), frames, frames, (0,)),), frames
    count = (frames - overlap) // (window - overlap)
    used = (window - overlap) * (count - 1) + window
    settings = replace(settings, key_lengths=(count,))
    plans = plan_passes(used, settings)
    for plan, expected in zip(plans, config["passes"], strict=True):
        assert (len(plan.frames), len(plan.starts)) == (expected["video_frames"], expected["images"])
        assert plan.window == expected["chunk_size"]
    return settings, plans, used


def _one_pass(
    enhancer: I2VGenXL, number: int, plan: EnhancerPass, video: Frames, pictures: list[Frames]
) -> dict[str, Any]:
    stage, size = f"enhance_{number}", enhancer.size
    decoder = enhancer.engines["enhance_vae_decode"]
    assert isinstance(decoder, Recorder)
    decoder.recorded.clear()
    made = enhancer.run_pass(number, plan, video, pictures)
    frames = np.stack([made[index] for index in range(len(made))])
    latents = [enhancer.image_latents(p, plan.window, stage, i) for i, p in enumerate(pictures)]
    sources = [resized(video[index], size) for index in plan.frames]
    settings = enhancer.settings
    result = {
        "frames": frames,
        "decoded": frames_second(np.concatenate([output["frames"] for output in decoder.recorded]))[None],
        "init_latents": np.stack([enhancer.encode(p, f"{stage}_frame", i) for i, p in enumerate(sources)]),
        "image_latents": np.stack([_pair(part) for part in latents]),
        "image_embeddings": np.stack([enhancer.embed(picture) for picture in pictures]),
        "timesteps": ddim_table(settings.schedule, settings.steps, settings.strength)[:, 1].astype(np.int64),
    }
    return {f"pass{number + 1}.{name}": value for name, value in result.items()}


def _check_in_one_go(enhancer: I2VGenXL, video: Frames, case: Case) -> None:
    """All passes on their own results; the limit is the reference's for a first pass that is computed anew."""
    decoder = enhancer.engines["enhance_vae_decode"]
    assert isinstance(decoder, Recorder)
    decoder.recorded.clear()
    frames = list(enhancer.enhance(video, case.inputs["image"]))
    pixels = np.concatenate([output["frames"] for output in decoder.recorded[-len(frames) :]])
    assert not Limit(rel=5e-4).violation(frames_second(pixels)[None], case.outputs["pass2.decoded"])


def _pair(maps: Array) -> Array:
    """[1, F, C, h, w] -> [2, C, F, h, w]: the same for both guidance halves."""
    return np.repeat(frames_second(maps), 2, axis=0)


def preprocessing(case: Case) -> Mapping[str, Any]:
    config = case.config
    size = config["width"], config["height"]
    schedule = Schedule.from_config(config["scheduler"])
    result: dict[str, Any] = {
        "fps": np.full(2, EnhancerSettings().fps),
        "alphas_cumprod": alpha_bars(schedule).astype(np.float32),
    }
    for name in case.outputs:
        if match := re.fullmatch(r"timesteps_(\d+)_strength_([\d.]+)", name):
            result[name] = ddim_table(schedule, int(match[1]), float(match[2]))[:, 1].astype(np.int64)
        elif match := re.fullmatch(r"prompt_embeds\.clip_skip_(\w+)", name):
            skip = 0 if match[1] == "None" else int(match[1])
            made = engines(case, size, clip_skip=skip)
            result[name] = encode_prompt(made, case.inputs["prompt_ids"], case.inputs["negative_prompt_ids"])
    for name in case.inputs:
        if name.startswith("image."):
            result |= _picture(case, name.removeprefix("image."), size)
        elif match := re.fullmatch(r"video(\d+)\.noise", name):
            result |= _video(case, int(match[1]), schedule)
    return result


def _picture(case: Case, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Everything that is made of the input picture `name`."""
    picture = case.inputs[f"image.{name}"]
    crop, square = centre_crop(picture, size), centre_crop(picture, (size[0], size[0]))
    seen = clip_picture(picture, case.config["clip_image_size"], crop=size[0])
    result = {
        "crop": crop,
        "crop_square": square,
        "clip_resized": seen,
        "pixel_values": clip_pixels(seen),
        "vae_in": model_image(crop),
        "image_embeddings": I2VGenXL(engines(case, size), np.empty(0), Replay({})).embed(picture),
    }
    for noise in case.inputs:
        if match := re.fullmatch(rf"{re.escape(name)}\.image_vae_noise\.f(\d+)", noise):
            replay = Replay({"0_picture": case.inputs[noise]})
            enhancer = I2VGenXL(engines(case, size), np.empty(0), replay)
            result[f"image_latents.f{match[1]}"] = _pair(enhancer.image_latents(picture, int(match[1]), "0", 0))
    return {f"{name}.{key}": value for key, value in result.items()}


def _video(case: Case, count: int, schedule: Schedule) -> dict[str, Any]:
    """Everything that is made of the first `count` frames of the video."""
    video = case.inputs["video"][:count]
    height, width = video.shape[1:3]
    made = engines(case, (width, height))
    replay = Replay({"frame": _joined(case, f"video{count}.vae_noise." + "{}")})
    enhancer = I2VGenXL(made, np.empty(0), replay)
    init = np.stack([enhancer.encode(frame, "frame", index) for index, frame in enumerate(video)])
    first = int(ddim_table(schedule, EnhancerSettings().steps, EnhancerSettings().strength)[0, 1])
    start = noised(schedule, first, init, case.inputs[f"video{count}.noise"])
    result = {
        f"video{count}.init_latents": init,
        f"video{count}.latents_start": frames_second(start)[None],
        f"video{count}.preprocessed": frames_second(np.concatenate([model_image(frame) for frame in video]))[None],
    }
    if case.outputs["decode.frames"].shape[0] == count:
        result["decode.frames"] = np.stack(
            [rounded_picture(enhancer.decode(init, index)) for index in range(len(init))]
        )
        decoder = made["enhance_vae_decode"]
        assert isinstance(decoder, Recorder)
        pixels = np.concatenate([output["frames"] for output in decoder.recorded])
        result["decode.video"] = frames_second(pixels)[None]
    return result


EXACT_PICTURES = Limit(rel=0.0, levels=0, share=0.0)

ADAPTERS = {
    "enhance.i2vgen_unet": Adapter(i2vgen_unet),
    "enhance.randomized_blending": Adapter(randomized_blending),
    "enhance.two_pass_process": Adapter(two_pass_process),
    "enhance.preprocessing": Adapter(
        preprocessing, limits={"*.crop*": EXACT_PICTURES, "*.clip_resized": EXACT_PICTURES}
    ),
}
