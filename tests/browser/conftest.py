"""A page of a real Chromium, with what its console complained of, and a screenshot where the test failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect, sync_playwright

from tests.browser.finished import OVERRIDES
from tests.browser.window import Window
from tests.servers.stack import LiveStack

# No sandbox: it needs user namespaces or setuid, which containers and root do not have. No proxy: loopback only.
ARGUMENTS = ("--no-sandbox", "--no-proxy-server")
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)  # what a page shows follows the server by a poll, and machines are busy
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Let the window know whether the test it was opened for has failed."""
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session", autouse=True)
def chromium() -> str:
    """Debian's Chromium; the tests fail where there is none, before anything is started for them."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("there is no chromium here: `make e2e` installs it (tests/install-e2e.sh)", pytrace=False)
    return chromium


@pytest.fixture
def window(request: pytest.FixtureRequest, chromium: str, tmp_path: Path) -> Iterator[Window]:
    """An empty page of a browser of this test's own; ``failed.png`` in the test's folder shows how it failed.

    Not one browser for the session: Playwright keeps an event loop in the thread as long as it lives, and other
    tests of the same process would stumble over it.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        try:
            opened = _open(browser)
            yield opened
            if request.node.stash.get(FAILED, False):
                opened.page.screenshot(path=tmp_path / "failed.png", full_page=True)
                print(f"the page when the test failed: {tmp_path / 'failed.png'}")
        finally:
            browser.close()


@pytest.fixture(scope="session")
def finished_run(live_stack: LiveStack) -> str:
    """A run of the whole pipeline, every method trained and judged, that has ended well."""
    run = live_stack.run("mirage/full-pipeline", {"recipe": "micro", "overrides": list(OVERRIDES)})
    state = live_stack.wait(run, patience_s=2400)  # all methods, beside whatever else the machine does
    assert state["type"] == "COMPLETED", state["message"]
    return run


def _open(browser: Browser) -> Window:
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(PATIENCE_MS)
    page.route(lambda url: not url.startswith(("http://127.0.0.1", "data:", "blob:")), _refuse)
    window = Window(page)
    page.on("console", window.hear)
    page.on("pageerror", window.hear_fault)
    return window


def _refuse(route: Route) -> None:
    """Nothing outside this machine is asked for."""
    route.abort()
