"""What is stored breaks or goes away in mid-run: the S3 server for a minute, an artifact's bytes before Retry."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from mirage_core.store import Store
from tests.crash.accident import Accident
from tests.servers.stack import LiveStack
from tests.servers.swift import SwiftServer

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("crash")]


def test_the_s3_server_is_away_for_a_minute(
    fragile_stack: LiveStack, s3_server: SwiftServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_server.use(monkeypatch)
    store = Store.open(f"{s3_server.bucket()}/store", cache=tmp_path / "cache")
    accident = Accident(fragile_stack, store, s3_server.environment())
    accident.start("relaxation.learning_rate=0.0026", "relaxation.steps=400")
    accident.reach_a_checkpoint()
    s3_server.kill()
    try:
        time.sleep(60)  # how long it is away is the accident itself
    finally:
        s3_server.restart()

    accident.end("COMPLETED")
    accident.assert_all_is_well()


def test_retry_in_the_ui_makes_a_damaged_artifact_again_and_nothing_else(
    fragile_stack: LiveStack, tmp_path: Path
) -> None:
    """Stage 2 fails by its settings; the recipe's file is mended, one bit of the examples is lost, Retry is pressed."""
    store = Store.open(tmp_path / "store", cache=tmp_path / "cache")
    accident = Accident(fragile_stack, store)
    recipe = tmp_path / "mended-later.yaml"
    recipe.write_text(yaml.safe_dump({"extends": "micro", "relaxation": {"learning_rate": 1e30, "warmup_steps": 0}}))
    accident.start("relaxation.steps=20", recipe=str(recipe))
    accident.end("FAILED")
    finished = accident.stamps()
    recipe.write_text(yaml.safe_dump({"extends": "micro"}))
    (examples,) = store.list("examples")
    file = next(path for path in (tmp_path / "store" / examples.path).glob("files-*/*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    accident.finished = {path: artifact for path, artifact in finished.items() if path != examples.path}

    accident.retry_to_completion()
    accident.assert_all_is_well()
    assert accident.stamps()[examples.path] != finished[examples.path]
    assert len(finished) == 5
    log_lines = accident.live.logs(accident.flow_run)
    assert any("is damaged" in line and "pipeline runs again" in line for line in log_lines)
    assert [attempt.state for attempt in accident.records()[-1].attempts] == ["Failed"]
