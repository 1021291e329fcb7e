"""What all tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("stt2v", deadline=None)  # how long an example takes says more of the machine than of the code
settings.load_profile("stt2v")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that a test starts, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks of toy width spend their time in barriers between threads: one each, before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of the tests' own, so that they neither see nor touch what the user has."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STT2V_HOME", str(home))
        yield home


# The tests are of the processor, so that they are the same on every machine; `make test-gpu` names a card.
# Triton's kernels are interpreted then, which has to be known when they are defined.
if not os.environ.setdefault("CUDA_VISIBLE_DEVICES", ""):
    os.environ.setdefault("TRITON_INTERPRET", "1")
