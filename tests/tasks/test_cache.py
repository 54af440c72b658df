"""Which result records are believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirage_core.types import Artifact
from tasks.cache import record_fault

ARTIFACT = Artifact(kind="model", path="model/abc", digest="d" * 64, summary={})


def record(**changes: Any) -> bytes:
    """A record as Prefect writes it, with changes to its serializer or its result."""
    from prefect.serializers import JSONSerializer

    serializer = {**json.loads(JSONSerializer().model_dump_json()), **changes.get("serializer", {})}
    held = changes.get("result", {"__class__": "mirage_core.types.Artifact", "data": ARTIFACT.model_dump()})
    return json.dumps({"metadata": {"serializer": serializer}, "result": json.dumps(held)}).encode()


def test_a_record_of_the_artifact_in_the_store_is_believed() -> None:
    assert record_fault(record(), ARTIFACT) is None


@pytest.mark.parametrize(
    "serializer",
    [{"type": "pickle"}, {"type": "compressed/pickle"}, {"object_decoder": "os.system"}, {"jsonlib": "pickle"}],
)
def test_a_record_with_another_serializer_is_refused(serializer: dict[str, str]) -> None:
    assert "serializer" in str(record_fault(record(serializer=serializer), ARTIFACT))


def test_a_record_of_another_class_is_refused() -> None:
    assert record_fault(record(result={"__class__": "subprocess.Popen", "data": "true"}), ARTIFACT)


def test_a_record_of_an_artifact_that_is_gone_is_refused() -> None:
    assert "no longer" in str(record_fault(record(), None))


def test_a_record_of_another_digest_is_refused() -> None:
    assert "digest" in str(record_fault(record(), ARTIFACT.model_copy(update={"digest": "e" * 64})))


@pytest.mark.parametrize("content", [b"{}", b"\x80\x04", b"[]", b'{"metadata": {}, "result": 1}'])
def test_bytes_that_are_no_record_are_refused(content: bytes) -> None:
    assert "not a result record" in str(record_fault(content, ARTIFACT))
