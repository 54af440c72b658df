"""The teacher's key goes to the endpoint and nowhere else: a canary is looked for in everything a run leaves behind."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows.single_stage import single_stage
from mirage_core.config import TeacherRuntime
from mirage_core.errors import MirageError, SettingsError
from mirage_core.pipeline.runner import run_in_process
from mirage_core.teacher import use_key_reader
from tasks.secrets import read_key
from tests.flows.traces import pages
from tests.llm_client.chat_server import Call, chat_server, completion

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]

CANARY = "sk-canary-51d2e8b7a0"
DATA = "{train_levels: [3], test_levels: [3], train: 3, validation: 0, test_per_level: 1}"


def overrides(url: str, *more: str) -> list[str]:
    return [
        f"problems.vsp_planning={DATA}",
        "problems.vsp_reasoning=null",
        "teacher={kind: endpoint, variant: cot, model: parrot, attempts: 2, min_accepted: 0}",
        f"runtime.teacher={{base_url: '{url}', tries: 1, backoff_s: 0, concurrency: 2}}",
        *more,
    ]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store of this test's own; tasks do not wait between retries."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("tasks.stages.BACKOFF", [0, 0, 0])
    monkeypatch.setattr("tasks.stages.RETRIES", 1)
    return tmp_path / "store"


def parrot(call: Call) -> None:
    """Says whatever it was sent, the key too, in the answer's text and beside it."""
    leak = f"{json.dumps(dict(call.headers))} {CANARY}"
    call.send(200, {**completion(leak), "model": leak, "id": leak}, x_echo=CANARY)


def refuses(call: Call) -> None:
    """Refuses the key, and repeats it."""
    call.fail(401, f"Incorrect API key provided: {CANARY}", www_authenticate=CANARY)


def overloaded(call: Call) -> None:
    """Fails, and repeats the key."""
    call.fail(500, f"cannot serve Bearer {CANARY}")


def everything_of_the_server(since: datetime) -> str:
    """Runs, logs, artifacts and block documents of the Prefect server, and the states of the runs ``since`` then."""
    pages_read: list[list[Any]] = []
    with get_client(sync_client=True) as client:

        def ask(path: str, body: Mapping[str, Any]) -> list[Any]:
            answer = client._client.post(f"/{path}/filter", json=body)
            answer.raise_for_status()
            return list(answer.json())

        for path in ("flow_runs", "task_runs", "logs", "artifacts", "deployments", "variables"):
            pages_read.append(pages(partial(ask, path)))
        for run in [*pages_read[0], *pages_read[1]]:
            if datetime.fromisoformat(run["created"]) < since:
                continue
            kind = "flow_run_states" if "flow_version" in run else "task_run_states"
            answer = client._client.get(f"/{kind}/", params={f"{kind.removesuffix('_states')}_id": run["id"]})
            answer.raise_for_status()
            pages_read.append(answer.json())
    return json.dumps(pages_read)


def files_below(*folders: Path) -> bytes:
    return b"\n".join(path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("respond", "fails"), [(parrot, False), (refuses, True), (overloaded, True)])
def test_the_key_is_in_no_log_artifact_exception_record_file_or_page(
    respond: Callable[[Call], None],
    fails: bool,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

    began = datetime.now(UTC)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    for name in ("", "prefect", "openai", "httpx2", "httpcore2", "asyncio", "mirage_core"):
        caplog.set_level(logging.DEBUG, logger=name)
    leak = ""
    with chat_server(respond) as server:
        with pytest.raises(MirageError) if fails else nullcontext() as caught:
            single_stage(stage="examples", recipe="micro", overrides=overrides(server.url))
        if caught is not None:
            problem = caught.value
            leak = "".join(traceback.format_exception(problem)) + repr(problem) + repr(vars(problem))
        sent = [call.headers.get("authorization") for call in server.calls]
    assert sent and set(sent) == {f"Bearer {CANARY}"}
    shown = everything_of_the_server(began)
    assert server.url in shown  # it is the right server that was read
    captured = capfd.readouterr()
    logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    for place, text in {
        "the exception": leak, "the logs": logged, "the terminal": captured.out + captured.err, "the server": shown,
    }.items():  # fmt: skip
        assert CANARY not in text, place
    left = files_below(store, tmp_path, PREFECT_LOCAL_STORAGE_PATH.value())
    assert b"parrot" in left
    assert CANARY.encode() not in left
    if not fails:
        assert b"[key]" in left  # what the parrot said was kept, without it


def test_a_run_without_an_orchestrator_leaves_no_key_in_its_record(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirage_core.recipes import load
    from tasks.paths import open_store

    monkeypatch.setenv("MY_KEY", CANARY)
    with chat_server(refuses) as server:
        quick = ["model.warmup.steps=0", "runtime.engine=plain", "runtime.processes=1"]
        settings = load("micro", [*overrides(server.url), *quick, "runtime.teacher.api_key_variable=MY_KEY"])
        with use_key_reader(read_key), pytest.raises(MirageError, match=r"refused the key of \$MY_KEY \(401\)"):
            run_in_process(settings, open_store(), lambda event: None)
        assert server.calls[0].headers["authorization"] == f"Bearer {CANARY}"
    (record,) = (store / "runs").glob("*.json")
    assert "refused the key" in record.read_text()
    assert CANARY.encode() not in files_below(store)


def test_the_key_may_lie_in_a_secret_block_which_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret

    began = datetime.now(UTC)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-variable")
    assert read_key(TeacherRuntime()).get_secret_value() == "sk-of-the-variable"  # type: ignore[union-attr]
    monkeypatch.delenv("OPENAI_API_KEY")
    assert read_key(TeacherRuntime()) is None
    Secret(value=CANARY).save("teacher-key", overwrite=True)
    pages_read = read_key(TeacherRuntime(api_key_block="teacher-key"))
    assert pages_read is not None and pages_read.get_secret_value() == CANARY
    assert CANARY not in everything_of_the_server(began)
    with pytest.raises(SettingsError, match=r"'no-such-block' .*api_key_variable instead") as missing:
        read_key(TeacherRuntime(api_key_block="no-such-block"))
    assert missing.value.__context__ is None
