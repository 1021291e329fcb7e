"""The page, from end to end in a browser."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import PATIENCE, Served, serving, slow_session

from stt2v.engine.server.worker import open_session

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; make dev")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here; apt-get install chromium")

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"
PLAYS = "() => { const video = document.querySelector('#screen video'); return video && video.currentTime > 0.1 }"
WHOLE = "() => document.querySelector('#screen video')?.src.includes('/content') && document.querySelector('.strip')"
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "server", open_session=slow_session) as server:
        yield server


class Page:
    """A page that must not fail, nor ask anybody else for anything."""

    def __init__(self, browser: Any, address: str, **how: Any) -> None:
        self.page = browser.new_page(**how)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else self.faults.append(asked.url),
        )
        self.page.goto(address)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.page.close()
        assert kind or not self.faults

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name).first.click()

    def until(self, told: str, within: float = PATIENCE) -> None:
        """Wait until JavaScript says so. The page's policy forbids playwright's own way to wait for that."""
        end = time.monotonic() + within
        while not self.page.evaluate(told):
            assert time.monotonic() < end, f"{told}\n{self.page.inner_text('body')}"
            self.page.wait_for_timeout(100)

    def until_text(self, selector: str, words: str) -> None:
        self.until(f"() => document.querySelector({selector!r})?.textContent.includes({words!r})")


def test_two_clicks_to_a_playing_video_and_another_take(browser: Any, served: Served) -> None:
    with Page(browser, served.address) as page:
        page.until_text("#plan", "4 chunks, 80 steps")
        page.click("fox")
        page.click("Make video")
        page.until(PLAYS)  # while it is made
        assert page.page.locator("#about progress").count() == 1
        page.until_text("#about small", "left")
        page.until(WHOLE)
        page.until(PLAYS)
        (video,) = served.client.get("/v1/videos").json()["data"]
        assert (video["prompt"], video["num_frames"]) == ("a fox circling around at night", 80)

        page.page.get_by_role("radio").first.focus()
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press("ArrowRight")
        page.until_text(".take button", "Take from chunk 2")
        page.page.get_by_label("Prompt of the take").fill("a fox at sunset")
        page.click("Take from chunk 2")
        page.until_text("#about h2", "a fox at sunset")
        page.until(WHOLE)
        take = served.client.get("/v1/videos").json()["data"][0]
        assert (take["remixed_from_video_id"], take["from_chunk"]) == (video["id"], 2)
        assert take["seed"] != video["seed"]

        page.click("Again with another seed")
        page.until("() => document.querySelectorAll('.card').length === 3")
        page.click("Stop")
        page.click("Stop for good?")
        page.until("() => document.querySelectorAll('.card').length === 2")


def test_it_works_by_keyboard_and_with_a_picture(browser: Any, served: Served) -> None:
    with Page(browser, served.address, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        page.until_text("#plan", "4 chunks")
        page.page.keyboard.press("/")
        page.page.keyboard.press("Control+A")
        page.page.keyboard.press("Delete")
        page.until_text("#plan", "Write what the video shows")
        assert page.page.locator("#make").is_disabled()
        page.page.set_input_files("#file", PICTURE)
        page.until("() => !document.querySelector('#shown').hidden")
        page.page.keyboard.type("<b>a landscape</b>")
        page.page.select_option("#size", "64x64")
        page.page.fill("#seed", "7")
        page.page.focus("#seconds")
        page.page.keyboard.press("Home")
        page.until_text("#length", "1 s · 16 frames")
        page.page.keyboard.press("Control+Enter")
        page.until(WHOLE)
        (video,) = served.client.get("/v1/videos").json()["data"]
        assert (video["prompt"], video["picture"], video["seed"]) == ("<b>a landscape</b>", True, 7)
        assert (video["size"], video["num_frames"]) == ("64x64", 16)
        assert page.page.locator("#about h2").inner_text() == "<b>a landscape</b>"
        wide, there = page.page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= there
        assert page.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(21, 20, 18)"


def test_what_is_wrong_is_said(browser: Any, served: Served, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    with Page(browser, served.address) as page:
        page.page.set_input_files("#file", tmp_path / "no.png")
        page.click("Make video")
        page.until_text("#wrong", "cannot be read")
        page.faults.clear()  # the browser tells of the answer 400
        page.click("Without the picture")
        page.page.fill("#prompt", "a; 0: b; 9000: c")
        page.until_text("#wrong", "begins at frame 9000")
        page.faults.clear()


def test_a_token_is_asked_for_once(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "server", token=TOKEN) as served, Page(browser, served.address) as page:
        page.page.locator("#token").fill("wrong")
        page.click("Enter")
        page.until_text("#refused", "the token is wrong")
        page.page.locator("#token").fill(TOKEN)
        page.click("Enter")
        page.until_text("#plan", "chunks")
        page.page.reload()
        page.until_text("#plan", "chunks")
        page.faults.clear()  # the browser tells of the answers 401


@pytest.mark.slow
def test_mini_from_the_empty_page(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=open_session) as served, Page(browser, served.address) as page:
        page.click("panda")
        page.click("Make video")
        page.until(PLAYS, within=300)
        page.until(WHOLE, within=900)
        page.until(PLAYS)
