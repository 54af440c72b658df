from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import InputError
from mirage_core.store import Store, fingerprint

FolderOf = Callable[..., Path]
RUN = fingerprint("relaxation", 1, {}, {})


def files_of(store: Store, step: int) -> dict[str, int]:
    return store.backend.sizes(f"checkpoints/{RUN[:20]}/{step:08d}")


def test_the_newest_checkpoint_comes_back_and_only_two_are_kept(store: Store, folder: FolderOf) -> None:
    assert store.latest_checkpoint(RUN) is None
    for step in (50, 100, 150):
        store.save_checkpoint(RUN, step, folder(state=f"step {step}"))
    step, path = store.latest_checkpoint(RUN) or (0, Path())
    assert (step, (path / "state").read_text()) == (150, "step 150")
    assert files_of(store, 50) == {}
    assert files_of(store, 100)


def test_as_many_checkpoints_are_kept_as_were_asked_for(store: Store, folder: FolderOf) -> None:
    for step in (50, 100, 150, 200):
        store.save_checkpoint(RUN, step, folder(state=f"step {step}"), keep=3)
    assert [step for step in (50, 100, 150, 200) if files_of(store, step)] == [100, 150, 200]
    store.save_checkpoint(RUN, 250, folder(state="step 250"), keep=1)
    assert [step for step in (100, 150, 200, 250) if files_of(store, step)] == [250]
    with pytest.raises(InputError, match="keep = 0"):
        store.save_checkpoint(RUN, 300, folder(state="none"), keep=0)


@pytest.mark.parametrize("harm", ["damaged", "missing", "no manifest"])
def test_a_faulty_checkpoint_is_passed_over_for_an_older_good_one(
    store: Store, folder: FolderOf, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save_checkpoint(RUN, 50, folder(state="good"))
    store.save_checkpoint(RUN, 100, folder(state="newer"))
    name = next(name for name in files_of(store, 100) if name.endswith("state"))
    at = f"checkpoints/{RUN[:20]}/00000100"
    if harm == "damaged":
        store.backend.write(f"{at}/{name}", b"nEwer")
    elif harm == "missing":
        store.backend.remove(f"{at}/{name}")
    else:
        store.backend.remove(f"{at}/manifest.json")
    with caplog.at_level(logging.WARNING):
        step, path = store.latest_checkpoint(RUN) or (0, Path())
    assert (step, (path / "state").read_text()) == (50, "good")
    assert ("older checkpoint" in caplog.text) == (harm != "no manifest")


def test_a_step_saved_again_has_its_new_state(store: Store, folder: FolderOf) -> None:
    store.save_checkpoint(RUN, 50, folder(state="first"))
    store.save_checkpoint(RUN, 50, folder(state="second"))
    step, path = store.latest_checkpoint(RUN) or (0, Path())
    assert (step, (path / "state").read_text()) == (50, "second")
    assert len(files_of(store, 50)) == 2


def test_dropped_checkpoints_are_gone_and_other_runs_stay(store: Store, folder: FolderOf) -> None:
    other = fingerprint("grounding", 1, {}, {})
    store.save_checkpoint(RUN, 50, folder(state="a"))
    store.save_checkpoint(other, 50, folder(state="b"))
    store.drop_checkpoints(RUN)
    assert store.latest_checkpoint(RUN) is None
    assert store.latest_checkpoint(other) is not None
    store.drop_checkpoints(RUN)
