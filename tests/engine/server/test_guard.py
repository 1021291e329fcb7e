"""Who is let in."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from serving import Served, serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stt2v.engine.errors import UsageError
from stt2v.engine.server.guard import COOKIE, HEADERS, Guard, cookie_of, is_loopback
from stt2v.engine.server.serving import listening
from stt2v.engine.server.studio import opened_studio

TOKEN = "0123456789abcdef"


def client(token: str | None, host: str = "localhost:8000") -> TestClient:
    """A client of a guard before two routes that let everybody in."""
    routes = [Route(path, lambda request: PlainTextResponse("in"), methods=["GET", "POST"]) for path in ("/", "/api")]
    guard = Guard(Starlette(routes=routes), token, 100, lambda method, route, status: None)
    return TestClient(guard, f"http://{host}")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("10.0.0.1", 421),
        ("localhost@evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_this_machine_is_answered(host: str, status: int) -> None:
    """A page can have its own name lead to 127.0.0.1, and then counts as the same site."""
    assert client(None).get("/api", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/api", {"Origin": "http://localhost:8000"}, 200),
        ("POST", "/api", {"Origin": "http://localhost:3000"}, 403),
        ("POST", "/api", {"Origin": "https://evil.example"}, 403),
        ("POST", "/api", {"Origin": "null"}, 403),
        ("POST", "/api", {"Origin": ""}, 403),
        ("POST", "/api", {"Origin": "http://["}, 403),
        ("GET", "/api", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", "/api", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("GET", "/api", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("GET", "/api", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
def test_pages_of_other_sites_may_only_lead_to_ours(
    method: str, path: str, headers: dict[str, str], status: int
) -> None:
    for token in (None, TOKEN):
        proof = {"Authorization": f"Bearer {token}"} if token else {}
        answer = client(token).request(method, path, headers={**headers, **proof})
        assert answer.status_code == status
        assert dict(answer.headers).items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer  {TOKEN}"}, 200),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer \udcff"}, 401),
        ({"Cookie": f"{COOKIE}={cookie_of(TOKEN)}"}, 200),
        ({"Cookie": f"{COOKIE}={TOKEN}"}, 401),
    ],
)
def test_a_token_has_to_be_known(headers: dict[str, str], status: int) -> None:
    sent = {name: value.encode("latin-1", "replace") for name, value in headers.items()}
    answer = client(TOKEN, "video.example").get("/api", headers=sent)
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert client(TOKEN, "video.example").get("/").status_code == 200  # which tells nothing


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    assert client(None).post("/api", content=b"x" * 100).status_code == 200
    assert client(None).post("/api", content=b"x" * 101).status_code == 413


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, "set STT2V_TOKEN"),
        ("::", None, "set STT2V_TOKEN"),
        ("video.example", None, "set STT2V_TOKEN"),
        ("127.0.0.1", "short", "5 letters"),
        ("203.0.113.1", TOKEN, "cannot be listened at"),
    ],
)
def test_where_no_server_starts(host: str, token: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words), listening(host, 0, token):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), token=TOKEN) as server:
        yield server


def test_a_browser_logs_in(served: Served) -> None:
    with httpx2.Client(base_url=served.address) as browser:
        assert browser.get("/").status_code == 200
        assert browser.get("/healthz").status_code == 200
        for path in ("/v1/videos", "/v1/models", "/v1/events", "/metrics", "/openapi.json", "/nothing"):
            assert browser.get(path).status_code == 401
        assert browser.post("/login", json={"token": TOKEN[1:]}).status_code == 401
        assert browser.get("/v1/videos").status_code == 401
        answer = browser.post("/login", json={"token": TOKEN})
        assert answer.status_code == 204
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
        assert TOKEN not in answer.headers["set-cookie"]
        assert browser.get("/v1/videos").status_code == 200


def test_what_others_download_does_not_tell_where_it_was_made(served: Served) -> None:
    name = served.ended(served.create(prompt="a cat")["id"])["id"]
    data = served.client.get(f"/v1/videos/{name}/content").content
    assert str(Path.home()).encode() not in data
    assert b"a cat" not in data


def test_one_server_has_a_folder(served: Served) -> None:
    with pytest.raises(UsageError, match="another server"), opened_studio(served.studio.config):
        pass
