from dataclasses import replace

import pytest

from stt2v.engine.build_costs import MILLIONS, costs, disk_bytes, plain, published_graphs
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import MODELS, find_model
from stt2v.engine.models.vid2vid import VID2VID
from stt2v.engine.store import SHIPPED

SVD = find_model("streaming-svd")


@pytest.mark.parametrize(
    ("graph", "name"),
    [("enhance_38_step", "enhance_step"), ("vae_decode_8", "vae_decode"), ("interpolate_1280x720", "interpolate")],
)
def test_plain_names(graph: str, name: str) -> None:
    assert plain(graph) == name


def test_last_build_counts_before_the_table() -> None:
    (built,) = (entry for entry in read_manifest(SHIPPED / "tiny").engines if entry.spec.name == "vae_encode")
    (cost,) = costs(find_model("tiny"), "onnxruntime", "fp32", ["vae_encode"])
    assert (cost.seconds, cost.source) == (built.seconds, "the last build")


def test_table_says_what_was_measured_and_no_more() -> None:
    step, half = costs(SVD, "tensorrt-rtx", "fp16", ["step", "half"])
    assert (step.seconds, half.seconds, step.source) == (315, None, "a table")
    assert step.weight_bytes == half.weight_bytes == 2267 * 2_000_000
    assert step.host_bytes == pytest.approx(14.1e9, rel=0.2)  # as measured, see ARCHITECTURE.md
    assert costs(find_model("tiny"), "tensorrt-rtx", "fp16", ["step"])[0].seconds is None


def test_shared_weights_count_once() -> None:
    graphs = ["step", "half", "vae_decode_8", "vae_decode_1"]
    own, shared = (costs(SVD, backend, "fp16", graphs) for backend in ("tensorrt-rtx", "onnxruntime"))
    assert disk_bytes("tensorrt-rtx", own) == 2 * disk_bytes("onnxruntime", shared) == 2 * (2267 + 64) * 2_000_000


@pytest.mark.parametrize("model", [m for m in MODELS.values() if not m.toy], ids=lambda model: model.name)
def test_all_graphs_of_published_models_are_known(model) -> None:
    for declared in (model, replace(model, enhancing=VID2VID), replace(model, enhancing=None)):
        graphs = published_graphs(declared)
        assert all(cost.weight_bytes is not None for cost in costs(declared, "onnxruntime", "fp32", graphs))
    assert set(MILLIONS) == {"mini", "mini-enhancer", "streaming-svd", "streaming-t2v", "i2vgen-xl", "vid2vid"}
