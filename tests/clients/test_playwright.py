"""Playwright on a kept bridge: one real Chromium for all threads, driven by call after call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients.load import request_id, storm
from clients.servers import HttpServer, Unavailable, find_chromium
from harness import wait_for
from server.process import descendants

import sidecar

playwright: Any = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

THREADS = 4
PAGES = 3


class Browser:
    """Some pages, which callers take in turn."""

    def __init__(self, driver: Any, browser: Any, server: HttpServer) -> None:
        self.driver = driver
        self.browser = browser
        self.server = server
        self.pages: asyncio.Queue[Any] = asyncio.Queue()

    @classmethod
    async def launch(cls, server: HttpServer, executable: str, folder: Path) -> Browser:
        driver = await playwright.async_playwright().start()
        browser = await driver.chromium.launch(
            executable_path=executable,
            headless=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            env={**os.environ, "HOME": str(folder)},
            timeout=60_000,
            # Signals are the caller's business.
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )
        self = cls(driver, browser, server)
        for _ in range(PAGES):
            self.pages.put_nowait(await browser.new_page())
        return self

    async def visit(self, number: int) -> int:
        """Load a page, read it, and push its button."""
        page = await self.pages.get()
        try:
            await page.goto(f"{self.server.url}/page?name={number}")
            assert await page.title() == str(number)
            await page.click("button")
            assert await page.evaluate("document.querySelector('button').dataset.hits") == "1"
            return int(await page.inner_text("#name"))
        finally:
            self.pages.put_nowait(page)

    async def evaluate(self, number: int) -> int:
        page = await self.pages.get()
        try:
            said = await page.evaluate("async ([n, id]) => [n, id]", [number, request_id.get()])
        finally:
            self.pages.put_nowait(page)
        assert said[1] == request_id.get()
        answer: int = said[0]
        return answer

    async def hang(self, number: int) -> None:
        page = await self.pages.get()
        try:
            await page.wait_for_function("window.never", timeout=60_000)
        finally:
            self.pages.put_nowait(page)

    async def close(self) -> None:
        await self.browser.close()
        await self.driver.stop()


@contextmanager
def launched(bridge: sidecar.Sidecar, server: HttpServer, folder: Path) -> Iterator[Browser]:
    before = descendants(os.getpid())
    try:
        executable = find_chromium()
    except Unavailable as reason:
        pytest.skip(str(reason))
    browser = bridge.run_sync(Browser.launch(server, executable, folder), timeout=90)
    try:
        yield browser
    finally:
        bridge.run_sync(browser.close(), timeout=30)
    wait_for(lambda: descendants(os.getpid()) <= before, "no process of the browser is left")


def browsers() -> list[int]:
    """The main processes of Chromium that come from this one; it starts all its others with a --type."""

    def is_main(pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # one of its others, which has just ended
            return False
        return b"--headless" in words and not any(word.startswith(b"--type=") for word in words)

    return [pid for pid in descendants(os.getpid()) if is_main(pid)]


def test_a_browser_is_kept(bridge: sidecar.Sidecar, http_server: HttpServer, tmp_path: Path) -> None:
    with launched(bridge, http_server, tmp_path) as browser:
        before = browsers()
        assert len(before) == 1
        storm(bridge, browser.evaluate, calls=40, threads=THREADS)
        storm(bridge, browser.visit, calls=4, threads=THREADS, alone=4)
        hanging: dict[str, Any] = {"impatient": browser.hang, "timeout": 0.5, "every": 10}
        storm(bridge, browser.evaluate, calls=20, threads=THREADS, **hanging)
        assert browser.browser.is_connected()
        assert browsers() == before
        assert len(browser.browser.contexts) == PAGES
