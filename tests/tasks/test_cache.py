"""Which result records are believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.types import Artifact
from tasks.cache import drop_unless_believed, record_fault
from tasks.results import StoreResults

ARTIFACT = Artifact(kind="model", path="model/abc", digest="d" * 64, summary={})
KEY = "mirage/base/v1/abc"


def record(held: Any = None, **serializer: str) -> bytes:
    """A record as Prefect writes it, with changes to what it holds or to its serializer."""
    from prefect.serializers import JSONSerializer

    named = {**json.loads(JSONSerializer().model_dump_json()), **serializer}
    kept = held or {"__class__": "mirage_core.types.Artifact", "data": ARTIFACT.model_dump()}
    return json.dumps({"metadata": {"serializer": named}, "result": json.dumps(kept)}).encode()


def test_a_record_of_the_artifact_in_the_store_is_believed() -> None:
    assert record_fault(record(), ARTIFACT) is None


@pytest.mark.parametrize("held", [{"path": "model/abc"}, [1], "text"])
def test_a_record_of_something_else_is_not(held: Any) -> None:
    assert "handle" in str(record_fault(record(held), ARTIFACT))


def test_a_record_of_an_artifact_that_is_gone_is_not() -> None:
    assert "no longer" in str(record_fault(record(), None))


def test_a_record_of_another_digest_is_not() -> None:
    assert "digest" in str(record_fault(record(), ARTIFACT.model_copy(update={"digest": "e" * 64})))


def test_a_record_that_tells_another_score_is_not() -> None:
    told = {"accuracy": 0.83, "scores": [{"interval": [0.8, 0.86]}]}
    artifact = ARTIFACT.model_copy(update={"summary": told})
    held = {"__class__": "mirage_core.types.Artifact", "data": artifact.model_dump()}
    assert record_fault(record(held), artifact) is None
    flipped = record(held).replace(b"0.83", b"0.93")
    assert "not what its manifest tells" in str(record_fault(flipped, artifact))


def test_a_record_that_is_believed_stays_and_any_other_is_dropped(tmp_path: Path) -> None:
    storage = StoreResults(root=str(tmp_path))

    for content, artifact, stays in (
        (record(), ARTIFACT, True),
        (record(), None, False),
        (record(type="pickle"), ARTIFACT, False),
        (b"\x80\x04", ARTIFACT, False),
    ):
        storage.write_path(KEY, content)
        drop_unless_believed(storage, KEY, artifact)
        assert (tmp_path / "results" / KEY).exists() is stays, content


def test_where_there_is_no_record_nothing_happens(tmp_path: Path) -> None:
    drop_unless_believed(StoreResults(root=str(tmp_path)), KEY, ARTIFACT)

    assert not list(tmp_path.rglob("*"))
