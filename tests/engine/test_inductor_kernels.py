"""Our own kernels, compiled when an engine was built, are found where the engine is unpacked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stt2v.engine.backends.inductor import lead_to_kernels
from stt2v.export.to_inductor import KEPT

pytest.importorskip("triton")

COMPILE = """
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def twice(x):
    tl.store(x, 2 * tl.load(x))

def refuse(*_):
    raise AssertionError("compiles")

if sys.argv[1] == "found":
    ASTSource.make_ir = refuse
print(triton.compile(ASTSource(twice, {"x": "*fp32"}), target=GPUTarget("cuda", 90, 32)).name)
"""
"""Run in a process of its own, because in this one Triton only interprets where there is no GPU."""


def compiled(script: Path, cache: Path, how: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    return subprocess.run([sys.executable, str(script), how], env=environment, capture_output=True, text=True)


def test_kernels_are_found_where_they_are_unpacked(tmp_path: Path) -> None:
    script = tmp_path / "compile.py"
    script.write_text(COMPILE)
    built, unpacked = tmp_path / "built", tmp_path / "unpacked"
    assert compiled(script, built / "triton", "anew").stdout == "twice\n"
    built.rename(unpacked)
    for path in unpacked.rglob("*.*"):
        if path.suffix not in KEPT:
            path.unlink()
    assert "compiles" in compiled(script, unpacked / "triton", "found").stderr
    lead_to_kernels(unpacked)
    done = compiled(script, unpacked / "triton", "found")
    assert done.stdout == "twice\n", done.stderr
