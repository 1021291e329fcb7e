"""Write the outputs of our own cases: `python tests/golden/record.py FOLDER...`, from verified modules only.

A folder needs `config.json` and `inputs.safetensors`. Outputs that are there keep their names; with none, all that
the adapter computes are stored.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.cases import Case
from golden.test_golden import ADAPTERS


@torch.inference_mode()
def record(folder: Path) -> int:
    """Compute the case in `folder` and store its outputs; returns the bytes written."""
    case = Case(folder)
    stored = folder / "outputs.safetensors"
    names = case.outputs if stored.exists() else None
    computed = {name: np.array(value, order="C") for name, value in ADAPTERS[case.component].compute(case).items()}
    save_file({name: value for name, value in computed.items() if names is None or name in names}, stored)
    return stored.stat().st_size


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(f"{argument}: {record(Path(argument))} bytes\n")
