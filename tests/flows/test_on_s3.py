"""A flow whose one setting is MIRAGE_STORE=s3://...: all it keeps is there, and its keys are nowhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mirage_core.errors import ArtifactError
from mirage_core.pipeline.run_record import newest_record
from tasks import credentials
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.traces import all_the_api_shows, assert_nowhere, files, objects, secrets
from tests.servers.swift import SwiftServer

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]

BLOCK = "keys-of-a-test"


@pytest.fixture
def bucket(s3_server: SwiftServer) -> str:
    """A fresh bucket, whose keys this process does not have."""
    return s3_server.bucket()


@pytest.fixture
def by_block(
    bucket: str, s3_server: SwiftServer, fake_pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """The store is in the bucket, and its keys are in a Prefect block only."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever the block has made of it
        monkeypatch.delenv(name)
    credentials.save(BLOCK, s3_server.environment())
    credentials._load.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("MIRAGE_STORE", f"{bucket}/some/prefix")
    monkeypatch.setenv("MIRAGE_S3_BLOCK", BLOCK)
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


def run() -> dict[str, str]:
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=["evaluation.methods=[stage-2]"])
    return {stage.name: stage.state for stage in newest_record(open_store()).stages}


def shown() -> dict[str, str]:
    """All that the API of this test's server shows."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        http = client._client

        def answer(item: httpx.Response) -> Any:
            assert item.status_code < 300, item.text
            return item.json()

        return all_the_api_shows(
            lambda path, body: answer(http.post(f"/{path}", json=dict(body))), lambda path: answer(http.get(f"/{path}"))
        )


def data_base() -> list[Path]:
    """The files of the server's data base."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    result: Any = PREFECT_API_DATABASE_CONNECTION_URL.value()
    url = result if isinstance(result, str) else result.get_secret_value()
    path = Path(url.partition(":///")[2])
    return [item for item in path.parent.glob(f"{path.name}*") if item.is_file()]


def test_artifacts_and_records_are_all_on_s3_and_nothing_is_kept_here(
    by_block: pytest.MonkeyPatch, bucket: str, s3_server: SwiftServer, tmp_path: Path, fake_pipeline: FakePipeline
) -> None:
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

    local = Path(PREFECT_LOCAL_STORAGE_PATH.value())
    before = set(files(local))

    first = run()
    second = run()

    assert set(first.values()) == {"Completed"} and set(second.values()) == {"Cached"}
    there = objects(s3_server, bucket)
    sorts = {key.split("/")[2] for key in there}
    assert {"problems", "model", "evaluation", "report", "runs"} <= sorts
    assert "results" not in sorts, "Prefect keeps no result"
    assert all(key.startswith("some/prefix/") for key in there)
    assert set(files(local)) == before, "Prefect's own result storage"
    assert not files(tmp_path / "store")


def test_no_key_is_found_anywhere_afterwards_not_even_where_it_went_wrong(
    by_block: pytest.MonkeyPatch,
    bucket: str,
    s3_server: SwiftServer,
    tmp_path: Path,
    fake_pipeline: FakePipeline,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, "prefect")
    result = run()
    faults = [fails(by_block, fake_pipeline, "s3://mirage-nobody-made-it/prefix", s3_server, "owner")]
    faults += [fails(by_block, fake_pipeline, f"{bucket}/other", s3_server, "guest")]

    assert set(result.values()) == {"Completed"}
    assert "there is no such bucket" in faults[0]
    assert "no right to" in faults[1]
    output = capfd.readouterr()
    api = shown()
    patience = time.monotonic() + 120
    while "no right to" not in api["logs"]:  # they reach the server a little later
        assert time.monotonic() < patience, "the log of the run that failed is not on the server"
        time.sleep(0.5)
        api = shown()
    stored = data_base()
    searched: dict[str, str | bytes] = {
        "output": output.out + output.err,
        "log": caplog.text,
        "errors": "\n".join(faults),
        **api,
        **objects(s3_server, bucket),
        **{str(path): path.read_bytes() for path in [*files(tmp_path), *stored]},
    }
    assert BLOCK in api["block_documents"] and "********" in api["block_documents"]
    assert "problems" in api["task_runs"] and "stage-2" in api["artifacts"], "the search reads what it should"
    assert stored and b"mirage-s3-credentials" in b"".join(path.read_bytes() for path in stored)
    assert_nowhere(secrets(s3_server), searched)


def fails(patch: pytest.MonkeyPatch, fake_pipeline: FakePipeline, url: str, server: SwiftServer, user: str) -> str:
    """Run on a store that refuses; what is said of it, traceback and all."""
    import traceback

    import s3fs

    credentials.save(BLOCK, server.environment(user))
    credentials._load.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    patch.setenv("MIRAGE_STORE", url)
    with pytest.raises(ArtifactError) as caught:
        run()
    assert "canary" not in str(caught.value)
    return "".join(traceback.format_exception(caught.value))


def test_a_block_that_is_not_there_is_said_with_the_way_out(by_block: pytest.MonkeyPatch) -> None:
    from mirage_core.errors import SettingsError

    by_block.setenv("MIRAGE_S3_BLOCK", "nobody")

    with pytest.raises(SettingsError, match="save it with `mirage s3-block nobody`") as caught:
        open_store()

    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_deployment_made_without_a_block_takes_the_keys_of_its_worker(
    bucket: str, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.use(monkeypatch)
    monkeypatch.setenv("MIRAGE_S3_BLOCK", "{{ $MIRAGE_S3_BLOCK }}")

    open_store(f"{bucket}/prefix").check_writable()


def test_a_session_token_of_other_keys_is_not_sent_with_those_of_the_block(by_block: pytest.MonkeyPatch) -> None:
    import os

    by_block.setenv("AWS_SESSION_TOKEN", "of others")

    open_store().check_writable()

    assert "AWS_SESSION_TOKEN" not in os.environ


def test_the_block_is_not_made_of_half_the_keys() -> None:
    from mirage_core.errors import SettingsError

    result: dict[str, Any] = {"AWS_ACCESS_KEY_ID": "canary"}
    with pytest.raises(SettingsError, match="AWS_SECRET_ACCESS_KEY not set") as caught:
        credentials.save("half", result)

    assert "canary" not in str(caught.value)
