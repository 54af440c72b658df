"""The result storage of our own: what it hands to Prefect, which runs whatever a record names."""

from __future__ import annotations

import base64
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from prefect.results import ResultStore

from mirage_core.errors import InputError, TrainingError
from mirage_core.types import Artifact
from tasks.results import RecordRefused, StoreResults, believable
from tests.tasks.test_cache import ARTIFACT, record


class Harmless:
    """Leaves a file where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.witness,)


PICKLE = {"type": "pickle", "picklelib": "cloudpickle", "picklelib_version": None}


def pickled(witness: Path) -> str:
    return base64.encodebytes(pickle.dumps(Harmless(witness))).decode()


def plain() -> dict[str, Any]:
    return dict(json.loads(record()))


def disguises(witness: Path) -> dict[str, bytes]:
    """Records that make Prefect unpickle, each in another way."""
    good, text = plain(), pickled(witness)
    metadata = json.dumps(good["metadata"])
    named = json.dumps({"serializer": PICKLE})
    return {
        "named": json.dumps({"metadata": {"serializer": PICKLE}, "result": text}).encode(),
        "compressed": json.dumps({"metadata": {"serializer": {"type": "compressed/pickle"}}, "result": text}).encode(),
        "no serializer": json.dumps({"metadata": {}, "result": text}).encode(),
        "no metadata": json.dumps({"result": text}).encode(),
        "old form": json.dumps({"serializer": PICKLE, "data": text}).encode(),
        "old form on top": json.dumps({**good, "result": text, "serializer": PICKLE}).encode(),
        "twice": f'{{"metadata": {metadata}, "metadata": {named}, "result": {json.dumps(text)}}}'.encode(),
        "twice, the good one last": f'{{"metadata": {named}, "metadata": {metadata}, "result": "1"}}'.encode(),
    }


def test_prefect_itself_runs_what_a_record_names(tmp_path: Path) -> None:
    """The reason for all this: where it fails one day, the guard is no longer needed."""
    from prefect.filesystems import LocalFileSystem

    witness = tmp_path / "executed"
    (tmp_path / "key").write_bytes(disguises(witness)["old form on top"])

    ResultStore(result_storage=LocalFileSystem(basepath=str(tmp_path))).exists("key")

    assert witness.exists()


@pytest.mark.parametrize("how", list(disguises(Path("x"))))
def test_a_pickle_in_any_disguise_is_never_loaded(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    witness = tmp_path / "executed"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "key").write_bytes(disguises(witness)[how])
    store = ResultStore(result_storage=StoreResults(root=str(tmp_path)))

    with caplog.at_level(logging.WARNING):
        there = store.exists("key")

    assert not witness.exists()
    if how == "twice, the good one last":
        assert store.read("key").result == 1
    else:
        assert not there
        assert "the result record key is not read" in caplog.text


@pytest.mark.parametrize(
    "serializer",
    [{"type": "pickle"}, {"type": "compressed/json"}, {"object_decoder": "os.system"}, {"jsonlib": "pickle"}],
)
def test_a_record_with_another_serializer_is_refused(serializer: dict[str, str]) -> None:
    with pytest.raises(RecordRefused, match="serializer"):
        believable(record(**serializer))


@pytest.mark.parametrize(
    "held",
    [
        {"__class__": "subprocess.Popen", "data": "true"},
        [{"deep": {"__class__": "pathlib.Path", "data": "/"}}],
        {"__exc_type__": "antigravity.Error", "message": ""},
        {"__exc_type__": "builtins.SystemExit", "message": "0"},
    ],
)
def test_a_record_that_would_make_anything_else_than_a_handle_is_refused(held: Any) -> None:
    with pytest.raises(RecordRefused, match="it holds"):
        believable(record(held))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x80\x04", b"\xff\xfe", b"[]", b"null", b'{"metadata": 1, "result": "1"}']
)
def test_bytes_that_are_no_record_are_refused(content: bytes) -> None:
    with pytest.raises(RecordRefused):
        believable(content)


def test_what_prefect_writes_it_reads_again(tmp_path: Path) -> None:
    from prefect.serializers import JSONSerializer

    storage = StoreResults(root=str(tmp_path))
    storage._block_document_id = "00000000-0000-4000-8000-000000000000"  # type: ignore[assignment]
    store = ResultStore(result_storage=storage, serializer=JSONSerializer(), cache_result_in_memory=False)
    for key, held in (("a/handle", ARTIFACT), ("a/failure", TrainingError("the loss is nan")), ("a/list", [1, "ü"])):
        store.write(held, key=key)

    assert store.read("a/handle").result == ARTIFACT
    assert isinstance(store.read("a/handle").result, Artifact)
    assert str(store.read("a/failure").result) == "the loss is nan"
    assert store.read("a/list").result == [1, "ü"]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("a/*")} == {
        "results/a/handle", "results/a/failure", "results/a/list"
    }  # fmt: skip


def test_every_flipped_bit_and_every_truncation_of_a_record_is_refused(tmp_path: Path) -> None:
    storage, file = StoreResults(root=str(tmp_path)), tmp_path / "results" / "key"
    storage.write_path("key", record())
    good = file.read_bytes()
    flips = (
        good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :] for at in range(len(good)) for bit in (0, 5, 7)
    )
    for damaged in (*flips, *(good[:length] for length in range(len(good)))):
        with pytest.raises(RecordRefused):
            believable(damaged)
    assert json.loads(storage.read_path("key")) == plain()


def test_a_record_of_an_earlier_version_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "key").write_bytes(record())
    assert json.loads(StoreResults(root=str(tmp_path)).read_path("key")) == plain()


def test_a_record_that_is_not_there_is_what_prefect_calls_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no result"):
        StoreResults(root=str(tmp_path)).read_path("gone")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_key_never_leaves_the_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, ValueError, RuntimeError)) as caught:
        StoreResults(root=str(tmp_path / "store")).write_path(path, b"x")

    assert "safe" in str(caught.value) or path in str(caught.value)
    assert not list(tmp_path.rglob("*"))


def test_what_is_handed_out_is_written_anew_and_not_what_lay_there(tmp_path: Path) -> None:
    given = disguises(tmp_path)["twice, the good one last"]

    handed = believable(given)

    assert b"pickle" in given and b"pickle" not in handed
    assert handed.count(b'"metadata"') == 1


def test_a_serializer_beside_the_metadata_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(RecordRefused, match=r"it holds \['metadata', 'result', 'serializer'\]"):
        believable(disguises(tmp_path)["old form on top"])
