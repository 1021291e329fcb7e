"""What Prometheus is told of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from stt2v.engine.server.ticket import Ticket
from stt2v.engine.server.video_queue import VideoQueue

BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)  # seconds


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, queue: VideoQueue) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter("stt2v_requests", "Answered requests", ["method", "route", "code"], registry=own)
        self.refused = Counter("stt2v_refused_videos", "Videos refused because the queue was full", registry=own)
        self.deaths = Counter("stt2v_worker_deaths", "Workers that died of a video", registry=own)
        self._ended = Counter("stt2v_videos", "Videos that ended", ["model", "status"], registry=own)
        self._frames = Counter("stt2v_frames", "Frames of completed videos", ["model"], registry=own)
        self._seconds = Histogram("stt2v_video_seconds", "From begin to end", ["model"], buckets=BUCKETS, registry=own)
        now = Gauge("stt2v_videos_now", "Videos by state", ["status"], registry=own)
        now.labels("queued").set_function(lambda: queue.count("queued"))
        now.labels("in_progress").set_function(lambda: queue.count("in_progress"))

    def count(self, method: str, route: str | None, status: int) -> None:
        """Count an answer. What strangers make up is no label."""
        self._requests.labels(method if route else "any", route or "none", str(status)).inc()

    def ended(self, ticket: Ticket) -> None:
        """Count a video that is completed or failed."""
        self._ended.labels(ticket.model, ticket.status).inc()
        if ticket.started and ticket.ended:
            self._seconds.labels(ticket.model).observe(ticket.ended - ticket.started)
        if ticket.status == "completed":
            self._frames.labels(ticket.model).inc(ticket.num_frames)

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)
