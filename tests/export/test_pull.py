"""`stt2v pull` against a hub on loopback, with toy weights: what comes, what is refused, what is left behind."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hub_server import Hub, sha256
from huggingface_hub import constants, file_download
from safetensors.torch import load_file, save
from tokenizers import Tokenizer

from stt2v import cli
from stt2v.engine.errors import ExportError, InputError, UsageError
from stt2v.engine.models.streaming_svd import STREAMING_SVD
from stt2v.engine.progress import Silent
from stt2v.engine.runs.restart import SCRIPT
from stt2v.export import build_model, hub, pull, recipes
from stt2v.export.families.ema_vfi import TOY, random_weights
from stt2v.export.pull import PulledWeights, pull_model
from stt2v.export.weights.folder import WeightFolder
from stt2v.export.weights.sources import I2VGEN_XL, MODELSCOPE, SVD_XT, VID2VID

SVD, T2V = "PAIR/StreamingSVD", "PAIR/StreamingT2V"
MAIN = "streaming-svd.safetensors"
CUT = 70_000


class Notes(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def tensors(*keys: str, size: int = 8) -> dict[str, torch.Tensor]:
    return {key: torch.arange(size, dtype=torch.float32) + index for index, key in enumerate(keys)}


def pickled(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def vocabulary() -> bytes:
    letters = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    return json.dumps({token: number for number, token in enumerate(letters)}).encode()


def publish_streaming_svd(server: Hub) -> None:
    server.publish(SVD, **{"model.safetensors": save(tensors("net", size=50_000)), "README.md": b"words"})
    unet = "unet/diffusion_pytorch_model"
    server.publish(
        SVD_XT,
        **{
            f"{unet}.fp16.safetensors": save({"half": torch.ones(8, dtype=torch.float16)}),
            f"{unet}.safetensors": save(tensors("whole")),
        },
    )
    files = {
        f"{unet}.fp16.safetensors": save(tensors("unet")),
        "vae/diffusion_pytorch_model.safetensors": save(tensors("vae")),
        "text_encoder/model-00001-of-00002.safetensors": save(tensors("text1")),
        "text_encoder/model-00002-of-00002.safetensors": save(tensors("text2")),
        "image_encoder/pytorch_model.bin": pickled(tensors("image")),
        "tokenizer/vocab.json": vocabulary(),
        "tokenizer/merges.txt": b"#version: 0.2\na b</w>\n",
    }
    server.publish(I2VGEN_XL, **files)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub that the library asks, with StreamingSVD on it; the library's cache is empty."""
    with Hub() as server:
        publish_streaming_svd(server)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def files_of(folder: Path) -> set[str]:
    """Everything but what an unfinished pull keeps for the next."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] != ".pull"}


def refused(folder: Path, *said: str) -> None:
    with pytest.raises(ExportError) as caught:
        pull_model("streaming-svd", folder)
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message


def pulled(folder: Path, **more: Any) -> PulledWeights:
    return pull_model("streaming-svd", folder, **more)


def test_pull(server: Hub, folder: Path) -> None:
    notes = Notes()
    result = pulled(folder, progress=notes)
    assert files_of(folder) == {*result.made, "pull.lock.json"}
    assert not (folder / ".pull").exists()
    weights = WeightFolder(folder)
    assert torch.equal(weights.read("streaming-svd")["net"], tensors("net", size=50_000)["net"])
    assert {key: tensor.dtype for key, tensor in weights.read("svd-xt/unet").items()} == {"half": torch.float32}
    names = ("unet", "vae", "text_encoder", "image_encoder")
    keys = [key for name in names for key in weights.read(f"i2vgen-xl/{name}")]
    assert keys == ["unet", "vae", "text1", "text2", "image"]
    tokenizer = Tokenizer.from_file(str(folder / "i2vgen-xl/tokenizer/tokenizer.json"))
    assert tokenizer.encode("ab b").tokens == ["<|startoftext|>", "ab</w>", "b</w>", "<|endoftext|>"]
    assert any("--vfi-weights" in line and "--no-interpolate" in line for line in notes.lines)


def test_lock_names_commit_and_hashes(server: Hub, folder: Path) -> None:
    pulled(folder)
    locked = json.loads((folder / "pull.lock.json").read_text())["repositories"]
    [(commit, files)] = server.repositories[SVD].items()
    data = files["model.safetensors"]
    expected = {"size": len(data), "sha256": sha256(data)}
    assert locked[SVD] == {"commit": commit, "files": {"model.safetensors": expected}}
    assert "git_blob" in locked[I2VGEN_XL]["files"]["tokenizer/merges.txt"]


def test_second_pull_has_nothing_to_do(server: Hub, folder: Path) -> None:
    pulled(folder)
    server.asked.clear()
    assert pulled(folder).made == ()
    assert len(server.asked) == 3
    assert not server.fetched


def test_cut_connection_is_taken_up_at_once(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.cut["model.safetensors"] = CUT
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: server.cut.clear())  # type: ignore[attr-defined]
    pulled(folder)
    assert server.fetched.count("model.safetensors") == 2


def test_interrupted_pull_goes_on(server: Hub, folder: Path) -> None:
    server.cut["model.safetensors"] = CUT
    refused(folder, SVD, "pull again", "goes on")
    assert files_of(folder) == {"pull.lock.json"}
    server.cut.clear()
    server.asked.clear()
    pulled(folder)
    [begin] = [reach for path, reach in server.asked if path.startswith("cdn") and path.endswith("model.safetensors")][
        :1
    ]
    assert 0 < int(begin.removeprefix("bytes=").rstrip("-")) <= CUT
    assert torch.equal(load_file(folder / MAIN)["net"], tensors("net", size=50_000)["net"])


def test_damaged_download_is_thrown_away(server: Hub, folder: Path) -> None:
    server.spoilt.add("model.safetensors")
    refused(folder, SVD, "damaged", "pull again")
    assert files_of(folder) == {"pull.lock.json"}
    assert not list(folder.rglob("*.part"))
    server.spoilt.clear()
    assert MAIN in pulled(folder).made


def test_damaged_file_is_brought_again(server: Hub, folder: Path) -> None:
    pulled(folder)
    spoilt = folder / "i2vgen-xl/image_encoder/pytorch_model.safetensors"
    for path in (folder / MAIN, spoilt):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert set(pulled(folder).made) == {MAIN, str(spoilt.relative_to(folder))}


@pytest.mark.parametrize(
    ("status", "said"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "HF_ENDPOINT"), (500, "later")]
)
def test_closed_repository(server: Hub, folder: Path, status: int, said: str) -> None:
    server.refused[SVD_XT] = status
    refused(folder, SVD_XT, str(status), said)
    assert not server.fetched


def test_missing_files(server: Hub, folder: Path) -> None:
    server.lost.add("model.safetensors")
    refused(folder, SVD, "404")
    server.repositories[SVD] = {}
    server.publish(SVD, **{"README.md": b"moved"})
    shutil.rmtree(folder)
    refused(folder, SVD, "no file like model", "newer stt2v")


def test_no_network(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(folder, "http://127.0.0.1:9", "network")


def test_full_disk_is_seen_before(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder.parent)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: usage._replace(free=200_000))
    refused(folder, "GiB", "--to")
    assert not server.fetched
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: usage._replace(free=300_000))
    pulled(folder)


def test_disk_that_fills_up(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **named: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(hub, "http_get", full)
        refused(folder, str(folder), "No space left", "free space")
    assert files_of(folder) == {"pull.lock.json"}
    pulled(folder)


def test_lock_outlives_a_new_commit(server: Hub, folder: Path) -> None:
    pulled(folder)
    server.publish(SVD, **{"model.safetensors": save(tensors("other"))})
    (folder / MAIN).unlink()
    notes = Notes()
    assert pulled(folder, progress=notes).made == (MAIN,)
    assert set(load_file(folder / MAIN)) == {"net"}
    assert any("moved on" in line and "pull.lock.json" in line for line in notes.lines)
    (folder / "pull.lock.json").unlink()
    assert MAIN in pulled(folder).made
    assert set(load_file(folder / MAIN)) == {"other"}


def test_changed_hash_at_the_same_commit_is_refused(server: Hub, folder: Path) -> None:
    pulled(folder)
    [files] = server.repositories[SVD].values()
    files["model.safetensors"] = save(tensors("other"))
    refused(folder, SVD, "same commit", "pull.lock.json")
    assert set(load_file(folder / MAIN)) == {"net"}


def test_offline(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled(folder)
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pulled(folder).made == ()
    (folder / MAIN).unlink()
    refused(folder, "HF_HUB_OFFLINE", SVD)
    (folder / "pull.lock.json").unlink()
    refused(folder, "HF_HUB_OFFLINE", str(constants.HF_HUB_CACHE))
    assert not server.asked


def fill_cache(server: Hub, cache: Path) -> None:
    """What the library's own downloads leave: blobs under their hashes, links to them for every commit."""
    for repository, commits in server.repositories.items():
        root = cache / f"models--{repository.replace('/', '--')}"
        for commit, files in commits.items():
            for part, name, data in (("blobs", sha256(data), data) for data in files.values()):
                (root / part).mkdir(parents=True, exist_ok=True)
                (root / part / name).write_bytes(data)
            for name, data in files.items():
                link = root / "snapshots" / commit / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(root / "blobs" / sha256(data))
            (root / "refs").mkdir(exist_ok=True)
            (root / "refs" / "main").write_text(commit)


def test_cache_is_linked_and_serves_offline(server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    fill_cache(server, cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pulled(folder)
    assert not server.asked
    [files] = server.repositories[SVD].values()
    blob = cache / "models--PAIR--StreamingSVD" / "blobs" / sha256(files["model.safetensors"])
    assert (folder / MAIN).samefile(blob)


def test_damaged_cache_is_not_trusted(server: Hub, folder: Path) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    fill_cache(server, cache)
    [files] = server.repositories[SVD].values()
    blob = cache / "models--PAIR--StreamingSVD" / "blobs" / sha256(files["model.safetensors"])
    blob.write_bytes(b"?" + blob.read_bytes()[1:])
    pulled(folder)
    assert server.fetched == ["model.safetensors"]


def test_a_stranger_among_the_shards_is_refused(server: Hub, folder: Path) -> None:
    stranger = folder / "svd-xt/unet/mine.safetensors"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(save(tensors("mine")))
    refused(folder, str(stranger), "move it away")
    assert stranger.exists()


def test_damaged_lock(server: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / "pull.lock.json").write_text('{"format": 1}')
    refused(folder, "pull.lock.json", "delete it")


def test_interpolator(server: Hub, folder: Path, tmp_path: Path) -> None:
    state = {f"module.{key}": torch.as_tensor(value) for key, value in random_weights(TOY, 0).items()}
    source = tmp_path / "ours.pkl"
    source.write_bytes(pickled({**state, "module.feature_bone.block4.0.attn_mask": torch.zeros(2)}))
    notes = Notes()
    assert "ema-vfi.safetensors" in pulled(folder, vfi_weights=source, progress=notes).made
    assert not notes.lines
    assert load_file(folder / "ema-vfi.safetensors").keys() > state.keys()
    assert pulled(folder, vfi_weights=source).made == ()


class Trap:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "state", [lambda trap: {"weight": Trap(trap)}, lambda trap: tensors("stranger"), lambda trap: 5]
)
def test_other_pickles_are_refused(server: Hub, folder: Path, tmp_path: Path, state: Callable[[Path], object]) -> None:
    trap, source = tmp_path / "trap", tmp_path / "ours.pkl"
    source.write_bytes(pickled(state(trap)))
    with pytest.raises(ExportError, match=r"checkpoint|published file"):
        pulled(folder, vfi_weights=source)
    assert not trap.exists()
    assert files_of(folder) == set()
    assert not server.asked


def test_missing_interpolator_file(server: Hub, folder: Path) -> None:
    with pytest.raises(InputError, match="--vfi-weights"):
        pulled(folder, vfi_weights=folder / "ours.pkl")


def test_streaming_t2v(server: Hub, folder: Path) -> None:
    shared = torch.arange(12.0)
    checkpoint = {"state_dict": {"unet.a": shared[:4], "base_model.b": shared, "vae.c": shared}, "epoch": 3}
    server.publish(T2V, **{"streaming_t2v.ckpt": pickled(checkpoint)})
    server.publish(
        MODELSCOPE,
        **{
            "unet/diffusion_pytorch_model.fp16.bin": pickled(tensors("unet")),
            "tokenizer/vocab.json": vocabulary(),
            "tokenizer/merges.txt": b"#version: 0.2\n",
        },
    )
    server.publish(
        VID2VID,
        **{
            "non_ema_0035000.pth": pickled({"state_dict": tensors("out.0.weight")}),
            "v2-1_512-ema-pruned.ckpt": pickled({"state_dict": tensors("first_stage_model.a", "model.b")}),
            "open_clip_pytorch_model.bin": pickled(tensors("ln_final.weight", "visual.proj")),
        },
    )
    pull_model("streaming-t2v", folder)
    weights = WeightFolder(folder)
    assert torch.equal(weights.read("streaming-t2v")["unet.a"], shared[:4])
    names = ("modelscope/unet", "vid2vid/unet", "vid2vid/autoencoder", "vid2vid/text_encoder")
    keys = [key for name in names for key in weights.read(name)]
    assert keys == ["unet", "out.0.weight", "first_stage_model.a", "ln_final.weight"]


@pytest.mark.parametrize(("model", "said"), [("tiny", "needs no pull"), ("huge", "expected one of")])
def test_models_without_weights(model: str, said: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=said):
        pull_model(model, folder)
    assert not folder.exists()


def test_command_takes_the_environment(server: Hub, tmp_path: Path) -> None:
    server.token = "hf_toy"
    settings = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "STT2V_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_toy",
    }
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        "pull",
        "streaming-svd",
    ]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    folder = tmp_path / "home" / "weights" / "streaming-svd"
    assert (done.returncode, done.stdout) == (0, f"{folder}: 8 files are new\n"), done.stderr
    assert (folder / MAIN).is_file()


def test_command_needs_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["pull", "streaming-svd"]) == 1
    assert "pip install 'stt2v[export]'" in capsys.readouterr().err


def test_build_engines_takes_what_was_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="run `stt2v pull streaming-svd`"):
        build_model.model_build("streaming-svd")
    folder = tmp_path / "weights" / "streaming-svd"
    folder.mkdir(parents=True)
    taken: list[object] = []
    monkeypatch.setattr(
        build_model, "recipe_for", lambda model, weights: taken.append(weights) or recipes.Recipe({}, {})
    )
    notes = Notes()
    build_model.model_build("streaming-svd", progress=notes)
    assert taken == [folder]
    assert any("--no-interpolate" in line for line in notes.lines)


def test_random_weights_lie_apart_and_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    monkeypatch.setattr(build_model, "recipe_for", lambda model, weights: recipes.Recipe({}, {}))
    made = build_model.model_build("streaming-svd", enhancer="none", random_weights=True)
    assert made.directory.name == "streaming-svd-1024x576-onnxruntime-cpu-fp32-noenhancer-random"
    assert made.builder.wanted.model["warning"] == "random weights: its frames are noise"


def test_recipe_of_a_folder_without_interpolator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = recipes.Recipe({}, {})
    monkeypatch.setattr(recipes, "FAMILIES", {"streaming-svd": lambda model, source: empty})
    model = replace(STREAMING_SVD, enhancing=None)
    assert recipes.recipe_for(model, tmp_path) == empty
    (tmp_path / "ema-vfi.safetensors").write_bytes(b"damaged")
    with pytest.raises(ExportError, match="stt2v pull"):
        recipes.recipe_for(model, tmp_path)
