import numpy as np
import torch
from torch.nn import functional

from stt2v.export.mini.atlas import OBJECTS
from stt2v.export.mini.captions import caption, plain_caption, token_ids, tokenizer
from stt2v.export.mini.data import draw_batch
from stt2v.export.mini.scene import BACKGROUNDS, MOTIONS, combinations, draw_scene, possible
from stt2v.export.mini.training import Run, fit, load
from stt2v.export.mini.world import render

UNKNOWN_ID = 1


def scenes(count: int, seed: int = 0):
    random = np.random.default_rng(seed)
    choices = combinations(kept_for_testing=False)
    return [draw_scene(choices[i], random) for i in random.integers(len(choices), size=count)], random


def test_a_seed_decides_everything():
    first, second = (draw_batch(3, np.random.default_rng(5), "cpu") for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    a, b = (render(batch.scenes, batch.times(2), 64)[0] for batch in (first, second))
    assert torch.equal(a, b)
    other = draw_batch(3, np.random.default_rng(6), "cpu")
    assert not torch.equal(a, render(other.scenes, other.times(2), 64)[0])


def test_both_sizes_show_the_same_scene():
    batch = draw_batch(6, np.random.default_rng(1), "cpu")
    small, large = (render(batch.scenes, batch.times(3), size)[0] for size in (64, 128))
    assert (functional.avg_pool3d(large, (1, 2, 2)) - small).abs().mean() < 0.01


def test_nothing_leaves_the_frame():
    batch = draw_batch(128, np.random.default_rng(2), "cpu")
    cover = render(batch.scenes, batch.times(16), 64)[1]
    rim = torch.cat([cover[..., 0, :], cover[..., -1, :], cover[..., 0], cover[..., -1]], -1)
    assert rim.max() < 0.5  # at most the antialiased edge of a sprite
    assert rim.mean() < 1e-3


def test_the_split_keeps_combinations_apart_and_shows_every_part():
    kept, trained = set(combinations(True)), set(combinations(False))
    assert not kept & trained
    assert 0.05 < len(kept) / len(trained) < 0.12
    for part, names in enumerate((OBJECTS, MOTIONS, BACKGROUNDS)):
        assert {combination[part] for combination in trained} == set(range(len(names)))


def test_what_cannot_be_told_is_left_out():
    spin, side, grass = MOTIONS.index("spin"), MOTIONS.index("side"), BACKGROUNDS.index("grass")
    assert not possible(OBJECTS.index("red circle"), spin, grass)
    assert possible(OBJECTS.index("red circle"), side, grass)
    assert not possible(OBJECTS.index("green square"), side, grass)


def test_the_vocabulary_is_closed():
    drawn, random = scenes(400)
    ids = token_ids([caption(scene, random) for scene in drawn] + [plain_caption(scene) for scene in drawn])
    assert ids.shape == (800, 16)
    assert not (ids == UNKNOWN_ID).any()
    assert (ids[:, -1] == 0).all()  # none was cut
    assert (token_ids(["a Zebra"])[0, :2] == [tokenizer().token_to_id("a"), UNKNOWN_ID]).all()


def test_training_lowers_a_loss_and_goes_on_from_its_weights(tmp_path):
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports what is slow to import before the clock runs
    target = torch.tensor([[1.0, -2.0]])
    module = torch.nn.Linear(2, 1)
    run = Run(minutes=0.1, out=tmp_path, weights=tmp_path, device="cpu")
    trained = fit("line", module, lambda step: (module.weight - target).square().sum(), run, rate=0.1)
    assert (trained.weight - target).abs().max() < 0.1
    again = torch.nn.Linear(2, 1)
    load("line", again, tmp_path)
    assert torch.equal(again.weight, trained.weight.half().float())
