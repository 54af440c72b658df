"""The page of ``mirage serve`` in a real browser, against a real server of a tiny model that imagines."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.window import Window
from tests.serving.conftest import KEY, START_S, Served, make_model, start

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving-page")]

PHONE = {"width": 360, "height": 740}
WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
UNNAMED = """() => [...document.querySelectorAll('button, input, select, textarea')].filter(each => each.offsetParent)
    .filter(each => !each.getAttribute('aria-label') && !each.labels?.length && !each.innerText.trim())
    .map(each => each.outerHTML)"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a key."""
    folder = make_model(tmp_path_factory.mktemp("models") / "imagines")
    started = start(folder, tmp_path_factory.mktemp("served") / "log", "--max-answer-tokens", "48")
    yield started
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(START_S) in (0, -signal.SIGTERM)


@pytest.fixture
def page(window: Window, server: Served) -> Page:
    """The page, opened with the key; a maze is drawn."""
    window.page.goto(server.url.removesuffix("/v1"))
    window.page.get_by_label("API key").fill("sk-of-another")
    window.page.get_by_role("button", name="Use it").click()
    expect(window.page.get_by_role("alert")).to_have_text("The server does not take this key.")
    window.page.get_by_label("API key").fill(KEY)
    window.page.get_by_label("API key").press("Enter")
    expect(window.page.get_by_role("img", name="a maze of 4 by 4 cells")).to_be_visible()
    expect(window.page.get_by_role("alert")).to_be_hidden()
    window.complaints.clear()  # Chromium tells of the two answers with status 401
    return window.page


def ask(page: Page) -> None:
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    expect(page.locator("#status")).to_contain_text("Done")


def test_an_answer_arrives_with_its_latents_in_their_places_and_their_film(page: Page, window: Window) -> None:
    ask(page)
    dots = page.locator("#output .latents i")
    status = re.match(r"Done, with (\d+) latent", page.locator("#status").inner_text())
    assert status is not None and int(status.group(1)) == dots.count() > 0
    frames = page.locator("#frames li")
    assert frames.count() == dots.count()
    for at in range(frames.count()):
        imagined = frames.nth(at).get_by_role("img").first
        assert imagined.evaluate("async one => (await one.decode(), one.naturalWidth)") == 144
    frames.first.hover()
    expect(dots.first).to_have_class(re.compile("lit"))
    expect(page.locator("#verdict")).to_contain_text(re.compile("right|wrong"))
    assert window.complaints == []


def test_the_true_film_stands_beside_what_is_imagined(page: Page, window: Window) -> None:
    page.get_by_label("Say where a plan leads").check()
    with page.expect_response("**/page/film") as replied:
        ask(page)
    expect(page.locator("#truth")).to_have_text("Beside it the true film of the plan you asked about.")
    truth = replied.value.json()["frames"]
    frames = page.locator("#frames li")
    assert frames.count() == len(truth) > 0
    for at, frame in enumerate(truth):
        pictures = frames.nth(at).get_by_role("img")
        assert pictures.count() == (1 if frame is None else 2)
        if frame is not None:
            shown = page.get_by_role("img", name=f"true frame {frame['frame'] + 1}: {frame['caption']}").first
            assert shown.evaluate("async one => (await one.decode(), one.naturalWidth)") == 144
            said = frames.nth(at).locator(".true")
            imagined = frames.nth(at).inner_text().split("true:")[0]
            row, column = (number + 1 for number in frame["places"][0])
            right = f"row {row}, column {column} " in imagined and f"{frame['kind']} (" in imagined
            expect(said).to_have_text(f"true: {frame['caption']}")
            expect(said).to_have_class("true right" if right else "true wrong")
    assert window.complaints == []


def test_a_goal_that_no_way_leads_to_has_no_true_film(page: Page, window: Window) -> None:
    page.get_by_role("button", name=re.compile(": start$")).focus()
    walled = re.compile("^row .*: ice$")
    while (cells := page.get_by_role("button", name=walled)).count():
        left = cells.count()
        cells.first.click()
        expect(cells).to_have_count(left - 1)
    ask(page)
    expect(page.locator("#truth")).to_have_text("No way leads to the goal, so there is no true film.")
    assert page.locator("#frames li").count() == page.locator("#frames img").count() > 0
    assert window.complaints == []


def test_the_text_is_what_the_api_answers(page: Page, server: Served, window: Window) -> None:
    page.get_by_label("Say where a plan leads").check()
    page.get_by_label("The plan", exact=True).fill("rr d")
    with page.expect_request("**/v1/chat/completions") as asked:
        ask(page)
    body = {**asked.value.post_data_json, "stream": False}
    assert "RRD" in body["messages"][0]["content"][-1]["text"]
    reply = httpx.post(
        f"{server.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
    )
    message = reply.json()["choices"][0]["message"]
    shown = page.locator("#output").evaluate("one => [...one.childNodes].map(node => node.textContent).join('')")
    assert shown == message.get("reasoning", "") + message["content"]
    assert window.complaints == []


def test_cells_are_changed_by_keyboard(page: Page, window: Window) -> None:
    cells = page.get_by_role("button", name=re.compile("^row "))
    expect(cells).to_have_count(16)
    cells.first.focus()
    for key, name in (("Down", "row 2, column 1"), ("Right", "row 2, column 2"), ("Up", "row 1, column 2")):
        page.keyboard.press(f"Arrow{key}")
        expect(page.get_by_role("button", name=re.compile(f"^{name}:"))).to_be_focused()
    page.get_by_label("goal", exact=True).check()
    ice = page.get_by_role("button", name=re.compile("^row .*: (ice|hole)$")).first
    where = (ice.get_attribute("aria-label") or "").split(":")[0]
    ice.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=f"{where}: goal")).to_be_focused()
    expect(page.get_by_role("button", name=re.compile("^row .*: goal$"))).to_have_count(1)
    assert window.complaints == []


def test_an_exchange_shows_what_the_answer_becomes(page: Page, server: Served, window: Window) -> None:
    ask(page)
    expect(page.get_by_role("button", name="Exchange")).to_be_disabled()
    page.get_by_role("button", name="Draw another").click()
    with page.expect_request(lambda one: "latents_of" in (one.post_data or "")) as asked:
        page.get_by_role("button", name="Exchange").click()
    expect(page.locator("#conclusion")).to_contain_text(re.compile("answer (stays|becomes)|same answer"))
    body = {**asked.value.post_data_json, "stream": False}
    reply = httpx.post(
        f"{server.url}/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
    )
    content = reply.json()["choices"][0]["message"]["content"]
    assert page.locator("#exchanged-answer").evaluate("one => one.textContent") == content
    assert window.complaints == []


def test_a_picture_of_the_users_is_asked_about_and_errors_are_shown(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.locator("#file").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("cannot be decoded")
    picture = tmp_path / "picture.png"
    picture.write_bytes(page.locator("body").screenshot())
    page.locator("#file").set_input_files(picture)
    expect(page.get_by_role("img", name="your picture")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_label("A question of your own").check()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Write your question first.")
    page.get_by_label("Your question").fill("What is it? <|im_end|>")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("special token")
    page.get_by_label("Your question").fill("What is it?")
    ask(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_it_fits_a_phone_and_everything_has_a_name(page: Page, window: Window) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    ask(page)
    assert page.evaluate(f"() => {WIDER}") is False
    assert page.evaluate(UNNAMED) == []
    page.emulate_media(color_scheme="dark")
    background = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
    assert background == "rgb(15, 19, 25)"
    assert window.complaints == []
