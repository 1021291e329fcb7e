"""What the published weights of each model are made of: repositories of the hub, their files, our names for them."""

from collections.abc import Mapping
from dataclasses import dataclass

from stt2v.engine.models import find_model

SHARD = r"(-\d+-of-\d+)?"


@dataclass(frozen=True)
class Part:
    """Files of one repository that become one network, or one tokenizer, of the weight folder.

    choices: regular expressions for whole names of files, the best first; what the first one that fits anything fits is
    taken. target: a file, or with a slash at its end a folder that keeps the names of the files. keep: a regular
    expression for the beginning of the keys that are kept of a pickle, which is converted; safetensors are not touched.
    """

    repository: str
    target: str
    choices: tuple[str, ...]
    keep: str = ""


def _network(repository: str, folder: str, target: str) -> Part:
    """A network in diffusers' or transformers' layout: half precision before single, safetensors before pickles."""
    stem = "(diffusion_pytorch_model|model|pytorch_model)"
    endings = (rf"\.fp16{SHARD}\.safetensors", rf"{SHARD}\.safetensors", rf"\.fp16{SHARD}\.bin", rf"{SHARD}\.bin")
    return Part(repository, f"{target}/{folder}/", tuple(f"{folder}/{stem}{ending}" for ending in endings))


def _tokenizer(repository: str, target: str) -> Part:
    """CLIP's tokenizer: one file where there is one, else vocabulary and merges, which are joined."""
    choices = (r"tokenizer/tokenizer\.json", r"tokenizer/(merges\.txt|vocab\.json)")
    return Part(repository, f"{target}/tokenizer/tokenizer.json", choices)


SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"
I2VGEN_XL = "ali-vilab/i2vgen-xl"
MODELSCOPE = "damo-vilab/text-to-video-ms-1.7b"
VID2VID = "ali-vilab/MS-Vid2Vid-XL"

SOURCES: Mapping[str, tuple[Part, ...]] = {
    "streaming-svd": (
        Part("PAIR/StreamingSVD", "streaming-svd.safetensors", (r"model\.safetensors",)),
        _network(SVD_XT, "unet", "svd-xt"),
        *(_network(I2VGEN_XL, name, "i2vgen-xl") for name in ("unet", "vae", "text_encoder", "image_encoder")),
        _tokenizer(I2VGEN_XL, "i2vgen-xl"),
    ),
    "streaming-t2v": (
        Part("PAIR/StreamingT2V", "streaming-t2v.safetensors", (r"streaming_t2v\.ckpt",)),
        _network(MODELSCOPE, "unet", "modelscope"),
        _tokenizer(MODELSCOPE, "modelscope"),
        Part(VID2VID, "vid2vid/unet.safetensors", (r"non_ema_0035000\.pth",)),
        Part(VID2VID, "vid2vid/autoencoder.safetensors", (r"v2-1_512-ema-pruned\.ckpt",), keep=r"first_stage_model\."),
        Part(VID2VID, "vid2vid/text_encoder.safetensors", (r"open_clip_pytorch_model\.bin",), keep=r"(?!visual\.)"),
    ),
}


def sources_of(model: str) -> tuple[Part, ...]:
    """The parts of `model`; none where the networks are made here. Raises UsageError for an unknown model."""
    if model not in SOURCES:
        find_model(model)
    return SOURCES.get(model, ())
