"""What people look at on a run's page: settings, scores, curves."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.finished import METHODS, SEED, TRAINED
from tests.browser.window import Window
from tests.servers.stack import LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

# Rejects where the picture cannot be decoded.
SIZE = "async picture => (await picture.decode(), [picture.naturalWidth, picture.naturalHeight])"


def test_the_run_and_each_stage_it_trained_have_their_artifacts_on_the_runs_page(
    live_stack: LiveStack, finished_run: str, window: Window
) -> None:
    window.open_run(live_stack.ui, finished_run)
    artifacts = window.tab("Artifacts")

    for key in ("settings", "scores", "run", *(f"curves-{stage}" for stage in TRAINED)):
        expect(link(artifacts, key)).to_be_visible()
    assert window.complaints == []


def test_the_settings_are_shown_as_the_run_resolved_them(
    live_stack: LiveStack, finished_run: str, window: Window
) -> None:
    open_artifact(window, live_stack, finished_run, "settings")

    expect(window.page.get_by_role("heading", name="Settings of the recipe micro")).to_be_visible()
    expect(window.page.get_by_role("code").first).to_contain_text(f"seed: {SEED}")
    assert window.complaints == []


def test_the_scores_are_a_table_with_a_row_for_every_method(
    live_stack: LiveStack, finished_run: str, window: Window
) -> None:
    open_artifact(window, live_stack, finished_run, "scores")

    expect(window.page.get_by_role("heading", name="Scores")).to_be_visible()
    table = window.page.get_by_role("table")
    expect(table.get_by_role("columnheader", name="accuracy")).to_be_visible()
    for method in METHODS:
        expect(table.get_by_role("row").filter(has=window.page.get_by_role("cell", name=method)).first).to_contain_text(
            "%"
        )
    assert window.complaints == []


@pytest.mark.parametrize("stage", TRAINED)
def test_the_curves_of_a_stage_are_pictures_that_the_browser_could_draw(
    stage: str, live_stack: LiveStack, finished_run: str, window: Window
) -> None:
    open_artifact(window, live_stack, finished_run, f"curves-{stage}")

    expect(window.page.get_by_role("heading", name=f"Curves of {stage}")).to_be_visible()
    pictures = window.page.get_by_role("article").get_by_role("img")
    expect(pictures.first).to_be_visible()
    for picture in pictures.all():
        width, height = picture.evaluate(
            "async picture => (await picture.decode(), [picture.naturalWidth, picture.naturalHeight])"
        )
        assert width > 200 and height > 100
    assert window.complaints == []


def open_artifact(window: Window, stack: LiveStack, run: str, key: str) -> None:
    """From the run's page to the page of one of its artifacts."""
    window.open_run(stack.ui, run)
    target = link(window.tab("Artifacts"), key).get_attribute("href")
    # Not by a click: Prefect's graph of the run complains where it is left before it is drawn.
    window.page.goto(f"{stack.ui}{target}")


def link(artifacts: Locator, key: str) -> Locator:
    """The link to the artifact of that key, among all of a run; the page loads more of them as it is scrolled."""
    links = artifacts.get_by_role("link")
    found = links.filter(has=artifacts.page.get_by_text(key, exact=True))
    expect(links.first).to_be_visible()
    before = 0
    while not found.count() and links.count() > before:
        before = links.count()
        links.last.scroll_into_view_if_needed()
        artifacts.page.wait_for_timeout(1500)  # until the next ones are there, or the end is reached
    return found
