"""A real browser, and pages in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pages import FLAGS, NAMES, Open, Serve, served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system; the tests are skipped, visibly, where there is none."""
    path = os.environ.get("HISTOSLIDE_TEST_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not path:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)} or set HISTOSLIDE_TEST_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that run until the test is over."""
    with ExitStack() as running:
        yield lambda *paths, **options: running.enter_context(served(*paths, **options))


@pytest.fixture
def visit(browser: Any, serve: Serve) -> Iterator[Open]:
    """Open a page; at the end nothing may have gone wrong in it or asked another machine.

    It takes `serve` so that pages are closed before their servers: one that still asks what is
    new would complain of a refused connection.
    """
    wrong: list[str] = []
    may: list[str] = []
    contexts: list[Any] = []

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:", "file:", "data:")):
            wrong.append(request.url)

    def start(
        url: str,
        *,
        width: int = 1300,
        height: int = 800,
        dark: bool = False,
        expected: tuple[str, ...] = (),
    ) -> Any:
        may.extend(expected)
        scheme = "dark" if dark else "light"
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        page.wait_for_load_state("networkidle")
        return page

    yield start
    for context in contexts:
        context.close()
    assert not [text for text in wrong if not any(part in text for part in may)]
