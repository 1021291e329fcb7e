"""The server as an ASGI application."""

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from stt2v import __version__
from stt2v.engine.errors import Stt2vError
from stt2v.engine.server import site, streams, videos
from stt2v.engine.server.guard import Guard
from stt2v.engine.server.page import page_router
from stt2v.engine.server.schemas import refusals
from stt2v.engine.server.studio import Studio
from stt2v.engine.server.video_queue import QueueFullError


def create_app(studio: Studio) -> FastAPI:
    """The application around a studio that is open, which routes find as `app.state.studio`."""
    config = studio.config
    app = FastAPI(
        title="stt2v",
        version=__version__,
        responses=refusals(401, 403, 421) if config.token else refusals(403, 421),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.studio = studio
    for router in (videos.router, streams.router, site.router, page_router()):
        app.include_router(router)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Stt2vError, _impossible)
    app.add_middleware(Guard, token=config.token, upload=config.upload, count=studio.metrics.count)
    return app


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _answer(error.status_code, error.detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Name every field that is wrong, without what it held."""
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in error.errors())
    return _answer(422, "; ".join(faults))


async def _impossible(request: Request, error: Exception) -> JSONResponse:
    studio: Studio = request.app.state.studio
    if isinstance(error, QueueFullError):
        studio.metrics.refused.inc()
        return _answer(429, str(error), {"Retry-After": str(studio.seconds_to_a_place())})
    assert isinstance(error, Stt2vError)
    return _answer(400 if error.exit_code == 2 else 500, str(error))
