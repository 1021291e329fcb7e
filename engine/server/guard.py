"""What stands before every route: which hosts and pages may ask, who must know the token, how much may be sent."""

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stt2v.engine.server.page import PARTS

Count = Callable[[str, str | None, int], None]
"""Is told of each answer: the method, the route where there is one, and the status."""

COOKIE = "stt2v"
OPEN = {*PARTS, "/login", "/healthz"}
"""Paths that need no token: they tell nothing but that there is a server."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:;"
        " connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

CLOSING = {"Connection": "close"}  # or else the rest of a body that is too large would still be received


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can come by this name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def cookie_of(token: str) -> str:
    """What a browser shows in place of the token, which does not lead back to it."""
    return hmac.new(token.encode(), b"stt2v cookie", hashlib.sha256).hexdigest()


def is_same(given: str, expected: str) -> bool:
    """Compare secrets in a time that does not tell how far they are the same."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


class Refused(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.response = JSONResponse({"error": {"code": code, "message": message}}, status)
        self.response.headers.update({401: {"WWW-Authenticate": "Bearer"}, 413: CLOSING}.get(status, {}))


class Guard:
    """An ASGI application around another one. Without a `token`, only this machine is answered."""

    def __init__(self, app: ASGIApp, token: str | None, upload: int, count: Count) -> None:
        self._app, self._token, self._upload, self._count = app, token, upload, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(scope, send, self._count)
        try:
            self._check(Request(scope))
        except Refused as refused:
            await refused.response(scope, receive, sending)
            return
        await self._app(scope, _Receiving(receive, self._upload), sending)

    def _check(self, request: Request) -> None:
        """Raise Refused."""
        host = request.headers.get("host", "")
        if self._token is None and not is_loopback(_name(host)):
            raise Refused(421, "wrong_host", f"host is {host!r}, expected this machine's own name, such as localhost")
        self._check_site(request, host)
        if self._token and request.url.path not in OPEN and not any(self._proofs(request, self._token)):
            raise Refused(401, "no_token", "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._upload:
            raise Refused(413, "too_large", too_large(self._upload))

    def _check_site(self, request: Request, host: str) -> None:
        """Browsers say which page asks. That of another site may be followed to the page, but not use the API."""
        origin = request.headers.get("origin")
        foreign = origin is not None and _place(origin) != host.lower()
        site = request.headers.get("sec-fetch-site", "none")
        visit = (
            request.method == "GET" and request.url.path == "/" and request.headers.get("sec-fetch-mode") == "navigate"
        )
        if foreign or (site not in ("none", "same-origin") and not visit):
            raise Refused(
                403, "other_site", "the request comes from a page of another site, which may not use this API"
            )

    def _proofs(self, request: Request, token: str) -> Iterator[bool]:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        yield scheme.lower() == "bearer" and is_same(given.strip(), token)
        yield is_same(request.cookies.get(COOKIE, ""), cookie_of(token))


def too_large(limit: int) -> str:
    """What is said of a body that is."""
    return f"the request has more than {limit:,} bytes, at most that many are taken; send a smaller picture"


class _Receiving:
    """Takes in a body up to a limit, whatever length was announced."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left, self._limit = receive, limit, limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, too_large(self._limit), CLOSING)
        return message


class _Sending:
    """Adds what browsers are told of every response, and counts it."""

    def __init__(self, scope: Scope, send: Send, count: Count) -> None:
        self._scope, self._send, self._count = scope, send, count

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            self._count(self._scope["method"], getattr(self._scope.get("route"), "path", None), message["status"])
        await self._send(message)


def _place(origin: str) -> str | None:
    """The `host:port` of an origin; None for one that has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """The host of `host:port`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
