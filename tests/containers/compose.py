"""`python -m tests.containers.compose`: walk the road of docker/compose.yaml with a real engine and a real browser.

Needs root, dockerd, `docker compose` 2.24 or later, chromium, and the images of docker/verify.sh. Brings the stack up,
runs the pipeline by command line, breaks a stage of another run and presses Retry on the run's page, takes the stack
down, brings it up again and runs the same: everything is Cached. At the end it looks for the secrets where they must
not be.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.window import Window
from tests.containers.engine import docker_engine, enter_namespace, load_images
from tests.containers.shell import ROOT, run, say
from tests.containers.stack import Stack, new_stack

UI = "http://127.0.0.1:4200"
RECIPE = {"recipe": "micro", "overrides": ["evaluation.methods=[stage-2]"]}
BROKEN = {"recipe": "micro", "overrides": ["seed=101", "evaluation.methods=[stage-2]"]}
BREAKS = "relaxation"


def bring_up(stack: Stack) -> None:
    """`up --wait`, of images that are there; every service runs, and the deploy job has ended well."""
    print(stack.compose("up", "--detach", "--no-build", "--pull", "never", "--wait", check=False)[-2000:])
    services = [
        json.loads(line) for line in stack.compose("ps", "--all", "--format", "json").splitlines() if line[:1] == "{"
    ]
    found = {each["Service"]: (each["State"], each["Health"], each["ExitCode"]) for each in services}
    print(found)
    assert found.pop("deploy") == ("exited", "", 0), stack.compose("logs", "deploy")
    assert set(found) == {"postgres", "server", "s3", "worker"}
    assert {state[:2] for state in found.values()} == {("running", "healthy")}


def run_by_command(stack: Stack) -> str:
    """The guide's command; the id of the run, which has ended well."""
    words = ["mirage/full-pipeline", "--watch", "--params", json.dumps(RECIPE)]
    print(stack.compose("run", "--rm", "deploy", "prefect", "deployment", "run", *words)[-1500:])
    flow_run = stack.newest_run()
    assert stack.ended(flow_run)["type"] == "COMPLETED"
    return flow_run


def break_a_run(stack: Stack) -> tuple[str, dict[str, object]]:
    """A run whose stage fails in the middle of its work; its id and its state."""
    stack.compose("cp", str(ROOT / "tests" / "browser" / "injected"), "worker:/data/injected")
    stack.compose("exec", "-T", "worker", "sh", "-c", f"mkdir -p /data/watched && printf {BREAKS} >/data/watched/fault")
    env = {
        "PYTHONPATH": "/data/injected",
        "MIRAGE_TEST_LOG": "/data/watched/log",
        "MIRAGE_TEST_FAULT": "/data/watched/fault",
    }
    flow_run = stack.start(BROKEN, env)
    state = stack.ended(flow_run)
    assert state["type"] == "FAILED", state
    return flow_run, state


def log_in(page: Page, stack: Stack) -> None:
    """What a person does first: the server asks for the password of PREFECT_AUTH, and takes no other."""
    page.goto(UI)
    for password in ("admin:wrong", stack.login):
        page.get_by_placeholder("admin:pass").fill(password)
        page.get_by_role("button", name="Login", exact=True).click()
        if password != stack.login:
            expect(page.get_by_text("Invalid credentials").first).to_be_visible()
    expect(page).to_have_url(re.compile("/dashboard"))


def retry_in_the_browser(stack: Stack, flow_run: str, failed: dict[str, object], pictures: Path) -> list[str]:
    """Press Retry on the run's page; what its pages show."""
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: make e2e installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-proxy-server"])
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        try:
            log_in(page, stack)
            window = Window(page)
            window.open_run(UI, flow_run)
            window.press("Retry", confirm="Retry")
            assert stack.ended(flow_run, other_than=str(failed["id"]))["type"] == "COMPLETED"
            seen = [
                window.tab(tab).inner_text()
                for tab in ("Logs", "Task Runs", "Artifacts", "Parameters", "Job Variables")
            ]
            page.screenshot(path=pictures / "retried.png", full_page=True)
            return [*seen, page.content()]
        except BaseException:
            page.screenshot(path=pictures / "failed.png", full_page=True)
            raise
        finally:
            browser.close()


def leaks(stack: Stack, seen: list[str]) -> dict[str, int]:
    """Where a secret stands that must not: the logs, the pages, the command lines, the API, the volumes; how often.

    The server's data base is PostgreSQL's volume, the store is the S3 server's.
    """
    places = {"pages": "".join(seen), "logs": stack.compose("logs", "--no-color"), "processes": stack.compose("top")}
    places |= {f"api {kind}": text for kind, text in stack.everything_said().items()}
    found = {place: text.count(stack.mark) for place, text in places.items()}
    for image in ("mirage:cpu",):
        found[f"image {image}"] = (
            run(["docker", "image", "inspect", image]) + run(["docker", "history", "--no-trunc", image])
        ).count(stack.mark)
    for volume in ("postgres", "server", "s3", "worker"):
        folder = run(["docker", "volume", "inspect", "--format", "{{.Mountpoint}}", f"mirage_{volume}"]).strip()
        files = run(["grep", "-rla", stack.mark, folder], check=False).split()
        found[f"volume {volume}"] = len(files)
        print(*files[:5], sep="\n")
    return {place: count for place, count in found.items() if count}


def walk(folder: Path) -> None:
    stack = new_stack(folder)
    try:
        say("up")
        bring_up(stack)
        say("mirage/full-pipeline by command")
        first = stack.stages(run_by_command(stack))
        assert set(first.values()) == {"Completed"}, first
        say(f"a run that fails in {BREAKS}, and Retry in the browser")
        flow_run, failed = break_a_run(stack)
        seen = retry_in_the_browser(stack, flow_run, failed, folder)
        retried = stack.stages(flow_run)
        print(retried)
        assert {retried[name] for name in ("problems", "base", "grounding")} == {"Cached"}
        assert retried[BREAKS] == "Completed"
        say("down, up again, the same run")
        stack.compose("down")
        bring_up(stack)
        again = stack.stages(run_by_command(stack))
        print(again)
        assert set(again.values()) == {"Cached"} and again.keys() == first.keys(), again
        say("secrets")
        found = leaks(stack, seen)
        assert not found, f"a secret stands in {found}"
        say("everything is as docs/from-laptop-to-cluster.md says")
    finally:
        (folder / "compose.log").write_text(stack.compose("logs", "--no-color", check=False))
        stack.compose("down", "--volumes", check=False)


def main() -> int:
    """Run `python -m tests.containers.compose`."""
    enter_namespace("tests.containers.compose")
    folder = Path(tempfile.mkdtemp(prefix="mirage-compose-"))
    print(f"logs and pictures: {folder}")
    with docker_engine():
        load_images()
        walk(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
