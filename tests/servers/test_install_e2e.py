"""What installs the programs of the end-to-end tests: only what is missing, without a question, or a clear word."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "install-e2e.sh"


@dataclass(frozen=True)
class Machine:
    """A machine whose only programs are those in ``folder``."""

    folder: Path

    def has(self, name: str, body: str = "exit 0") -> None:
        """Put a program there."""
        path = self.folder / name
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)

    def install(self) -> subprocess.CompletedProcess[str]:
        """Run the script there."""
        bash = str(shutil.which("bash"))
        return subprocess.run(
            [bash, str(SCRIPT)], env={"PATH": str(self.folder)}, capture_output=True, text=True, check=False
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """PostgreSQL is there, chromium is not."""
    machine = Machine(tmp_path)
    machine.has("initdb")
    return machine


def test_where_everything_is_there_nothing_is_installed(machine: Machine) -> None:
    machine.has("chromium")
    machine.has("apt-get", "echo called; exit 1")
    done = machine.install()

    assert done.returncode == 0
    assert "called" not in done.stdout


def test_root_gets_what_is_missing_without_being_asked(machine: Machine) -> None:
    called = machine.folder / "called"
    machine.has("id", "echo 0")
    machine.has("env", 'while [[ "$1" == *=* ]]; do export "$1"; shift; done; exec "$@"')
    chromium = machine.folder / "chromium"
    says = f'echo "$DEBIAN_FRONTEND $*" >> {called}\n'
    body = f'{says}[ "$1" = install ] && echo > {chromium} && {shutil.which("chmod")} +x {chromium}; exit 0'
    machine.has("apt-get", body)
    done = machine.install()

    assert done.returncode == 0, done.stderr
    updated, installed = called.read_text().splitlines()
    assert updated.split() == ["update", "-qq"]
    assert installed == "noninteractive install -y -qq --no-install-recommends chromium"


def test_who_is_not_root_is_told_what_to_run(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("sudo", "exit 1")
    machine.has("apt-get", "echo called")
    done = machine.install()

    assert done.returncode == 1
    assert "called" not in done.stdout
    assert "Run: sudo apt-get install --no-install-recommends chromium\nThen: make e2e" in done.stderr


def test_a_machine_without_apt_is_told_what_to_install(machine: Machine) -> None:
    done = machine.install()

    assert done.returncode == 1
    assert "chromium missing" in done.stderr
    assert "no apt-get" in done.stderr


def test_a_package_that_apt_does_not_have_is_an_error(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("env", 'while [[ "$1" == *=* ]]; do shift; done; exec "$@"')
    machine.has("apt-get", '[ "$1" = update ] || { echo "E: Unable to locate package"; exit 100; }')
    done = machine.install()

    assert done.returncode == 1
    assert "could not install chromium" in done.stderr
