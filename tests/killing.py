"""Builds in processes of their own, which are killed at chosen points; and a compiler that takes no time."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import toys

from stt2v.engine.manifest import EngineEntry
from stt2v.export import compilers
from stt2v.export.build import build_engine_set
from stt2v.export.capture import Program
from stt2v.export.compilers import Compiled, Finish
from stt2v.export.to_ort import OrtCompiler
from stt2v.export.weight_file import WeightFile

GRAPHS = {"half": toys.half, "update": toys.update, "encoder": toys.encoder}
FORKS = multiprocessing.get_context("forkserver")  # of a process that has imported torch and has a single thread
FORKS.set_forkserver_preload(["stt2v.export.build", "stt2v.export.to_ort", "torch._export", "torch._dynamo"])


class QuickCompiler(OrtCompiler):
    """Engines that are lists of where their weights lie."""

    def runs_here(self, target: str) -> bool:
        return False

    @contextmanager
    def opened(self, directory: Path, target: str, precision: str) -> Iterator["QuickCompile"]:
        with WeightFile(directory / "weights.bin") as weights:
            yield QuickCompile(directory, weights)


@dataclass(frozen=True)
class QuickCompile:
    directory: Path
    weights: WeightFile

    def __call__(self, program: Program) -> Finish:
        arrays = [tensor.detach().numpy() for tensor in program.exported.state_dict.values()]
        compiled = self._save(f"{program.spec.name}.places", [array.reshape(-1).view(np.uint8) for array in arrays])
        return lambda: compiled

    def adopt(self, source: Path, entry: EngineEntry) -> None:
        data = np.fromfile(source / "weights.bin", np.uint8)
        places = json.loads((source / entry.file).read_text())
        self._save(entry.file, [data[start : start + length] for start, length in places])

    def _save(self, file: str, arrays: list[np.ndarray]) -> Compiled:
        places = [self.weights.place(array) for array in arrays]
        self.weights.flush()
        (self.directory / file).write_text(json.dumps(places))
        return Compiled(file, sum(length for _, length in places), 0)


def build_in_child(directory: Path, real: bool, kill_at: int | None = None) -> int | None:
    """Build in another process, killed before its `kill_at`-th touch of a file; how many it made, when it lived."""
    here, there = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=_build, args=(directory, os.environ["STT2V_HOME"], real, kill_at, there))
    child.start()
    there.close()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return here.recv() if child.exitcode == 0 else None


def _build(directory: Path, home: str, real: bool, kill_at: int | None, answer: Connection) -> None:
    os.environ["STT2V_HOME"] = home
    compilers.compiler_of = lambda backend: OrtCompiler() if real else QuickCompiler()
    touches = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touches
        paths = (os.fsdecode(word) for word in arguments if isinstance(word, str | bytes | os.PathLike))
        if event == "ctypes.dlsym" or any(path.startswith(str(directory.parent)) for path in paths):
            touches += 1
            if touches == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    build_engine_set(toys.MODEL, GRAPHS, "onnxruntime", "fp32", "cpu", directory)
    answer.send(touches)
