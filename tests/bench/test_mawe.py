"""The metric of a video file, from file to table."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stt2v import cli
from stt2v.bench.mawe import MaweReport, measure
from stt2v.engine.errors import ExportError, InputError, UsageError
from stt2v.engine.media.video import VideoWriter
from stt2v.engine.metrics import Mawe, PairFigures
from stt2v.engine.progress import Silent

RAFT = """
import torch

class Weights:
    url = "https://example.org/raft-fake.pth"
    def transforms(self):
        return lambda *pair: tuple(picture.float() / 127.5 - 1 for picture in pair)
    def get_state_dict(self, progress, check_hash, weights_only):
        assert check_hash and weights_only
        return {"shift": torch.tensor([2.0, -1.0])}

class Raft_Large_Weights:
    DEFAULT = Weights()

class Raft(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(2))
    def forward(self, first, second):
        assert first.shape == second.shape == (1, 3, 720, 720) and -1 <= first.min() and first.max() <= 1
        coarse = torch.zeros(1, 2, 720, 720)
        return [coarse, coarse + self.shift[None, :, None, None]]

def raft_large():
    return Raft()
"""


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is installed here, torchvision is not found unless a test makes one up."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    yield
    for name in [name for name in sys.modules if name.startswith("torchvision") or name == "stt2v.bench.raft"]:
        del sys.modules[name]


@pytest.fixture
def raft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torchvision whose flow is 2 pixels to the right and 1 up everywhere; returns the folder of its weights."""
    torch = pytest.importorskip("torch")
    package = tmp_path / "library" / "torchvision"
    (package / "models").mkdir(parents=True)
    for path in (package, package / "models"):
        (path / "__init__.py").touch()
    (package / "models" / "optical_flow.py").write_text(RAFT)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


def video(path: Path, shifts: list[int]) -> Path:
    """A texture on 96x64, moved along by `shifts` pixels to the right."""
    y, x = np.mgrid[:64, :96]
    picture = (127 + 60 * np.stack([np.sin(x / 5), np.sin(y / 6), np.sin((x + y) / 7)], axis=-1)).astype(np.uint8)
    with VideoWriter(path, 96, 64, 8, {}) as writer:
        writer.write(np.stack([np.roll(picture, shift, axis=1) for shift in shifts]))
    return path


def test_table_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = video(tmp_path / "moving.mp4", [0, 1, 2])
    assert cli.main(["mawe", str(path), "--json", "--coeff", "5"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["flow"], said["frames"], said["coefficient"], said["note"]) == ("lucas-kanade", 3, 5.0, "")
    assert [pair["frame"] for pair in said["pairs"]] == [0, 1]
    assert said["mawe"] == pytest.approx(np.mean([pair["mawe"] for pair in said["pairs"]]))
    assert said["pairs"][0]["mawe"] == pytest.approx(said["pairs"][0]["warp_error"] / (5 * said["pairs"][0]["motion"]))
    assert said["pairs"][0]["motion"] == pytest.approx(720 / 96, rel=0.2)


def test_words_name_the_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = video(tmp_path / "moving.mp4", [0, 1])
    assert cli.main(["mawe", str(path), "--flow", "classical"]) == 0
    out = capsys.readouterr().out
    assert "2 frames, flow by lucas-kanade, coefficient 9.5" in out
    assert "RAFT" in out.splitlines()[-1]


def test_a_still_has_no_value(tmp_path: Path) -> None:
    report = measure(video(tmp_path / "still.mp4", [0, 0]), "classical", 9.5, Silent())
    assert math.isnan(report.result.value)
    assert "the value is nan" in report.lines()[1]
    assert report.to_json()["mawe"] == "nan"


@pytest.mark.parametrize(
    ("pair", "shown"),
    [(PairFigures(0, 0, 1), "nan"), (PairFigures(3, 0, 1), "inf"), (PairFigures(0, 5, 0), 0.0)],
)
def test_odd_values_are_json(pair: PairFigures, shown: object) -> None:
    value = float(shown) if isinstance(shown, str) else 0.0
    report = MaweReport(Path("a.mp4"), "raft-large", 9.5, Mawe(value, (pair,), "the reason"))
    table = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (table["mawe"], table["pairs"][0]["mawe"], table["note"]) == (shown, shown, "the reason")
    assert report.lines()[1:] == ["the reason"]


def test_raft_is_taken_where_its_weights_are(tmp_path: Path, raft: Path) -> None:
    path = video(tmp_path / "moving.mp4", [0, 1])
    assert measure(path, None, 9.5, Silent()).flow == "lucas-kanade"
    (raft / "raft-fake.pth").touch()
    report = measure(path, None, 9.5, Silent())
    assert report.flow == "raft-large"
    assert report.result.pairs[0].motion == pytest.approx(math.hypot(2, 1))
    assert report.result.pairs[0].known == pytest.approx(718 * 719 / 720**2)


def test_raft_without_library_or_weights(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = video(tmp_path / "moving.mp4", [0, 1])
    with pytest.raises(ExportError, match="raft"):
        measure(path, "raft", 9.5, Silent())
    request.getfixturevalue("raft")
    from stt2v.bench.raft import WEIGHTS

    def fail(**options: bool) -> None:
        raise OSError("no network")

    WEIGHTS.get_state_dict = fail
    with pytest.raises(ExportError, match="no network"):
        measure(path, "raft", 9.5, Silent())


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    whole = video(tmp_path / "whole.mp4", [0, 1, 2]).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    for name in ("text.mp4", "half.mp4", "gone.mp4", "."):
        with pytest.raises(InputError) as caught:
            measure(tmp_path / name, "classical", 9.5, Silent())
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="fewer than 2"):
        measure(video(tmp_path / "one.mp4", [0]), "classical", 9.5, Silent())
    with pytest.raises(UsageError, match="coefficient"):
        measure(tmp_path / "whole.mp4", "classical", 0.0, Silent())
