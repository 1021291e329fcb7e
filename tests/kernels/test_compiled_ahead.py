"""Every Triton kernel compiles for cards on a machine without a GPU: onto their matrix units, within their memory."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

SHARED = {90: 227 << 10, 89: 99 << 10, 120: 99 << 10}
"""Bytes of shared memory that a block can have, by compute capability."""
HALVES = ("x", "weight", "bias", "offset", "out", "q", "k", "v")
FLOATS = ("means", "spreads", "counts", "scale_out", "shift_out")


@pytest.mark.parametrize("capability", SHARED)
def test_compile_for(capability: int) -> None:
    # In a process of its own: Triton only interprets in this one where there is no GPU.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-P", __file__, str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [
        "_moments",
        "_condense",
        "_merge",
        "_merge",
        *["_attend"] * 2,
        *["_geglu"] * (6 if capability == 90 else 3),
        *["_convolve"] * 6,
        *["_linear"] * 2,
    ]
    assert done.stdout.split() == names


def compile_all() -> None:
    """Compile each and look at its code; what was compiled goes to stdout."""
    from stt2v.kernels import attention, group_norm, moments

    check(moments._moments, {"ROWS": 64, "CHANNELS": 64, "TILES": 16}, 4)
    outputs = dict.fromkeys(("means_out", "spreads_out", "counts_out"), "*fp32")
    check(group_norm._condense, {"RUN": 32, "CHANNELS": 64}, 4, own=outputs)
    for offset in ({}, {"offset": None}):
        check(group_norm._merge, {"WIDTH": 16, "CHUNK": 256} | offset, 4)
    check(attention._attend, {"LENGTH": 32, "KEYS": 32, "WIDTH": 64}, 2, "mma.sync")
    check(attention._attend, {"LENGTH": 64, "KEYS": 64, "WIDTH": 64}, 4, "wgmma")
    none, scales = {"scale": None, "x_scale": None}, {"scale": "*fp32", "x_scale": "*fp32"}
    check_gates("fp16", "fp16", 64, none, {})
    check_gates("fp8e4nv", "bf16", 128, {}, scales)
    check_gates("fp8e4nv", "fp8e4nv", 128, {}, scales)
    check_convolution("fp16", "fp16", 64, none, {})
    check_convolution("fp8e4nv", "bf16", 128, {}, scales)
    check_linear("fp16", "fp16", {"scale": None}, {})
    check_linear("fp8e4nv", "bf16", {}, {"scale": "*fp32"})


def check_gates(narrow: str, wide: str, depth: int, none: dict[str, None], scales: dict[str, str]) -> None:
    """In each tiling that the card can hold the halves are one operand of Hopper's matrix units."""
    from stt2v.kernels import geglu

    for tiling in (each for each in (geglu.DEFAULT, geglu.DEEP) if each.shared_bytes <= SHARED[CAPABILITY]):
        rows, columns = tiling.rows, tiling.columns
        tiles = {"x": f"{narrow}[{rows}, {depth}]", "weight": f"{narrow}[2, {columns}, {depth}]"}
        tiles["out"] = f"{wide}[{rows}, {columns}]"
        kinds = {name: f"tensordesc<{tile}>" for name, tile in tiles.items()} | scales
        constants = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth, "GROUP": 8}
        check(geglu._geglu, constants | none, tiling.warps, f"m64n{2 * columns}k", kinds, tiling.stages)


def check_convolution(narrow: str, wide: str, depth: int, none: dict[str, None], scales: dict[str, str]) -> None:
    """Alone, and with all that it can do while it writes: over space, and over frames of which a tile has several."""
    from stt2v.kernels import implicit_gemm

    alone = dict.fromkeys(("added", "means", "spreads", "counts"))
    for sides, rows, across, epilogue in (
        ((1, 2, 128), 2, 3, alone),
        ((1, 2, 128), 2, 3, {}),
        ((2, 2, 64), 1, 1, {}),
    ):
        box = ", ".join(map(str, sides))
        tiles = {"x": f"{narrow}[{box}, {depth}]", "weight": f"{narrow}[128, {depth}]", "out": f"{wide}[{box}, 128]"}
        kinds = {name: f"tensordesc<{tile}>" for name, tile in (tiles | {"added": tiles["out"]}).items()} | scales
        constants = dict(zip(("FRAMES", "HEIGHT", "WIDTH"), sides, strict=True)) | {"ROWS": rows, "RAGGED": rows == 1}
        constants |= {"TALL": 3, "WIDE": across, "COLUMNS": 128, "DEPTH": depth}
        stages = implicit_gemm.DEFAULT.stages
        check(implicit_gemm._convolve, constants | none | epilogue, 8, "wgmma.mma_async", kinds, stages)


def check_linear(narrow: str, wide: str, none: dict[str, None], scales: dict[str, str]) -> None:
    from stt2v.kernels import linear

    tiling = linear.DEFAULT
    rows, parts = tiling.rows, {"": tiling.columns, "side_": tiling.side}
    depth, more_depth = tiling.depth * 8 // bits(narrow), tiling.depth * 8 // bits(wide)
    tiles = {"x": f"{narrow}[{rows}, {depth}]", "more": f"{wide}[{rows}, {more_depth}]"}
    for part, columns in parts.items():
        tiles |= {
            f"{part}weight": f"{narrow}[{columns}, {depth}]",
            f"more_{part}weight": f"{wide}[{columns}, {more_depth}]",
        }
        tiles |= dict.fromkeys((f"{part}residual", f"{part}out"), f"{wide}[1, 1, {rows}, {columns}]")
    kinds = {name: f"tensordesc<{tile}>" for name, tile in tiles.items()} | scales | {"bias": f"*{wide}"}
    constants = {"ROWS": rows, "COLUMNS": tiling.columns, "SIDE": tiling.side, "DEPTH": depth, "MORE_DEPTH": more_depth}
    check(linear._linear, constants | none, tiling.warps, f"m64n{tiling.columns}k", kinds, tiling.stages)


def bits(kind: str) -> int:
    return int(re.search(r"\d+", kind)[0])


def check(
    function: Any,
    constants: Mapping[str, int | None],
    warps: int,
    instruction: str = "",
    own: Mapping[str, str] = MappingProxyType({}),
    stages: int = 3,
) -> None:
    """instruction: what Hopper is to multiply with; other cards have but one way. There no register lives in memory."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = dict.fromkeys(HALVES, "*fp16") | dict.fromkeys(FLOATS, "*fp32") | {"eps": "fp32", "scale": "fp32"}
    kinds |= own
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in function.arg_names}
    aligned = (i for i, kind in enumerate(signature.values()) if kind != "constexpr" and "desc" not in kind)
    whole = {(i,): [["tt.divisibility", 16]] for i in aligned}
    known = {name: value for name, value in constants.items() if name in signature}
    source = ASTSource(function, signature, constexprs=known, attrs=whole)
    options = {"num_warps": warps, "num_stages": stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    assert kernel.metadata.shared <= SHARED[CAPABILITY]
    print(function.__name__)
    if CAPABILITY != 90:
        assert not instruction or "mma.sync" in kernel.asm["ptx"]
        return
    assert instruction in kernel.asm["ptx"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        shown = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    assert re.search(r"STACK:0 .*LOCAL:0", shown.stdout), shown.stdout


if __name__ == "__main__":
    CAPABILITY = int(sys.argv[1])
    compile_all()
