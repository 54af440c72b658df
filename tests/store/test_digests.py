"""Fingerprints of stages, and records that carry their own sha256."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core.errors import ArtifactDamaged, InputError
from mirage_core.pipeline.run_record import load_record, new_record, save_record
from mirage_core.store import Store, fingerprint
from mirage_core.store.digests import OWN_SHA256, dump_checked, load_checked

RECORD = {"id": "a", "score": 0.5, "small": 1e-05, "text": "naïve", "rows": [1, {"x": None}]}


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    expected = fingerprint("s", 1, {"a": 1, "b": [1, 2]}, {"x": "1", "y": "2"})
    assert expected == fingerprint("s", 1, {"b": [1, 2], "a": 1}, {"y": "2", "x": "1"})
    assert len(expected) == 64


def test_everything_that_changes_a_result_changes_the_fingerprint() -> None:
    calls = [
        ("s", 1, {"a": 1}, {"x": "1"}),
        ("t", 1, {"a": 1}, {"x": "1"}),
        ("s", 2, {"a": 1}, {"x": "1"}),
        ("s", 1, {"a": 2}, {"x": "1"}),
        ("s", 1, {"a": 1}, {"x": "2"}),
        ("s", 1, {"a": 1}, {"z": "1"}),
    ]
    assert len({fingerprint(*call) for call in calls}) == len(calls)


@pytest.mark.parametrize("value", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_what_is_not_json_has_no_fingerprint(value: object) -> None:
    with pytest.raises(InputError, match="JSON"):
        fingerprint("s", 1, value, {})


def test_a_known_fingerprint_stays_what_it_is() -> None:
    """Stores outlive versions: a change of the rule would orphan every artifact there is."""
    assert fingerprint("s", 1, {"a": "é"}, {}) == "d55aecbca835a6e8e19308cfe39c051602d3946b73e363abf5300d9b37750cf2"


def test_a_record_comes_back_as_it_was_written() -> None:
    assert load_checked(dump_checked(RECORD)) == RECORD


def test_every_flipped_bit_and_every_truncation_is_noticed() -> None:
    data = dump_checked(RECORD)
    for at in range(len(data)):
        with pytest.raises(ValueError):
            load_checked(data[:at])
        for bit in range(8):
            with pytest.raises(ValueError):  # in the name of the sha256, too
                load_checked(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])


def test_a_record_without_a_sha256_of_its_own_is_taken_as_it_is() -> None:
    assert load_checked(b'{"id": "by an earlier version"}') == {"id": "by an earlier version"}


def test_another_score_in_a_run_record_is_noticed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    name = save_record(store, new_record("micro", {"seed": 42}))
    data = store.backend.read(name)
    for harmed in (data.replace(b"42", b"43"), data[:-1], data.replace(OWN_SHA256.encode(), b"own_sha257")):
        store.backend.write(name, harmed)
        with pytest.raises(ArtifactDamaged, match=name):
            load_record(store, name)


def test_another_figure_in_a_manifests_summary_is_noticed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "file").write_text("text")
    artifact = store.publish("evaluation", fingerprint("x", 1, {}, {}), folder, summary={"accuracy": 0.25}, about={})
    key = f"{artifact.path}/manifest.json"
    store.backend.write(key, store.backend.read(key).replace(b"0.25", b"0.75"))
    assert store.verify(artifact) == [
        f"{key} in {store.url} is not a manifest: its content does not have the sha256 recorded under {OWN_SHA256}"
    ]
    assert store.find("evaluation", fingerprint("x", 1, {}, {})) is None
