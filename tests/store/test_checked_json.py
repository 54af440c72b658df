from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core.errors import ArtifactDamaged
from mirage_core.pipeline.run_record import load_record, new_record, save_record
from mirage_core.store import Store, fingerprint
from mirage_core.store.digests import OWN, dump_checked, load_checked

RECORD = {"id": "a", "score": 0.5, "small": 1e-05, "text": "naïve", "rows": [1, {"x": None}]}


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
    data = store.place.read(name)
    for harmed in (data.replace(b"42", b"43"), data[:-1], data.replace(OWN.encode(), b"own_sha257")):
        store.place.write(name, harmed)
        with pytest.raises(ArtifactDamaged, match=name):
            load_record(store, name)


def test_another_figure_in_a_manifests_summary_is_noticed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "file").write_text("text")
    made = store.publish("evaluation", fingerprint("x", 1, {}, {}), folder, summary={"accuracy": 0.25}, about={})
    key = f"{made.path}/manifest.json"
    store.place.write(key, store.place.read(key).replace(b"0.25", b"0.75"))
    assert store.verify(made) == [
        f"{key} in {store.url} is not a manifest: its content does not have the sha256 it tells under {OWN}"
    ]
    assert store.find("evaluation", fingerprint("x", 1, {}, {})) is None
