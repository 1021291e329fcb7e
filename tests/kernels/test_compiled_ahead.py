"""Every Triton kernel compiles for Hopper on a machine without a GPU, onto its matrix units and without spilling."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HALVES = ("x", "weight", "bias", "out", "q", "k", "v")
FLOATS = ("mean_out", "spread_out", "means", "spreads", "scale_out", "shift_out")


def test_compile_for_hopper() -> None:
    # In a process of its own: Triton only interprets in this one where there is no GPU.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-P", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["_moments", "_merge", "_attend", "_geglu"]


def compile_all() -> None:
    """Compile each and look at its code; what was compiled goes to stdout."""
    from stt2v.kernels import attention, geglu, group_norm

    check(group_norm._moments, {"ROWS": 128, "CHANNELS": 64, "TILES": 8}, 4)
    check(group_norm._merge, {"PER_SPLIT": 1024, "WIDTH": 16, "CHUNK": 32}, 4)
    check(attention._attend, {"LENGTH": 32, "KEYS": 32, "WIDTH": 64}, 2, "mma.sync")
    check(geglu._geglu, {"ROWS": 128, "COLUMNS": 64, "DEPTH": 64, "GROUP": 8}, 4, "wgmma.mma_async")


def check(function: Any, constants: dict[str, int], warps: int, instruction: str = "") -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = dict.fromkeys(HALVES, "*fp16") | dict.fromkeys(FLOATS, "*fp32") | {"eps": "fp32", "scale": "fp32"}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in function.arg_names}
    whole = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind != "constexpr"}
    source = ASTSource(function, signature, constexprs=constants, attrs=whole)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert instruction in kernel.asm["ptx"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    assert re.search(r"STACK:0 .*LOCAL:0", shown.stdout), shown.stdout  # no register lives in memory
    print(function.__name__)


if __name__ == "__main__":
    compile_all()
