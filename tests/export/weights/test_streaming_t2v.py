"""StreamingT2V's checkpoint: every published key has its place, and nothing else passes."""

import os
from pathlib import Path

import pytest
import torch

from stt2v.engine.errors import ExportError
from stt2v.export.models.modelscope_unet import UNetSpec
from stt2v.export.weights.streaming_t2v import load_checkpoint

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("STT2V_GOLDEN", ROOT.parent / "shared" / "golden"))
KEYS = GOLDEN / "streaming_t2v" / "checkpoint_keys.tsv"

pytestmark = pytest.mark.skipif(not KEYS.is_file(), reason=f"no reference data at {KEYS}")


@pytest.fixture(scope="module")
def checkpoint():
    rows = (line.split("\t") for line in KEYS.read_text().splitlines()[1:])
    sizes = {key: [] if shape == "scalar" else [int(n) for n in shape.split("x")] for key, shape in rows}
    return {key: torch.empty(size, device="meta") for key, size in sizes.items()}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_published_key_is_mapped(checkpoint):
    parts = load_checkpoint(checkpoint)
    assert parameters(parts.unet) == 1_480_478_804
    assert parameters(parts.control) == 621_981_664
    assert parameters(parts.image_tokens) == 22_299_904
    assert parameters(parts.text_encoder) == 340_387_840
    assert parameters(parts.vae) == 83_653_863
    assert parts.unet.spec == parts.control.spec == UNetSpec()


def test_keys_missing_or_over_are_refused(checkpoint):
    lost = {key: tensor for key, tensor in checkpoint.items() if not key.endswith("up_blocks.1.resnets.0.norm1.bias")}
    with pytest.raises(ExportError, match="missing 1 key"):
        load_checkpoint(lost)
    with pytest.raises(ExportError, match="of no network"):
        load_checkpoint({**checkpoint, "ema.decay": torch.zeros(())})
