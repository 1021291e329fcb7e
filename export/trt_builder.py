"""Builds one engine of TensorRT-RTX or TensorRT and ends: one that fails can spoil every later one of its process.

    python -m stt2v.export.trt_builder tensorrt_rtx MODEL.onnx OUT.engine sm_86 [sm_89 ...]
    python -m stt2v.export.trt_builder tensorrt MODEL.onnx OUT.engine

TensorRT builds for the card of this machine, TensorRT-RTX for those that are named.
The log goes to standard output, with the table of layers; the exit status is 1 when there is no engine.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from stt2v.engine.machine import peak_memory
from stt2v.export.child import end_with_parent

trt: Any = importlib.import_module(sys.argv[1])  # an extra, and without types


class Log(trt.ILogger):  # type: ignore[misc]  # a class without types
    """What is worth keeping of the log, a severity before each message."""

    def log(self, severity: Any, message: str) -> None:
        """Write it, unless it is one of the tens of thousands of details other than the table of layers."""
        if severity <= self.Severity.INFO or "LayerType" in message:
            sys.stdout.write(f"{severity.name}: {message}\n")


def build(model: Path, engine: Path, targets: list[str]) -> bool:
    """Build the engine of an ONNX model for all of `targets`. Returns whether there is one; the log says why not."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        return False
    allow_decomposing(network)
    plan = builder.build_serialized_network(network, config_for(builder, targets))
    if plan is None:
        return False
    engine.write_bytes(plan)
    return True


def config_for(builder: Any, targets: list[str]) -> Any:
    """Let weights be streamed, log the layers, and build ahead of time for `targets`; none is the card that is here."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if not targets:
        return config
    config.num_compute_capabilities = len(targets)  # before any of them: none is the card of this machine
    for index, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, target.upper().replace("_", ""))
        config.set_compute_capability(capability, index)
    return config


def allow_decomposing(network: Any) -> None:
    """Let attentions without a fused kernel become products and softmax; without leave they fail the build."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # `get_layer` knows only the base class
            layer.attention.decomposable = True


if __name__ == "__main__":
    end_with_parent()
    built = build(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    sys.stdout.write(f"Peak Host Memory: {peak_memory()} bytes\n")
    sys.exit(not built)
