"""A server on a free port of this machine, and sessions that cost nothing."""

import asyncio
import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from stt2v.engine.backends.base import Array
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.progress import Progress
from stt2v.engine.server.serving import Server, listening, serve
from stt2v.engine.server.studio import Config, Studio
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec
from stt2v.engine.store import SHIPPED

PATIENCE = 180  # seconds: how long things take says more of the machine than of the code
SMALL = {"model": "mini", "size": "64x64", "seconds": 0.25}  # four frames of one chunk


def fake_session(model: str, enhancer: str | None, progress: Progress) -> Session:
    """A session whose frames come from cheap arithmetic, and depend on prompt, picture and seed."""
    return _session(model, waves)


def slow_session(model: str, enhancer: str | None, progress: Progress) -> Session:
    """The same, of which a video takes a while."""
    return _session(model, _slowly)


def deadly_session(model: str, enhancer: str | None, progress: Progress) -> Session:
    """A session whose engines kill their process."""
    return _session(model, _deadly)


def waves(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    """Waves whose phase depends on every bit of what comes in."""
    phase = 0
    for array in inputs.values():
        phase = zlib.crc32(np.ascontiguousarray(array), phase)
    return {each.name: np.sin(_ramp(each.shape) + np.float32(phase / 2**32 * 6.28)) for each in spec.outputs}


@cache
def _ramp(shape: tuple[int, ...]) -> Array:
    return np.linspace(0, 20, math.prod(shape), dtype=np.float32).reshape(shape)


def _session(model: str, function: Callable[[EngineSpec, HostArrays], HostArrays]) -> Session:
    with EngineSet.open(SHIPPED / model) as shipped:
        specs = [entry.spec for entry in shipped.manifest.engines]
        return Session(shipped.model, {spec.name: FakeEngine(spec, function) for spec in specs}, shipped.tokenizers)


def _slowly(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    time.sleep(0.03)
    return waves(spec, inputs)


def _deadly(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@dataclass
class Served:
    """A server that runs, and a client of it."""

    client: httpx2.Client
    studio: Studio
    address: str

    def create(self, **asked: Any) -> dict[str, Any]:
        """Ask for a small video; returns it as it is answered."""
        answer = self.client.post("/v1/videos", json={**SMALL, **asked})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, name: str, within: float = PATIENCE) -> dict[str, Any]:
        """Wait until a video has ended."""
        return self.until(name, lambda video: video["status"] in ("completed", "failed"), within)

    def until(self, name: str, wanted: Callable[[dict[str, Any]], bool], within: float = PATIENCE) -> dict[str, Any]:
        """Wait until a video is as wanted."""
        end = time.monotonic() + within
        while not wanted(video := self.client.get(f"/v1/videos/{name}").json()):
            assert time.monotonic() < end, video
            time.sleep(0.02)
        return video


@contextmanager
def serving(folder: Path, **how: Any) -> Iterator[Served]:
    """A server in a thread of this process, whose workers are processes as ever."""
    config = Config(**{"folder": folder, "open_session": fake_session, "models": ("mini",), **how})
    servers: list[Server] = []
    ready = threading.Event()

    def begun(server: Server) -> None:
        servers.append(server)
        ready.set()

    with listening("127.0.0.1", 0, config.token) as (listener, address):
        thread = threading.Thread(target=lambda: asyncio.run(serve(config, listener, begun)))
        thread.start()
        assert ready.wait(PATIENCE)
        headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
        try:
            with httpx2.Client(base_url=address, headers=headers, timeout=PATIENCE) as client:
                yield Served(client, servers[0].studio, address)
        finally:
            servers[0].handle_exit(signal.SIGTERM, None)
            thread.join(PATIENCE)
            assert not thread.is_alive()
