"""The enhancer MS-Vid2Vid-XL: network, schedule, solver, blending and the pictures at both ends."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from golden.cases import Adapter, Case
from golden.taps import tapped
from stt2v.export.models.streaming_t2v_steps import TextConstants
from stt2v.export.models.vid2vid import Vid2VidUNet
from stt2v.export.weights.vid2vid import load_unet


def frames_second(video: Any) -> Any:
    """[..., C, F, h, w], as the reference stores clips, to [..., F, C, h, w] and back."""
    return video.swapaxes(-4, -3)


def network(case: Case, config: Mapping[str, Any]) -> Vid2VidUNet:
    return load_unet(case.weights("weights_path"), config["head_dim"])


def unet(case: Case) -> Mapping[str, Any]:
    net = network(case, case.config)
    video = frames_second(case.tensor("x"))
    middle = net.mid_block
    parts = {"init_temporal": net.transformer_in, "mid_resblock": middle.temp_convs[0]}
    parts |= {"mid_spatial": middle.attentions[0], "mid_temporal": middle.temp_attentions[0]}
    with tapped(parts) as outputs:
        context = TextConstants(net)(case.tensor("y"))
        out = net(video.flatten(0, 1), video.shape[1], case.tensor("t"), context)
    features = {name: output[0] if isinstance(output, tuple) else output for name, output in outputs.items()}

    def clips(frames: Tensor) -> Tensor:
        return frames_second(frames.unflatten(0, video.shape[:2]))

    temporal = {name: clips(features[name]) for name in ("init_temporal", "mid_temporal")}
    return {**features, **temporal, "out": clips(out)}


ADAPTERS = {
    "vid2vid.unet": Adapter(unet),
}
