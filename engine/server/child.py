"""What every process does that a server starts: it leaves signals to the server, and ends with it."""

import os
import signal
import threading
from multiprocessing import connection, parent_process


def follow_server() -> None:
    """To be called by the process, at its begin, in its main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):  # terminals and service managers send them to all processes,
        signal.signal(number, signal.SIG_IGN)  # and the server tells its own what follows from them
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    """Leave at once when the server is gone, because the next one takes the runs over."""
    server = parent_process()
    assert server is not None
    connection.wait([server.sentinel])
    os._exit(1)
