"""The page and its parts, read once: no request ever chooses a file."""

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
PARTS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def page_router() -> APIRouter:
    """The routes of the page."""
    router = APIRouter(include_in_schema=False)
    for route, (file, kind) in PARTS.items():
        router.get(route)(_answer((PAGE / file).read_bytes(), kind))
    return router


def _answer(content: bytes, kind: str) -> Callable[[], Response]:
    def part() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return part
