"""What the Makefile sets up: `make run` without what only the tests need, the tests with it."""

from __future__ import annotations

import subprocess

from tests.docs.commands import ROOT


def commands_of(target: str) -> str:
    """The commands of a target in a checkout without an environment, none of them run."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "VENV=.no-environment", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_make_run_installs_the_pipeline_and_nothing_of_the_tests() -> None:
    run = commands_of("run")

    assert '".[train,teacher,serve]"' in run
    assert "dev" not in run.split("-e ", 1)[1].split('"')[1]
    assert ".mirage-tests-ready" not in run


def test_make_test_installs_what_the_tests_need_after_the_set_up() -> None:
    test = commands_of("test")

    assert test.index('".[train,teacher,serve]"') < test.index('".[train,teacher,serve,scenes,machines,dev]"')
    assert test.index(".mirage-tests-ready") < test.index("pytest")
