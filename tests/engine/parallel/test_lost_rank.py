"""A process of a group that ends costs no frame."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from stt2v import cli
from stt2v.engine.media.read import read_frames
from stt2v.engine.parallel.group import Outputs
from stt2v.engine.parallel.processes import Processes

pytest.importorskip("torch")

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"
WORDS = ("generate", "--model", "tiny", "--image", str(PICTURE), "--steps", "1", "--num-frames", "26", "--no-enhance")


def test_a_rank_that_dies_ends_the_run_and_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    answered = 0
    answer = Processes._answer

    def killed(self: Processes, member: object) -> Outputs:
        nonlocal answered
        answered += 1
        if answered == 7:
            os.kill(self._members[0].process.pid, signal.SIGKILL)
        return answer(self, member)

    monkeypatch.setattr(Processes, "_answer", killed)
    assert cli.main([*WORDS, "--gpus", "2"]) == 3
    said = capsys.readouterr().err
    assert re.search(r"error: rank 1 of 2 was killed by SIGKILL", said)
    assert re.search("generate --resume=.*out.mp4", said)
    assert cli.main(["generate", "--resume", "out.mp4"]) == 0
    assert cli.main([*WORDS, "-o", "whole.mp4"]) == 0
    one, other = (np.stack(list(read_frames(tmp_path / name))) for name in ("out.mp4", "whole.mp4"))
    np.testing.assert_array_equal(one, other)
