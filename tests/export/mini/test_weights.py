"""What the shipped weights can do, measured on rendered truth."""

import numpy as np
import pytest
import torch

from stt2v.engine.noise import Noise
from stt2v.engine.store import SHIPPED as STORED
from stt2v.export.mini import atlas
from stt2v.export.mini.captions import tokenizer
from stt2v.export.mini.data import draw_batch
from stt2v.export.mini.interpolator import CONFIG
from stt2v.export.mini.judge import Judge, kind_of_motion, look
from stt2v.export.mini.networks import SHARED, Core, Enhancer
from stt2v.export.mini.sample import Settings, enhance, generate
from stt2v.export.mini.training import load
from stt2v.export.mini.vae import Autoencoder
from stt2v.export.mini.world import render
from stt2v.export.models.ema_vfi import EmaVfi

WEIGHTS = atlas.DATA.parent / "weights"
SHIPPED = ("core", "enhancer", "vae", "interpolator")


def trained(name, module):
    load(name, module, WEIGHTS)
    return module.eval().requires_grad_(False)


def psnr(a, b, weight=None):
    error = (a - b) ** 2
    weight = torch.ones_like(error) if weight is None else weight.expand_as(error)
    return float(-10 * torch.log10((error * weight).sum() / weight.sum()))


@pytest.fixture(scope="module")
def truth():
    batch = draw_batch(40, np.random.default_rng(3), "cpu", kept_for_testing=True)
    return batch, *render(batch.scenes, batch.times(16), 64)


@pytest.fixture(scope="module")
def vae():
    return trained("vae", Autoencoder())


def test_the_judge_knows_rendered_truth(truth):
    batch, frames, _ = truth
    objects, tracks = look(trained("judge", Judge()), frames)
    assert (objects == batch.scenes.object[:, None]).float().mean() >= 0.99
    assert (kind_of_motion(tracks) == batch.scenes.motion).float().mean() >= 0.95


def test_the_autoencoder_keeps_pictures(truth, vae):
    batch, frames, cover = truth
    clips, sprite = frames[:6], (cover[:6] > 0.5).float()
    latents = vae.scaled_latents(clips.flatten(0, 1))
    assert latents.std() == pytest.approx(1, abs=0.15)
    decoded = vae.decode_scaled(latents.unflatten(0, clips.shape[:2])).clamp(-1, 1)
    assert psnr(decoded / 2, clips / 2) > 29
    assert psnr(decoded / 2, clips / 2, sprite) > 21
    objects, _ = look(trained("judge", Judge()), decoded)
    assert (objects == batch.scenes.object[:6, None]).float().mean() >= 0.95


def test_the_interpolator_beats_the_mean_of_both_frames(truth):
    batch, _, _ = truth
    times = batch.begin[:, None] + torch.tensor([0.0, 0.5, 1.0])
    first, middle, last = ((render(batch.scenes, times, 128)[0][:8].flip(2) + 1) / 2).unbind(1)
    made = trained("interpolator", EmaVfi(CONFIG))(first, last)
    assert psnr(made, middle) > psnr((first + last) / 2, middle) + 5


def test_the_networks_sample_what_they_are_told(truth, vae):
    batch, _, _ = truth
    core, enhancer = trained("core", Core()), trained("enhancer", Enhancer())
    enhancer.begin(core, anew=False)
    noises, settings = [Noise(1)], Settings(chunks=2, steps=2)
    frames = generate(core, vae, batch.tokens[:1], noises, settings)
    assert frames.shape == (1, 24, 3, 64, 64)
    assert torch.isfinite(frames).all()
    assert torch.equal(frames, generate(core, vae, batch.tokens[:1], noises, settings))
    assert not torch.equal(frames, generate(core, vae, batch.tokens[:1], [Noise(2)], settings))
    assert enhance(enhancer, core, vae, batch.tokens[:1], frames, noises, settings).shape == (1, 24, 3, 128, 128)


def test_an_enhancer_is_kept_without_what_it_shares():
    core, enhancer, again = Core(), Enhancer(), Enhancer()
    enhancer.begin(core, anew=True)
    kept = enhancer.state_dict()
    assert not any(name.startswith(f"unet.{part}.") for name in kept for part in SHARED)
    again.load_state_dict(kept)
    again.begin(core, anew=False)
    pairs = zip(enhancer.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(p.requires_grad for p in again.unet.mid_block.parameters())
    with pytest.raises(RuntimeError, match="conv_in"):
        again.load_state_dict({name: value for name, value in kept.items() if "conv_in" not in name})


def test_the_tokenizer_file_is_that_of_the_grammar():
    assert (WEIGHTS / "tokenizer.json").read_text() == tokenizer().to_str(pretty=True)


def test_what_is_shipped_stays_small():
    assert sum((WEIGHTS / f"{name}.safetensors").stat().st_size for name in SHIPPED) < 23e6
    assert sum(path.stat().st_size for path in (STORED / "mini").iterdir()) < 25e6
