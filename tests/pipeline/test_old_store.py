"""A store that an earlier version filled stays in use: fingerprints are equal to the byte (data/README.md)."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import load_record
from mirage_core.pipeline.runner import run_in_process
from mirage_core.recipes import load
from mirage_core.store import Store
from tests.pipeline.fakes import Events

DATA = Path(__file__).parent / "data"
IDENTITIES = json.loads(gzip.decompress((DATA / "identities.json.gz").read_bytes()))

PAGES = {"diagnosis": 3, "study": 3}
"""Stages whose pages show more than they did then: they are drawn anew, from what the store has."""


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """The store of micro's run, with empty files of the right sizes beside its manifests."""
    root = tmp_path / "old"
    with tarfile.open(DATA / "micro_store.tar.gz") as archive:
        archive.extractall(root, filter="data")
    for path in root.glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        for entry in manifest["files"]:
            file = path.parent / f"files-{manifest['digest'][:12]}" / entry["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as handle:
                handle.truncate(entry["size"])
    return Store.open(root, cache=tmp_path / "cache")


def test_every_stage_of_an_old_run_is_cached(old: Store) -> None:
    before = load_record(old, old.names("runs")[0])
    planned = plan(load("micro"), old)
    assert [stage.name for stage in planned if not stage.cached] == []
    assert [stage.name for stage in planned] == [stage.name for stage in before.stages]

    record = run_in_process(load("micro"), old, Events())

    assert {stage.state for stage in record.stages} == {"Cached"}
    assert [stage.digest for stage in record.stages] == [stage.digest for stage in before.stages]
    assert record.scores == before.scores


TODAY = {"tiny": "tiny-paper"}
"""Recipes that have another name today."""
GONE = {"tiny-causal"}


@pytest.mark.parametrize("recipe", sorted(IDENTITIES.keys() - GONE))
def test_no_stage_of_a_shipped_recipe_has_another_identity(recipe: str) -> None:
    settings = load(TODAY.get(recipe, recipe))
    pages = IDENTITIES[recipe]["diagnosis"]["identity"]
    settings = settings.model_copy(update={name: pages[name] for name in ("recipe", "description")})
    for name, expected in IDENTITIES[recipe].items():
        stage = get_stage(name)
        assert as_json(stage.identity(settings)) == expected["identity"], name
        version = PAGES.get(name, expected["version"])
        assert [stage.version, stage.kind] == [version, expected["kind"]], name
        assert as_json({"inputs": stage.inputs, "params": stage.params}) == {
            "inputs": expected["inputs"], "params": expected["params"]
        }, name  # fmt: skip


def as_json(value: Any) -> Any:
    """The value as it reads once it was written."""
    return json.loads(json.dumps(value))
