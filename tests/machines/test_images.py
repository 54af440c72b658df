"""The images and the compose file, as far as they can be read without a container engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
IMAGES = ("cpu", "gpu")
COMPOSE_TEXT = (DOCKER / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
EXAMPLE = dict(
    line.split("=", 1) for line in (DOCKER / "example.env").read_text().splitlines() if line and line[0] != "#"
)
Instruction = tuple[str, str]


def instructions(image: str) -> list[Instruction]:
    """A Dockerfile as (INSTRUCTION, rest) pairs, comments and line ends taken away."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / f"{image}.Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a path of the root out of the build: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anywhere = pattern.startswith("**/") and pattern.removeprefix("**/") in name.split("/")
        if line and line[0] != "#" and (anywhere or pattern == "*" or pattern == name.split("/")[0]):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_in_three_stages_and_runs_as_nobody_in_particular(image: str) -> None:
    known = {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "VOLUME", "CMD"}
    lines = instructions(image)
    last_from = max(index for index, (name, _) in enumerate(lines) if name == "FROM")

    assert {name for name, _ in lines} <= known
    assert [rest.partition(" AS ")[2] for name, rest in lines if name == "FROM"] == ["build", "code", ""]
    assert [rest.split()[0] for name, rest in lines if name == "FROM"][1] == "build"
    assert ("USER", "10001:10001") in lines[last_from:]
    assert ("USER", "10001:10001") in lines[: [name for name, _ in lines].index("CMD")]
    assert "--uid 10001" in " ".join(rest for name, rest in lines[last_from:] if name == "RUN")


@pytest.mark.parametrize("image", IMAGES)
def test_everything_that_is_copied_exists_and_reaches_the_build(image: str) -> None:
    for name, rest in instructions(image):
        if name != "COPY":
            continue
        if rest.startswith("--from="):
            assert rest.split()[0] in ("--from=build", "--from=code")
            continue
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists() and not ignored(source.rstrip("/") if source != "." else "pyproject.toml")


@pytest.mark.parametrize("image", IMAGES)
def test_a_change_of_code_installs_no_dependency_again(image: str) -> None:
    lines = instructions(image)
    code = next(index for index, (name, rest) in enumerate(lines) if name == "FROM" and rest.endswith(" AS code"))
    dependencies, after = lines[:code], lines[code:]

    assert {rest.split()[0] for name, rest in dependencies if name == "COPY"} == {"constraints.txt", "pyproject.toml"}
    installs = [rest for name, rest in after if name == "RUN" and "pip install" in rest]
    assert len(installs) == 1 and "--no-deps" in installs[0] and "--prefix /opt/installed" in installs[0]
    copied = [rest.split()[0].removeprefix("--from=") for name, rest in after if name == "COPY" and "--from" in rest]
    assert copied == ["build", "code", "code"], "what changes seldom comes first"


@pytest.mark.parametrize("image", IMAGES)
def test_no_pip_no_cache_and_no_test_reaches_an_image(image: str) -> None:
    lines = instructions(image)
    text = " ".join(rest for _, rest in lines)
    extras = {extra for groups in re.findall(r"\.\[([a-z,]+)\]", text) for extra in groups.split(",")}

    assert "dev" not in extras
    assert "--without-pip /opt/venv" in text and "PIP_NO_CACHE_DIR=1" in text
    for name, rest in lines:
        assert name != "RUN" or ("apt-get update" in rest) == ("rm -rf /var/lib/apt/lists/*" in rest)


@pytest.mark.parametrize("image", IMAGES)
def test_where_packages_come_from_is_an_argument_of_the_build_that_the_image_does_not_keep(image: str) -> None:
    lines = instructions(image)
    last_from = max(index for index, (name, _) in enumerate(lines) if name == "FROM")
    arguments = {rest.partition("=")[0] for name, rest in lines if name == "ARG"}

    assert {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "TORCH_INDEX"} <= arguments
    assert not [rest for name, rest in lines[last_from:] if name in ("ARG", "ENV") and re.search("PIP|INDEX", rest)]


def test_nothing_but_code_reaches_an_image() -> None:
    packages = re.search(r"^include = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    needed = {name.rstrip("*") for name in json.loads(packages[1])}
    needed |= {"pyproject.toml", "setup.py", "README.md", "LICENSE"}

    assert not [name for name in needed if ignored(name)], "what pyproject installs is needed"
    assert all(ignored(name) for name in ("docker/.env", ".env", ".venv", ".mirage", ".git", "shared", "tests"))
    assert ignored("flows/.env")


@pytest.mark.parametrize("image", IMAGES)
def test_installed_packages_are_pinned_and_their_groups_exist(image: str) -> None:
    for name, rest in instructions(image):
        for command in re.findall(r"pip install [^&]*", rest if name == "RUN" else ""):
            assert "-c constraints.txt" in command or "constraints.txt)" in command or "--no-deps" in command
            for groups in re.findall(r"\.\[([a-z,]+)\]", command):
                assert set(groups.split(",")) <= _extras()
    torch = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(torch) == 1


def test_cuda_is_of_one_generation_in_the_base_image_and_in_torchs_wheels() -> None:
    text = (DOCKER / "gpu.Dockerfile").read_text()
    base, wheels = re.search(r"nvidia/cuda:(\d+)", text), re.search(r"whl/cu(\d\d)", text)
    assert base is not None and wheels is not None and base[1] == wheels[1]


@pytest.mark.parametrize("image", IMAGES)
def test_the_command_of_an_image_is_the_command_of_the_composed_worker(image: str) -> None:
    (command,) = [json.loads(rest) for name, rest in instructions(image) if name == "CMD"]
    assert command == SERVICES["worker"]["command"] == SERVICES["gpu-worker"]["command"]


def test_services_wait_for_services_that_have_what_they_wait_for() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            needs = {"service_healthy": "healthcheck", "service_completed_successfully": "command"}[wait["condition"]]
            assert needs in SERVICES[other], f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"deploy"}


def test_our_containers_are_built_from_files_that_exist_and_have_no_rights_to_spare() -> None:
    assert set(OURS) == {"server", "deploy", "worker", "gpu-worker", "serve"}
    for service in OURS.values():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["image"] == f"mirage:{Path(build['dockerfile']).name.split('.')[0]}"


def test_every_secret_comes_from_the_env_file_and_is_refused_when_it_is_empty() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert asked == set(EXAMPLE) - {"COMPOSE_PROFILES"}
    assert all(re.findall(rf"\$\{{{name}:\?", COMPOSE_TEXT) for name in asked)
    assert not re.search(r"\$\{\w+\}", COMPOSE_TEXT), "a variable without :? may be empty"
    assert not any(EXAMPLE[name] for name in asked), "the example holds no value that anybody could keep"
    assert (ROOT / ".gitignore").read_text().count("/docker/.env") == 1


def test_only_this_machine_reaches_the_servers_and_nothing_else_is_reached_from_outside() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "server": ["127.0.0.1:4200:4200"],
        "serve": ["127.0.0.1:8000:8000"],
    }


def test_a_profile_starts_one_worker_of_its_kind_or_the_served_model() -> None:
    by_profile = {service["profiles"][0]: name for name, service in SERVICES.items() if "profiles" in service}
    assert by_profile == {"cpu": "worker", "gpu": "gpu-worker", "serve": "serve"}
    assert EXAMPLE["COMPOSE_PROFILES"] in by_profile
    (device,) = SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_served_model_is_that_of_the_canary_and_needs_the_key_of_the_env_file() -> None:
    import inspect

    from flows.canary import SERVING, mirage_serve

    service = SERVICES["serve"]
    assert service["command"][:3] == ["mirage", "serve", SERVING]
    assert inspect.signature(mirage_serve.fn).parameters["serving"].default == SERVING
    assert service["environment"]["MIRAGE_API_KEY"].startswith("${MIRAGE_API_KEY:?")
    assert service["environment"]["MIRAGE_STORE"] == SERVICES["worker"]["environment"]["MIRAGE_STORE"]
    assert not [word for word in service["command"] if "KEY" in word]
    assert not [name for name in service["environment"] if name.startswith("PREFECT")]


def test_the_s3_servers_identity_is_the_clients() -> None:
    filled = re.sub(r"\$\{(\w+):\?[^}]*\}", r"<\1>", COMPOSE["configs"]["s3"]["content"])
    (identity,) = json.loads(filled)["identities"]
    assert identity["credentials"] == [{"accessKey": "<S3_ACCESS_KEY>", "secretKey": "<S3_SECRET_KEY>"}]
    client = SERVICES["worker"]["environment"]
    assert client["AWS_ACCESS_KEY_ID"].startswith("${S3_ACCESS_KEY:")
    assert client["AWS_SECRET_ACCESS_KEY"].startswith("${S3_SECRET_KEY:")


def test_prefect_understands_the_servers_and_the_clients_environment() -> None:
    env = {name: re.sub(r"\$\{(\w+):\?[^}]*\}", r"my-\1", str(value)) for service in ("server", "worker")
           for name, value in SERVICES[service]["environment"].items()}  # fmt: skip
    code = (
        "from prefect.settings import get_current_settings as now; import json; s = now();"
        "d = s.server.database; print(json.dumps([d.connection_url.get_secret_value(),"
        "s.server.api.auth_string.get_secret_value(), s.api.auth_string.get_secret_value(), s.api.url,"
        "s.server.concurrency.lease_storage, s.worker.query_seconds]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True, timeout=120
    )
    url, server, client, api, leases, seconds = json.loads(done.stdout)
    assert url == "postgresql+asyncpg://prefect:my-POSTGRES_PASSWORD@postgres:5432/prefect"
    assert server == client == "my-PREFECT_AUTH"
    assert (api, seconds) == ("http://server:4200/api", 2.0)
    assert leases.endswith("filesystem")


def _commands() -> list[list[str]]:
    """Every command line of our containers, the deploy job's script cut into its lines."""
    lines = []
    for service in OURS.values():
        command = service["command"]
        if command[0] == "/bin/sh":
            lines += [shlex.split(line) for line in command[2].replace("\\\n", " ").splitlines()]
        else:
            lines.append(command)
    unique = {tuple(line) for line in lines}
    return [list(line) for line in sorted(unique)]


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_is_a_program_with_those_options(command: list[str]) -> None:
    program, *rest = command
    words = rest[: next((at for at, word in enumerate(rest) if word.startswith("-") and word != "--no-prompt"), None)]
    if program == "python":
        assert (ROOT / f"{rest[1].replace('.', '/')}.py").is_file() and rest[0] == "-m"
        return
    assert (BIN / program).exists()
    verbs = [word for word in words if word != "--no-prompt"][: 2 if "server" in words or "worker" in words else 3]
    asked = subprocess.run(
        [BIN / program, *[verb for verb in verbs if verb != "mirage"], "--help"],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    for option in (word for word in rest if word.startswith("--") and word != "--no-prompt"):
        assert option in asked.stdout
    for path in (word for word in rest if word.endswith(".json")):
        assert (ROOT / path).is_file()


def _extras() -> set[str]:
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


def test_the_stand_ins_of_verify_have_the_names_that_the_compose_file_asks_for() -> None:
    script = (DOCKER / "verify.sh").read_text()
    stand_ins = dict(re.findall(r"build_stand_in (\w+) docker\.io/(?:library/)?(\S+)", script))
    theirs = {service["image"] for service in SERVICES.values() if "build" not in service}

    assert set(stand_ins.values()) == theirs
    for name in stand_ins:
        assert (DOCKER / "stand-ins" / f"{name}.Dockerfile").is_file()
    base = re.search(r"^BASE=docker\.io/library/(\S+)$", script, re.MULTILINE)
    assert base is not None and ("FROM", f"{base[1]} AS build") in instructions("cpu")


def test_the_stand_in_of_postgres_heeds_every_variable_of_the_compose_file() -> None:
    entrypoint = (DOCKER / "stand-ins" / "postgres.sh").read_text()
    assert all(f"${name}" in entrypoint for name in SERVICES["postgres"]["environment"])
    (volume,) = SERVICES["postgres"]["volumes"]
    assert f"PGDATA={volume.split(':')[1]}" in entrypoint
