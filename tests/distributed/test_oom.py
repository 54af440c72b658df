"""Out of memory: recognised in every form, answered by smaller portions of the same batch, down to a clear error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.distributed import launch
from mirage_core.distributed.events import EventWriter, group_error, write_failure
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import OutOfMemoryBackoff, halve_micro_batch, is_out_of_memory, micro_batch_size
from mirage_core.errors import DataError, OutOfMemory
from mirage_core.pipeline.stage import Stage, StageContext, run_stage
from mirage_core.pipeline.stages.train import train
from mirage_core.store import Store
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.sft.train import run_supervised
from mirage_core.training.warmup.objective import WarmupObjective, run_warmup
from mirage_core.types import Artifact, ProgressEvent
from tests.forked import forked_jobs
from tests.training.small_world import make_job, quiet, small_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "starved"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("NCCL error: unhandled cuda error ... Cuda failure 2 'out of memory'"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (DataError("the shop is out of memory cards"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_recognised_by_kind_and_message(error: Exception, starved: bool) -> None:
    assert is_out_of_memory(error) is starved


def test_a_lack_of_memory_in_one_process_is_the_cause_whatever_the_others_saw(tmp_path: Path) -> None:
    files = [tmp_path / f"{rank}.json" for rank in range(3)]
    write_failure(files[0], RuntimeError("[gloo] Connection closed by peer"), 0)
    write_failure(files[1], ValueError("a later mess"), 1)
    write_failure(files[2], torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2)
    error = group_error(files, [1, 1, 1], "log", ("0", "1", "2"))
    assert isinstance(error, OutOfMemory)
    assert "process 2: OutOfMemoryError: CUDA out of memory" in str(error)


@pytest.mark.parametrize(
    ("program", "sections", "portions"),
    [
        ("text", {"direct_sft": {"batch_size": 12}}, [6, 3, 2, 1]),
        ("grounding", {"grounding": {"batch_size": 12, "micro_batch_size": 2}}, [2, 1]),
        ("relaxation", {"relaxation": {"batch_size": 4, "micro_batch_size": 64}}, [2, 1]),
        ("grpo", {"grpo": {"prompts_per_step": 3, "group_size": 4}}, [8, 4, 2, 1]),
        ("warmup", {"model": {"source": "from_scratch", "warmup": {"batch_size": 64}}}, [32, 16, 8]),
        ("evaluate", {"evaluation": {"batch_size": 3}}, [3, 2, 1]),
    ],
)
def test_portions_are_halved_down_to_the_smallest(
    tmp_path: Path, program: Any, sections: dict[str, Any], portions: list[int]
) -> None:
    sections = {name: section for name, section in sections.items() if name != "evaluation"}
    job = make_job(tmp_path, tmp_path, program, runtime={"processes": 2}, **sections)
    if program == "evaluate":
        evaluation = job.settings.evaluation.model_copy(update={"batch_size": 3})
        job = job.model_copy(update={"settings": job.settings.model_copy(update={"evaluation": evaluation})})
    seen = []
    step: Job | None = job
    while step is not None:
        seen.append(micro_batch_size(step))
        step = halve_micro_batch(step)
    assert seen == portions


def test_what_does_not_fit_is_run_again_smaller_and_told(tmp_path: Path) -> None:
    job = make_job(tmp_path, tmp_path, "text", direct_sft={"batch_size": 8})
    tried: list[int] = []
    progress_events: list[ProgressEvent] = []

    def run(fitting: Job) -> None:
        tried.append(micro_batch_size(fitting))
        if micro_batch_size(fitting) > 2:
            raise OutOfMemory("process 0: CUDA out of memory")

    backoff = OutOfMemoryBackoff(job, progress_events.append)
    complete(backoff, run)
    assert backoff.summary == {"portion": 2, "portion_that_did_not_fit": 8}
    assert tried == [8, 4, 2]
    assert "with a micro-batch of 8, going on with 4" in progress_events[0].message
    fits_at_once = OutOfMemoryBackoff(job, progress_events.append)
    complete(fits_at_once, lambda fitting: None)
    assert fits_at_once.summary == {}


def test_what_never_fits_ends_with_the_settings_to_change(tmp_path: Path) -> None:
    def run(fitting: Job) -> None:
        raise OutOfMemory("process 0: CUDA out of memory")

    advice = r"even with a micro-batch of 1: set grounding\.gradient_checkpointing=true"
    with pytest.raises(OutOfMemory, match=advice) as caught:
        complete(OutOfMemoryBackoff(make_job(tmp_path, tmp_path, "grounding"), quiet), run)
    assert not caught.value.transient


def complete(backoff: OutOfMemoryBackoff, run: Callable[[Job], None]) -> None:
    for attempt in backoff:
        with attempt:
            run(backoff.job)


def losses(job: Job, program: Any) -> dict[str, list[float]]:
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    program(job, EventWriter(job.scratch / "events.jsonl"))
    rows = read_table(job.output / "curves.parquet")
    names = {"loss", "gradient_norm"}
    return {name: [row["value"] for row in rows if row["name"] == name] for name in names}


@pytest.mark.parametrize(
    ("program", "run", "portion"),
    [
        ("text", run_supervised, 2),
        ("grounding", run_supervised, 3),
        ("relaxation", run_supervised, 1),
        ("grpo", run_grpo, 5),
    ],
)
def test_losses_in_portions_are_those_of_the_whole_batch(
    inputs: Path, tmp_path: Path, program: Any, run: Any, portion: int
) -> None:
    whole = losses(make_job(inputs, tmp_path / "whole", program), run)
    job = make_job(inputs, tmp_path / "cut", program).model_copy(update={"portion": portion})
    cut = losses(job, run)
    assert len(whole["loss"]) > 3
    for name, values in whole.items():
        assert cut[name] == pytest.approx(values, rel=1e-3, abs=1e-6)


WARMUP = {"source": "from_scratch", "warmup": {"steps": 3, "batch_size": 24, "warmup_steps": 1, "levels": [3]}}


def test_a_warm_up_in_portions_is_that_of_the_whole_batch(inputs: Path, tmp_path: Path) -> None:
    sizes: list[int] = []
    batch = WarmupObjective.batch

    def noted(self: WarmupObjective, step: int, indices: Any) -> Any:
        sizes.append(len(indices))
        return batch(self, step, indices)

    whole = losses(make_job(inputs, tmp_path / "whole", "warmup", model=WARMUP), run_warmup)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WarmupObjective, "batch", noted)
        job = make_job(inputs, tmp_path / "cut", "warmup", model=WARMUP).model_copy(update={"portion": 8})
        cut = losses(job, run_warmup)
    assert sizes == [8] * 9
    for name, values in whole.items():
        assert cut[name] == pytest.approx(values, rel=1e-4)


def test_a_stage_that_runs_out_of_memory_goes_on_from_its_checkpoint_in_smaller_portions(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank raises torch.OutOfMemoryError at step 5 for more than 3 examples at once; step 3 was its checkpoint."""
    monkeypatch.chdir(ROOT)
    starving = partial(launch.run_job, worker="tests.distributed.starved_worker")
    monkeypatch.setattr(launch, "run_job", starving)
    store = Store.open(tmp_path / "store", cache=tmp_path / "cache")
    handles = {name: publish(store, name, inputs / name) for name in ("model", "examples")}
    made: Stage = Stage(
        name="grounding",
        version=1,
        kind="model",
        inputs=("model", "examples"),
        identity=lambda settings: {"seed": settings.seed},
        run=run_grounding,
        checkpoints=True,
    )
    messages: list[str] = []
    with forked_jobs():
        result = run_stage(made, small_settings(), handles, store, lambda event: messages.append(event.message))

    assert result.artifact.summary["portion"] == 3
    assert result.artifact.summary["portion_that_did_not_fit"] == 6
    assert any("out of memory with a micro-batch of 6, going on with 3" in line for line in messages)
    assert "resumes from the checkpoint of step 3" in messages
    assert "portion" not in str(store.manifest(result.artifact).about["settings"])
    rows = read_table(store.fetch(result.artifact) / "curves.parquet")
    starved = [row["value"] for row in rows if row["name"] == "loss"]
    whole = losses(make_job(inputs, tmp_path / "whole", "grounding"), run_supervised)["loss"]
    assert starved == pytest.approx(whole, rel=1e-4)


def run_grounding(context: StageContext) -> dict[str, Any]:
    return train(context, "grounding")


def publish(store: Store, kind: str, folder: Path) -> Artifact:
    fingerprint = kind.encode().hex().ljust(64, "0")
    copy = Path(store.cache) / "copies" / kind
    shutil.copytree(folder, copy)
    return store.publish(kind, fingerprint, copy, summary={}, about={})
