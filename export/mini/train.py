"""Train one stage: python -m stt2v.export.mini.train STAGE --minutes N --out DIR [--weights DIR] [--resume]."""

import argparse
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from stt2v.export.mini.training import Run

STAGES = {
    "vae": "stt2v.export.mini.vae:train_vae",
    "decoder": "stt2v.export.mini.vae:train_decoder",
    "judge": "stt2v.export.mini.judge:train_judge",
    "interpolator": "stt2v.export.mini.interpolator:train_interpolator",
    "core": "stt2v.export.mini.core:train_core",
    "enhancer": "stt2v.export.mini.enhancer:train_enhancer",
}
"""What each stage calls; a stage needs only its own modules."""


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, required=True, help="time from start to the last weights")
    parser.add_argument("--out", type=Path, required=True, help="where weights and loss curve go")
    parser.add_argument("--weights", type=Path, default=Path(), help="where earlier stages' weights are")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="0: the stage's own")
    parser.add_argument("--resume", action="store_true", help="begin with this stage's weights in --weights")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    module, function = STAGES[given.pop("stage")].split(":")
    train: Callable[[Run], None] = getattr(import_module(module), function)
    train(Run(**given))


if __name__ == "__main__":
    main()
