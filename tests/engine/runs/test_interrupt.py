"""What Ctrl-C and SIGTERM do to a run, once and twice."""

import os
import signal

import pytest

from stt2v.engine.errors import StoppedError
from stt2v.engine.progress import Silent
from stt2v.engine.runs.interrupt import WORDS, Interrupt, StopEarly
from stt2v.engine.runs.record import VIDEO

CHUNK, OTHER = "chunk-0003.safetensors", "96-frames/segment-0000.mp4"


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_ends_the_video_after_the_chunk(number: int) -> None:
    interrupt, progress = Interrupt("finish"), Notes()
    watched = interrupt.watched(progress)
    with interrupt.listening():
        interrupt.on_unit(CHUNK)
        watched.advance("generate")
        send(number)
        interrupt.on_unit(OTHER)
        with pytest.raises(StopEarly):
            interrupt.on_unit(CHUNK)
        interrupt.on_unit(CHUNK)  # one more that the enhancer's window needs
    watched.advance("generate")
    watched.advance("generate")
    assert progress.notes == [WORDS["finish"]]


def test_once_may_save_only() -> None:
    interrupt = Interrupt("save")
    with interrupt.listening():
        interrupt.check()
        send(signal.SIGTERM)
        interrupt.on_unit(VIDEO)  # there is nothing left to save
        with pytest.raises(StoppedError):
            interrupt.on_unit(OTHER)
        with pytest.raises(StoppedError):
            interrupt.check()


def test_twice_does_what_once_did_before() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with Interrupt("finish").listening():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == handler
