"""The HTTP server: where it listens, and how it starts and stops."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from stt2v.engine.errors import StoppedError, UsageError
from stt2v.engine.server.app import create_app
from stt2v.engine.server.guard import is_loopback
from stt2v.engine.server.studio import Config, Studio, opened_studio

SHORTEST_TOKEN = 16  # letters
GRACE = 5  # seconds that requests have to end when the server stops


@contextmanager
def listening(host: str, port: int, token: str | None) -> Iterator[tuple[socket.socket, str]]:
    """A socket at that address, and the address as browsers write it.

    Raises UsageError for an address that others reach without a token, and for one that cannot be had.
    """
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"the token has {len(token)} letters, expected {SHORTEST_TOKEN} or more; try `openssl rand -hex 16`"
        )
    if token is None and not is_loopback(host):
        raise UsageError(f"host is {host}, which others may reach; set STT2V_TOKEN to a secret, or leave --host out")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened at ({error.strerror}); choose another --port") from error
    with listener:
        name = f"[{host}]" if ":" in host else host
        yield listener, f"http://{name}:{listener.getsockname()[1]}"


def run(config: Config, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes; `ready` is called once requests are answered.

    Raises StoppedError where videos are left that the next start goes on with, UsageError where it cannot start.
    """
    studios: list[Studio] = []

    def begun(server: Server) -> None:
        studios.append(server.studio)
        ready()

    with suppress(KeyboardInterrupt, SystemExit):  # how uvicorn passes the signal on, after it has closed
        asyncio.run(serve(config, listener, begun))
    if left := sum(studio.left for studio in studios):
        raise StoppedError(f"videos left to make: {left}; `stt2v serve` with the same --data goes on with them")


async def serve(config: Config, listener: socket.socket, ready: Callable[["Server"], None]) -> None:
    """Serve until `Server.handle_exit`."""
    with opened_studio(config) as studio:
        await Server(studio, ready).serve([listener])


class Server(uvicorn.Server):
    """Answers requests until it is told to stop, and then ends streams, which have no end of their own."""

    def __init__(self, studio: Studio, ready: Callable[["Server"], None]) -> None:
        app = create_app(studio)
        super().__init__(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=GRACE))
        self.studio, self._ready = studio, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready(self)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.studio.board.close()
        super().handle_exit(sig, frame)
