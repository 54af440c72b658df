"""What a person does in Prefect's pages, by what they read there: tabs, buttons, dialogs, the form of a deployment."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Locator, Page, Response, expect

TRIES = 5
# Prefect 3.8 asks for icons that its own server does not have.
MISSING_ICONS = ("/favicon.ico", "/ico/undefined.svg")


@dataclass
class Window:
    """A page, and every error its console has shown."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        """Keep an error of the console, unless it is one of Prefect's own missing icons or says "try again" (503)."""
        where = str(message.location.get("url", ""))
        if message.type == "error" and not where.endswith(MISSING_ICONS) and "status of 503" not in message.text:
            self.complaints.append(f"{message.text} ({where})")

    def hear_fault(self, error: object) -> None:
        """Keep an error of a script, unless Prefect's own page measures an element that it has removed meanwhile."""
        if "getBoundingClientRect" not in str(error):  # artifacts hold no script
            self.complaints.append(str(error))

    def open_run(self, ui: str, flow_run: str) -> None:
        """The page of a flow run."""
        self.page.goto(f"{ui}/runs/flow-run/{flow_run}")
        expect(self.page.get_by_role("tablist")).to_be_visible()

    def tab(self, name: str) -> Locator:
        """Open a tab of the page; its panel."""
        self.page.get_by_role("tablist").get_by_text(name, exact=True).click()
        panel = self.page.get_by_role("tabpanel", name=name)
        expect(panel).to_be_visible()
        return panel

    def press(self, button: str, *, confirm: str) -> None:
        """Press a button of the page, and the one in the dialog that asks whether it is meant."""

        def both() -> None:
            self.page.get_by_role("button", name=button, exact=True).click()
            self.page.get_by_role("dialog").get_by_role("button", name=confirm, exact=True).click()

        self._taken("/set_state", both)

    def open_form(self, ui: str, deployment: str) -> None:
        """From a deployment's page to the form of a custom run."""
        self.page.goto(f"{ui}/deployments/deployment/{deployment}")
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        expect(self.page.get_by_role("button", name="Submit")).to_be_visible()

    def field(self, parameter: str) -> Locator:
        """The part of the form that belongs to a parameter: its label, its description, its inputs."""
        label = self.page.locator("label", has_text=re.compile(rf"^\s*{parameter}(\s*\(Optional\))?\s*$"))
        around = self.page.locator("div").filter(has=label).filter(has=self.page.get_by_role("group"))
        return around.last  # the innermost

    def fill(self, parameter: str, text: str) -> None:
        """Write into a parameter's field."""
        self.field(parameter).get_by_role("group").get_by_role("textbox").fill(text)

    def add(self, parameter: str, items: Sequence[str]) -> None:
        """Fill a list; what stands in it already is written over."""
        lines = self.field(parameter).get_by_role("textbox")
        filled = lines.count()
        for place, item in enumerate(items):
            if place >= filled:
                self.field(parameter).get_by_role("button", name="Add item").click()
            lines.nth(place).fill(item)

    def choices(self, parameter: str) -> Locator:
        """Open the list of a parameter; its options."""
        # By keyboard: a click opens the list where the button had no focus yet, and closes it again at once.
        self.field(parameter).get_by_role("group").get_by_role("button").press("ArrowDown")
        options = self.page.get_by_role("option")
        expect(options.first).to_be_visible()
        return options

    def submit(self) -> str:
        """Send the form; the id of the flow run that the server made of it."""
        answer = self._taken("/create_flow_run", self.page.get_by_role("button", name="Submit").click)
        return str(answer.json()["id"])

    def _taken(self, request: str, act: Callable[[], None]) -> Response:
        """Do what sends a request, and again, as a person would, while the server says that it is busy (503)."""
        for _ in range(TRIES):
            with self.page.expect_response(lambda answer: answer.url.endswith(request)) as awaited:
                act()
            if awaited.value.status != 503:
                break
        assert awaited.value.ok, f"the server refused {request}: {awaited.value.status} {awaited.value.text()}"
        return awaited.value
