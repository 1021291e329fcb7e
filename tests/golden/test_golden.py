"""Every golden case below the root folders, computed with the product's code and compared output by output.

The roots are `STT2V_GOLDEN` (default: `../shared/golden`, the reference data, which is no part of a public clone) and
`tests/data` (our own small regression cases in the same format, always there). Only the default may be missing: a
folder that was asked for and holds no case is an error, whichever tests are selected. `pytest -ra` shows what is
skipped and why.
"""

import fnmatch
import importlib
import os
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import adapters
from golden.cases import Adapter, Case, Limit

REPOSITORY = Path(__file__).resolve().parents[2]
GIVEN = os.environ.get("STT2V_GOLDEN")
REFERENCE = Path(GIVEN) if GIVEN else REPOSITORY.parent / "shared" / "golden"
ROOTS = {"reference": REFERENCE, "own": REPOSITORY / "tests" / "data"}

ADAPTERS: dict[str, Adapter] = {
    component: adapter
    for module in pkgutil.iter_modules(adapters.__path__)
    for component, adapter in importlib.import_module(f"golden.adapters.{module.name}").ADAPTERS.items()
}


def cases() -> list[pytest.param]:
    found = [
        pytest.param(Case(path.parent), id=f"{name}/{path.parent.relative_to(root)}")
        for name, root in ROOTS.items()
        for path in sorted(root.rglob("config.json"))
    ]
    if not any(REFERENCE.rglob("config.json")):
        if GIVEN:
            raise pytest.Collector.CollectError(f"STT2V_GOLDEN is {GIVEN}: no such folder or no config.json below it")
        reason = f"no reference data at {REFERENCE}; set STT2V_GOLDEN to its folder"
        found.append(pytest.param(None, id="reference", marks=pytest.mark.skip(reason=reason)))
    return found


@pytest.mark.parametrize("case", cases())
@torch.inference_mode()
def test_golden(case: Case) -> None:
    assert case.component in ADAPTERS, f"no adapter for component {case.component!r}"
    adapter = ADAPTERS[case.component]
    actual = {name: np.asarray(value) for name, value in adapter.compute(case).items()}
    missing = sorted(set(case.outputs) - set(actual))
    assert not missing, f"not computed: {missing}"
    violations = {
        name: problem
        for name, expected in case.outputs.items()
        if (problem := _limit(adapter, name).violation(actual[name], expected))
    }
    assert not violations


def _limit(adapter: Adapter, name: str) -> Limit:
    return next((limit for pattern, limit in adapter.limits.items() if fnmatch.fnmatch(name, pattern)), Limit())
