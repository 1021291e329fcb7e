"""The most host memory that a video takes, which is the same for any number of frames."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPT = """
import resource, sys
from stt2v.cli import main
assert main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
LARGEST_PEAK = 560  # MiB: libraries (130), in 720p what x264 holds (220), frames that wait for it and are made

# glibc otherwise keeps freed arrays by rules of its own, which moves the peak by some percent from run to run.
PLAIN = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


def frame_path(num_frames: int, output: Path) -> int:
    command = [sys.executable, str(TESTS / "frame_path.py"), str(num_frames), str(output)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=PLAIN).stdout)


@pytest.mark.slow
def test_1200_frames_of_720p_take_no_more_than_stated(tmp_path: Path) -> None:
    peak = frame_path(1200, tmp_path / "out.mp4")
    assert peak < LARGEST_PEAK
    assert peak < 1.05 * frame_path(300, tmp_path / "short.mp4")


@pytest.mark.slow
def test_the_peak_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    peaks = []
    for num_frames in (240, 480, 960):
        words = [
            "generate",
            "--model",
            "tiny",
            "--image",
            TESTS / "data" / "landscape.jpg",
            "--steps",
            1,
            "--num-frames",
            num_frames,
        ]
        command = [sys.executable, "-c", SCRIPT, *words, "-o", tmp_path / "out.mp4", "--run-dir", tmp_path / "runs"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, env=PLAIN)
        peaks.append(int(re.findall(r"^peak (\d+)$", done.stdout, re.MULTILINE)[0]))
    assert max(peaks) < 1.05 * min(peaks), peaks
