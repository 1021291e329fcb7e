import os
import stat
from pathlib import Path

import pytest

from stt2v.engine import machine
from stt2v.engine.duration import in_time
from stt2v.engine.machine import Card, cards, free_disk, host_memory, processors
from stt2v.engine.size import in_words


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo 'Card A, 24564, 580.1, 8.9'; echo 'Card B, 16376, 580.1, 12.0'", monkeypatch)
    assert cards() == (Card("Card A", 24564 << 20, "580.1", "sm_89"), Card("Card B", 16376 << 20, "580.1", "sm_120"))


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "echo 'Card, [N/A], 1, 8.9'"])
def test_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    nvidia_smi(tmp_path, script, monkeypatch)
    with pytest.raises(OSError, match="mend the NVIDIA driver"):
        cards()


def test_no_driver_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards() == ()


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = host_memory()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    limit.write_text("max\n")
    assert host_memory() >= whole
    limit.write_text("4096000\n")
    assert host_memory() == 4096000


@pytest.mark.parametrize(
    ("share", "count"),
    [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("900000 100000", 8), ("", 8)],
)
def test_processors_of_a_container(share: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(machine, "CGROUP_SHARE", tmp_path / "cpu.max")
    assert processors() == 8
    (tmp_path / "cpu.max").write_text(f"{share}\n")
    assert processors() == count


def test_free_disk_of_what_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "not" / "there") == pytest.approx(free_disk(tmp_path), rel=0.5)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "0.976 KiB"),
        (1 << 20, "1 MiB"),
        (18.25 * 2**20, "18.2 MiB"),
        (2**44, "16 TiB"),
        (2**52, "4 PiB"),
    ],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert in_words(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (390, "6 min 30 s"), (7500, "2 h 5 min")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
