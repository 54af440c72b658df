"""docs/from-laptop-to-cluster.md: its commands are programs with those options, its files and settings exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from mirage_core.recipes import load
from tests.containers.kubernetes import adapted, guide

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "from-laptop-to-cluster.md").read_text()
SERVICES = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
BIN = Path(sys.executable).parent
# Programs of other makers, which are not here; docker compose is looked at below.
FOREIGN = {"docker", "kubectl", "rclone", "openssl", "git", "cp", "chmod", "ssh"}
VERBS = {
    "prefect": {"deployment run": 2, "worker start": 2, "work-pool create": 2, "gcl update": 2},
    "mirage": {"store": 2},
    "dask": {},
}  # fmt: skip


def commands() -> list[list[str]]:
    """Every command of the guide's shell blocks, its assignments and the place of its output taken away."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    lines += [line.split("&&")[1] for line in re.findall(r"```cron\n(.*?)```", TEXT, re.DOTALL)]
    commands_found = []
    for line in lines:
        words = shlex.split(re.split(r" [<>] ", line)[0])
        while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):
            words.pop(0)
        if words and words[0] != "export":
            commands_found.append(words)
    return commands_found


def inner(command: list[str]) -> list[str]:
    """The command that docker compose runs in our image, or the command itself."""
    if command[:2] == ["docker", "compose"] and "run" in command and "deploy" in command:
        return command[command.index("deploy") + 1 :]
    return command


@lru_cache
def help_of(*verbs: str) -> str:
    done = subprocess.run(
        [BIN / verbs[0], *verbs[1:], "--help"],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_of_the_guide_is_a_program_with_those_options(command: list[str]) -> None:
    words = inner(command)
    program, rest = words[0], [word for word in words[1:] if word != "--no-prompt"]
    if program == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in rest)
    elif program == "python":
        assert rest[0] == "-m" and (ROOT / f"{rest[1].replace('.', '/')}.py").is_file()
    elif program not in FOREIGN:
        depth = VERBS[program].get(" ".join(rest[:2]), VERBS[program].get(rest[0], 1))
        help_text = help_of(program, *rest[:depth])
        for option in (word for word in rest if word.startswith("--")):
            assert option in help_text, f"{program} {' '.join(rest[:depth])} knows no {option}"


def test_every_compose_command_names_the_file_and_services_that_exist() -> None:
    composed = [command for command in commands() if command[:2] == ["docker", "compose"]]
    assert len(composed) >= 6
    for command in composed:
        assert command[2:4] == ["-f", "docker/compose.yaml"]
        verb, rest = command[4], [word for word in command[5:] if not word.startswith("-")]
        assert verb in ("up", "run", "logs", "exec", "stop")
        if verb != "up":
            assert rest[0] in SERVICES


def test_every_file_the_guide_names_exists() -> None:
    named = set(re.findall(r"\]\(\.\./([\w./-]+)\)", TEXT)) | set(
        re.findall(r"\b((?:docker|deployments)/[\w./-]+\.(?:json|yaml|env|Dockerfile|py|md))\b", TEXT)
    )
    assert {"docker/compose.yaml", "docker/example.env", "deployments/templates/kubernetes.json"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_setting_of_the_guide_is_one() -> None:
    overrides = re.findall(r"--set (\S+)", TEXT)
    assert load("micro", overrides).runtime.dask_address == "tcp://10.0.0.1:8786"
    runtime = load("micro").runtime
    assert all(hasattr(runtime, name) for name in re.findall(r"`runtime\.(\w+)`", TEXT))


def test_the_guide_is_short_enough_to_be_read() -> None:
    assert len(TEXT.splitlines()) < 200


def test_kubernetes_takes_ten_commands_and_the_walk_takes_them_from_the_guide() -> None:
    assert len(guide()) == 10
    assert adapted(guide()[-2]) == guide()[-2].removesuffix(" &"), "the walk starts the worker itself"
    assert [command.split()[0] for command in guide() if adapted(command) == command][:1] == ["kubectl"]
