"""Evaluate a model folder with several processes: fixed batches, each saved as soon as it is finished.

Batches are fixed before anything starts, so neither the number of processes nor a retry changes an answer. Processes
claim the next unclaimed batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mirage_core.config import Settings
from mirage_core.distributed.collectives import process_device
from mirage_core.distributed.context import current_process
from mirage_core.distributed.job import Job
from mirage_core.distributed.launch import run_job
from mirage_core.distributed.oom import OutOfMemoryBackoff
from mirage_core.errors import DataError, TrainingProcessDied
from mirage_core.evaluation.blind import BLIND_SUFFIX
from mirage_core.evaluation.compare import problem_content
from mirage_core.evaluation.summary import metrics_of
from mirage_core.generation.decode import Latents
from mirage_core.generation.generator import Generator, fixed_batches
from mirage_core.model.loading import load_model
from mirage_core.store.records import (
    PREDICTIONS_FILE,
    load_predictions,
    load_problems,
    save_predictions,
    save_problems,
)
from mirage_core.types import Problem, Progress, ProgressEvent, Scored

METRICS_FILE = "metrics.json"


def evaluate(
    model: Path,
    problems: Sequence[Problem],
    *,
    settings: Settings,
    method: str,
    latents: Latents,
    output: Path,
    scratch: Path,
    progress: Progress,
    blind: bool = False,
) -> dict[str, Any]:
    """Answer all problems with the model in a folder; write predictions.parquet and metrics.json, return the metrics.

    ``blind``: without the picture, as the method's name then says.

    Batches that an earlier attempt with the same model, problems and settings left in ``scratch`` are reused. If a
    batch does not fit into memory, its problems are answered in portions: ``memory`` in the returned metrics (not in
    the file) says so.

    Raises:
        DataError: there are no problems, or two have one id.
        OutOfMemory: not even one problem fits.
        TrainingProcessDied: a process ended early; another attempt continues with the missing batches.
    """
    _check_problems(problems)
    method = f"{method}{BLIND_SUFFIX}" if blind else method
    plan = _plan(model, problems, settings, method, latents)
    _prepare(scratch, plan, problems)
    batches = fixed_batches(problems, settings.evaluation.batch_size)
    missing = [index for index in range(len(batches)) if not _batch_file(scratch, index).is_file()]
    done = len(batches) - len(missing)
    message = f"{method}: {len(problems)} problems"
    progress(ProgressEvent(stage="evaluation", message=message, step=done, total=len(batches)))
    memory: dict[str, Any] = {}
    if missing:
        backoff = OutOfMemoryBackoff(_job(model, settings, method, latents, output, scratch, blind=blind), progress)
        for attempt in backoff:
            with attempt:
                _run(backoff.job, progress)
        memory = backoff.summary
    metrics = _write(_merge(scratch, problems, len(batches)), method=method, latents=latents, output=output)
    return {**metrics, "memory": memory} if memory else metrics


def _run(job: Job, progress: Progress) -> None:
    """Run the evaluation's processes; batches that an earlier attempt claimed and did not finish are unclaimed."""
    shutil.rmtree(_claims(job.scratch), ignore_errors=True)
    _claims(job.scratch).mkdir(parents=True)
    run_job(job, progress=progress, on_checkpoint=_no_checkpoint)


def problems_of_batches(
    problems: Sequence[Problem],
    batch_size: int,
    choose: Callable[[Sequence[tuple[int, ...]]], Sequence[tuple[int, ...]]],
) -> list[Problem]:
    """Return the problems of some consecutive batches, in their order.

    Splitting them into batches again gives the same batches, so their answers equal those of the full evaluation.
    """
    selected = {index for batch in choose(fixed_batches(problems, batch_size)) for index in batch}
    return [problem for index, problem in enumerate(problems) if index in selected]


def merge_folders(
    folders: Sequence[Path], problems: Sequence[Problem], *, method: str, latents: Latents, output: Path
) -> dict[str, Any]:
    """Merge folders with the answers to a part of the problems each into what ``evaluate`` of all problems writes.

    Raises:
        DataError: a problem has no answer.
    """
    answers = _by_problem(pair for folder in folders for pair in load_predictions(folder))
    missing = [problem.id for problem in problems if problem.id not in answers]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(problems)} problems have no answer in the parts, the first is {missing[0]}: the "
            "parts do not belong to these problems; evaluate again"
        )
    scored = [pair for problem in problems for pair in answers[problem.id]]
    return _write(scored, method=method, latents=latents, output=output)


def evaluate_rank(job: Job, progress: Progress) -> None:
    """Answer unclaimed batches until none is left: the work of one process of an evaluation job."""
    problems = load_problems(job.input("problems"))
    batches = fixed_batches(problems, job.settings.evaluation.batch_size)
    settings = job.settings.model
    device = process_device()
    model = load_model(job.input("model"), dtype=settings.dtype, attention=settings.attention, device=device)
    generator = Generator.for_evaluation(
        model,
        job.settings,
        method=job.options["method"],
        latents=job.options["latents"],
        seed=job.seed,
        blind=job.options.get("blind", False),
    )
    for index, indices in enumerate(batches):
        if _batch_file(job.scratch, index).is_file() or not _claim(job.scratch, index):
            continue
        scored = [
            pair for part in _parts(indices, job.portion) for pair in generator.scored([problems[at] for at in part])
        ]
        _save_batch(_batch_file(job.scratch, index), scored)
        progress(_event(job, scored, len(batches)))


def _parts(indices: Sequence[int], portion: int | None) -> list[Sequence[int]]:
    """A batch as one part, or in portions if it did not fit into memory."""
    size = portion or len(indices)
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def _write(scored: Sequence[Scored], *, method: str, latents: Latents, output: Path) -> dict[str, Any]:
    """Write predictions.parquet and metrics.json, and return the metrics."""
    output.mkdir(parents=True, exist_ok=True)
    save_predictions(output / PREDICTIONS_FILE, scored)
    metrics = metrics_of(scored, method=method, latents=latents)
    (output / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def _check_problems(problems: Sequence[Problem]) -> None:
    if not problems:
        raise DataError("nothing to evaluate: got no problems, expected at least one; look at the split and the file")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"two problems have the id {problem.id!r}; ids must be unique within an evaluation")
        seen.add(problem.id)


def _plan(model: Path, problems: Sequence[Problem], settings: Settings, method: str, latents: str) -> dict[str, Any]:
    """What decides the batches in a scratch folder; batches of another plan are deleted."""
    return {
        "model": _digest_files(model),
        "problems": hashlib.sha256(repr([problem_content(problem) for problem in problems]).encode()).hexdigest(),
        "settings": settings.model_dump(mode="json", exclude={"runtime", "report", "analysis"}),
        "method": method,
        "latents": latents,
    }


def _digest_files(folder: Path) -> str:
    """The sha256 of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as opened:
            digest.update(f"{file.name}\n{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _prepare(scratch: Path, plan: dict[str, Any], problems: Sequence[Problem]) -> None:
    """Prepare the scratch folder for this plan: delete batches of another plan, and all claims."""
    plan_file = scratch / "plan.json"
    text = json.dumps(plan, sort_keys=True)
    if not plan_file.is_file() or plan_file.read_text(encoding="utf-8") != text:
        shutil.rmtree(_batches(scratch), ignore_errors=True)
    shutil.rmtree(_claims(scratch), ignore_errors=True)
    for folder in (_batches(scratch), _claims(scratch), _problems(scratch)):
        folder.mkdir(parents=True, exist_ok=True)
    save_problems(_problems(scratch) / "problems.parquet", problems)
    plan_file.write_text(text, encoding="utf-8")


def _job(
    model: Path, settings: Settings, method: str, latents: str, output: Path, scratch: Path, *, blind: bool
) -> Job:
    return Job(
        program="evaluate",
        settings=settings,
        seed=settings.seed,
        inputs={"model": model, "problems": _problems(scratch)},
        output=output,
        scratch=scratch,
        options={"method": method, "latents": latents, **({"blind": True} if blind else {})},
    )


def _merge(scratch: Path, problems: Sequence[Problem], batches: int) -> list[Scored]:
    """Merge the answers of all batches in the problems' order."""
    files = [_batch_file(scratch, index) for index in range(batches)]
    for index, file in enumerate(files):
        if not file.is_file():
            raise TrainingProcessDied(
                f"evaluation ended without batch {index} of {batches}; run it again, finished batches are reused"
            )
    answers = _by_problem(pair for file in files for pair in load_predictions(file))
    return [pair for problem in problems for pair in answers[problem.id]]


def _by_problem(pairs: Iterable[Scored]) -> dict[str, list[Scored]]:
    answers: dict[str, list[Scored]] = {}
    for pair in pairs:
        answers.setdefault(pair[0].problem_id, []).append(pair)
    return answers


def _save_batch(file: Path, scored: Sequence[Scored]) -> None:
    """Save under a temporary name first: an existing batch file is complete."""
    partial = file.with_suffix(f".rank-{current_process().rank}.part")
    save_predictions(partial, scored)
    os.replace(partial, file)


def _claim(scratch: Path, index: int) -> bool:
    """Claim a batch; exclusive creation of a file is atomic, so only one process succeeds."""
    try:
        (_claims(scratch) / f"{index:05d}").open("x").close()
    except FileExistsError:
        return False
    return True


def _event(job: Job, scored: Sequence[Scored], batches: int) -> ProgressEvent:
    done = len(list(_batches(job.scratch).glob("*.parquet")))
    right = sum(score.correct for _, score in scored) / len(scored)
    return ProgressEvent(
        stage="evaluation",
        message=f"{job.options['method']}: {scored[0][0].benchmark}",
        step=done,
        total=batches,
        metrics={"batch_accuracy": right},
    )


def _no_checkpoint(step: int, folder: Path) -> None:
    """An evaluation saves finished batches instead of checkpoints."""


def _batches(scratch: Path) -> Path:
    return scratch / "batches"


def _claims(scratch: Path) -> Path:
    return scratch / "claims"


def _problems(scratch: Path) -> Path:
    return scratch / "problems"


def _batch_file(scratch: Path, index: int) -> Path:
    return _batches(scratch) / f"{index:05d}.parquet"
