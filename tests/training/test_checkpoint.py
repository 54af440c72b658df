"""Checkpoints in shards: any part is put together again, nothing is missing unnoticed, kept files travel along."""

from __future__ import annotations

import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.events import EventReader, EventWriter
from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.training.checkpoint.checkpoint import (
    CheckpointSaver,
    read_checkpoint,
    restore_extra_files,
    shard_file,
    write_common,
)
from mirage_core.training.checkpoint.sharded_state import KINDS, EngineState, Piece, Shard, write_shard
from mirage_core.training.logging.curves import Curves
from tests.training.small_world import make_job

SHAPES = {"matrix": (5, 4), "vector": (7,)}


def whole(kind: str, name: str) -> torch.Tensor:
    size = int(torch.Size(SHAPES[name]).numel())
    return torch.arange(size, dtype=torch.float32) + 100 * KINDS.index(kind)


def shards(cuts: dict[str, list[int]]) -> list[Shard]:
    """The state cut at some places of each tensor, one shard a run."""
    found: list[dict[str, Piece]] = []
    for name, places in cuts.items():
        size = len(whole(KINDS[0], name))
        edges = [0, *sorted(places), size]
        for rank, (begin, end) in enumerate(pairwise(edges)):
            found.extend({} for _ in range(rank + 1 - len(found)))
            if begin < end:
                found[rank] |= {f"{kind}/{name}": Piece(begin, whole(kind, name)[begin:end]) for kind in KINDS}
    return [Shard(3, SHAPES, pieces) for pieces in found]


def checkpoint(folder: Path, parts: list[Shard], program: str = "text") -> Path:
    folder.mkdir()
    curves = Curves()
    curves.add(3, {"loss": 1.5})
    with as_process(ProcessContext.on_one_host(0, len(parts))):
        write_common(folder, program, 3, parts[0], curves)
    for rank, part in enumerate(parts):
        write_shard(shard_file(folder, rank), part)
    return folder


@settings(deadline=None)  # the first writes to a disk that others use take their time
@given(
    matrix=st.lists(st.integers(0, 20), max_size=4),
    vector=st.lists(st.integers(0, 7), max_size=4),
    wanted=st.tuples(st.integers(0, 19), st.integers(1, 20)),
)
def test_any_part_comes_back_however_the_state_was_cut(
    tmp_path_factory: pytest.TempPathFactory, matrix: list[int], vector: list[int], wanted: tuple[int, int]
) -> None:
    folder = tmp_path_factory.mktemp("cut") / "checkpoint"
    step, state, curves = read_checkpoint(checkpoint(folder, shards({"matrix": matrix, "vector": vector})), "text")
    assert (step, state.steps, curves.points("loss")) == (3, 3, [(3, 1.5)])
    begin, count = wanted[0], min(wanted[1], 20 - wanted[0])
    for kind in KINDS:
        assert torch.equal(state.part(kind, "matrix", begin, count), whole(kind, "matrix")[begin : begin + count])
        assert torch.equal(state.tensor(kind, "vector"), whole(kind, "vector"))
    assert state.tensor(KINDS[0], "matrix").shape == (5, 4)
    state.close()
    shutil.rmtree(folder)


def test_missing_and_broken_shards_are_noticed_and_named(tmp_path: Path) -> None:
    parts = shards({"matrix": [10], "vector": [3]})
    gap = EngineState(3, SHAPES, [shard_file(checkpoint(tmp_path / "gap", parts), 0)])
    assert torch.equal(gap.part("master", "matrix", 2, 8), whole("master", "matrix")[2:10])
    with pytest.raises(ArtifactDamaged, match="holds 1 of the values 9 to 11 of master/matrix"):
        gap.part("master", "matrix", 9, 2)
    shard_file(tmp_path / "gap", 1).unlink()
    with pytest.raises(ArtifactDamaged, match=r"gap is not a training checkpoint: shard-00001\.safetensors"):
        read_checkpoint(tmp_path / "gap", "text")
    (tmp_path / "gap" / "checkpoint.json").write_text("[]")
    with pytest.raises(ArtifactDamaged, match="not a training checkpoint"):
        read_checkpoint(tmp_path / "gap", "text")
    with pytest.raises(TrainingError, match=r"is a checkpoint of grpo .*, expected text"):
        read_checkpoint(checkpoint(tmp_path / "other", parts, "grpo"), "text")


def saver(inputs: Path, work: Path, *, background: bool) -> tuple[CheckpointSaver, EventReader, Path]:
    job = make_job(inputs, work, "text", runtime={"async_checkpoints": background})
    job.scratch.mkdir(parents=True)
    events = job.scratch / "events.jsonl"
    return CheckpointSaver(job, EventWriter(events)), EventReader([events]), job.scratch


def test_a_shard_is_as_it_was_when_training_has_changed_the_weights(inputs: Path, tmp_path: Path) -> None:
    for background in (True, False):
        saving, events, scratch = saver(inputs, tmp_path / str(background), background=background)
        weights = torch.zeros(3, 1_000_000)
        pieces = {f"{kind}/w": Piece(0, row) for kind, row in zip(KINDS, weights, strict=True)}
        saving.save(3, Shard(3, {"w": (1_000_000,)}, pieces), Curves())
        weights += 1  # the next step
        saving.wait()
        (said,) = events.poll()
        assert (said["step"], said["part"], said["parts"]) == (3, 0, 1)
        _, state, _ = read_checkpoint(scratch / "checkpoints" / "step-00000003", "text")
        assert float(state.part("master", "w").abs().max()) == 0.0


def test_two_are_never_written_at_once_and_an_error_is_not_lost(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, written = threading.Event(), list[int]()

    def slow(path: Path, shard: Shard) -> None:
        assert go_on.wait(60)
        written.append(shard.steps)
        if shard.steps == 2:
            raise OSError("No space left on device")

    monkeypatch.setattr("mirage_core.training.checkpoint.checkpoint.write_shard", slow)
    saving, events, _ = saver(inputs, tmp_path, background=True)
    pieces = {f"{kind}/w": Piece(0, torch.zeros(2)) for kind in KINDS}
    saving.save(1, Shard(1, {"w": (2,)}, pieces), Curves())
    assert written == []  # the call has returned before the file is there
    threading.Timer(0.2, go_on.set).start()
    saving.save(2, Shard(2, {"w": (2,)}, pieces), Curves())
    assert written[0] == 1
    with pytest.raises(OSError, match="No space left"):
        saving.wait()
    assert [event["step"] for event in events.poll()] == [1]


def test_kept_files_travel_with_a_checkpoint_and_come_back(inputs: Path, tmp_path: Path) -> None:
    saving, _, scratch = saver(inputs, tmp_path / "first", background=True)
    kept = scratch / "kept"
    kept.mkdir()
    (kept / "best.safetensors").write_bytes(b"weights after step 3")
    (kept / ".best.safetensors.part").write_bytes(b"half")
    pieces = {f"{kind}/w": Piece(0, torch.zeros(2)) for kind in KINDS}
    saving.save(3, Shard(3, {"w": (2,)}, pieces), Curves())
    (tmp_path / "new").write_bytes(b"weights after step 4")
    os.replace(tmp_path / "new", kept / "best.safetensors")
    saving.wait()
    checkpoint = scratch / "checkpoints" / "step-00000003"
    other = tmp_path / "other" / "kept"
    other.mkdir(parents=True)
    (other / "of-a-later-step").write_text("no longer true")
    restore_extra_files(checkpoint, other.parent)
    assert {file.name: file.read_bytes() for file in other.iterdir()} == {"best.safetensors": b"weights after step 3"}
    (other / "best.safetensors").write_bytes(b"written over")
    assert (checkpoint / "kept" / "best.safetensors").read_bytes() == b"weights after step 3"
    restore_extra_files(None, other.parent)
    assert list(other.iterdir()) == []
