from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.store import parse_age
from mirage_core.errors import ArtifactDamaged, InputError
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact
from tasks.paths import open_store


@pytest.fixture
def store() -> Store:
    """The store that the commands open, too."""
    return open_store()


def publish(store: Store, tmp_path: Path, number: int) -> Artifact:
    folder = tmp_path / f"folder-{number}"
    folder.mkdir()
    (folder / "a").write_text(f"result {number}")
    return store.publish("model", fingerprint("s", 1, {"n": number}, {}), folder, summary={}, about={})


def aged(store: Store, days: float) -> None:
    then = time.time() - days * 24 * 3600
    for path in Path(store.url).rglob("*"):
        os.utime(path, (then, then))


def test_gc_shows_first_and_removes_only_when_told(store: Store, tmp_path: Path) -> None:
    saved, lost = publish(store, tmp_path, 1), publish(store, tmp_path, 2)
    store.write_json("runs/r1.json", {"stages": [{"path": saved.path}]})
    aged(store, 8)
    cli = CliRunner()
    shown = cli.invoke(app, ["store", "gc"])
    assert shown.exit_code == 0
    assert lost.path in shown.stdout and saved.path not in shown.stdout
    assert "8 d" in shown.stdout and "mirage store gc --delete" in shown.stdout
    assert len(store.list()) == 2
    done = cli.invoke(app, ["store", "gc", "--delete"])
    assert "1 things" in done.stdout and "removed" in done.stdout
    assert store.list() == [saved]


def test_gc_leaves_what_is_younger_than_it_is_told(store: Store, tmp_path: Path) -> None:
    lost = publish(store, tmp_path, 1)
    aged(store, 0.1)
    cli = CliRunner()
    assert lost.path not in cli.invoke(app, ["store", "gc", "--delete"]).stdout
    result = json.loads(cli.invoke(app, ["store", "gc", "--older-than", "2h", "--json"]).stdout)
    assert (result["deleted"], [item["path"] for item in result["garbage"]]) == (False, [lost.path])
    assert result["garbage"][0]["size"] > 0
    result = json.loads(cli.invoke(app, ["store", "gc", "--older-than", "2h", "--delete", "--json"]).stdout)
    assert [item["removed"] for item in result["garbage"]] == [True]
    assert store.list() == []


def test_gc_keeps_the_artifacts_of_so_many_runs(store: Store, tmp_path: Path) -> None:
    old, new = publish(store, tmp_path, 1), publish(store, tmp_path, 2)
    store.write_json("runs/20260101.json", {"path": old.path})
    store.write_json("runs/20260102.json", {"path": new.path})
    aged(store, 8)
    CliRunner().invoke(app, ["store", "gc", "--delete"])
    assert len(store.list()) == 2
    CliRunner().invoke(app, ["store", "gc", "--delete", "--keep-runs", "1"])
    assert store.list() == [new]


def test_verify_only_tells_and_repair_takes_out_of_use(store: Store, tmp_path: Path) -> None:
    good, bad, broken = (publish(store, tmp_path, number) for number in range(3))
    (file,) = Path(store.url).glob(f"{bad.path}/files-*/a")
    file.write_text("resulT 1")
    (Path(store.url) / broken.path / "manifest.json").write_text("{")
    cli = CliRunner()
    for _ in range(2):
        result_of_verify = cli.invoke(app, ["store", "verify"])
        assert isinstance(result_of_verify.exception, ArtifactDamaged)
        assert bad.path in str(result_of_verify.exception) and broken.path in str(result_of_verify.exception)
        assert "mirage store verify --repair" in str(result_of_verify.exception)
    repaired = cli.invoke(app, ["store", "verify", "--repair"])
    assert isinstance(repaired.exception, ArtifactDamaged)
    assert str(repaired.exception).count("taken out of use (quarantine/") == 2
    assert cli.invoke(app, ["store", "verify"]).exit_code == 0
    assert store.list() == [good]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5d", 129600), ("0s", 0)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "-1h", "2w"])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="such as 2h or 7d"):
        parse_age(text)
