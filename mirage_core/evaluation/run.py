"""Evaluation of a model folder by several processes: fixed batches, each saved as soon as it is finished.

Batches are cut before anything starts, so neither their number of processes nor a retry changes an answer. Processes
take the next batch that is not taken yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import DataError, TrainingProcessDied
from mirage_core.evaluation.answer import Answerer, Latents, fixed_batches
from mirage_core.evaluation.metrics import AccuracyRow, Scored, accuracy_rows, as_json, run_scores
from mirage_core.model.base import load_model
from mirage_core.store.records import (
    PREDICTIONS_FILE,
    load_predictions,
    load_problems,
    save_predictions,
    save_problems,
)
from mirage_core.training.job import Job
from mirage_core.training.launch import run_job
from mirage_core.training.processes import process_device
from mirage_core.types import Problem, Progress, ProgressEvent

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
) -> dict[str, Any]:
    """Answer all problems with the model in a folder; writes predictions.parquet and metrics.json, returns the metrics.

    What an earlier attempt with the same model, problems and settings left in ``scratch`` is used again.

    Raises:
        DataError: there are no problems, or two of one id.
        TrainingProcessDied: a process ended early; another attempt goes on with the batches that are missing.
    """
    _check(problems)
    plan = _plan(model, problems, settings, method, latents)
    _prepare(scratch, plan, problems)
    batches = fixed_batches(problems, settings.evaluation.batch_size)
    missing = [index for index in range(len(batches)) if not _batch_file(scratch, index).is_file()]
    done = len(batches) - len(missing)
    said = f"{method}: {len(problems)} problems"
    progress(ProgressEvent(stage="evaluation", message=said, step=done, total=len(batches)))
    if missing:
        job = _job(model, settings, method, latents, output, scratch)
        run_job(job, progress=progress, on_checkpoint=_no_checkpoint)
    scored = _merge(scratch, problems, len(batches))
    output.mkdir(parents=True, exist_ok=True)
    save_predictions(output / PREDICTIONS_FILE, scored)
    metrics = metrics_of(scored, method=method, latents=latents)
    (output / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def evaluate_rank(job: Job, rank: int, world_size: int, emit: Progress) -> None:
    """Answer batches nobody has taken, until none is left: one process's part of an evaluation job."""
    problems = load_problems(job.input("problems"))
    batches = fixed_batches(problems, job.settings.evaluation.batch_size)
    wanted = job.settings.model
    loaded = load_model(job.input("model"), dtype=wanted.dtype, attention=wanted.attention)
    loaded.backbone.to(process_device(rank, world_size))
    answerer = Answerer(
        loaded, job.settings, method=job.options["method"], latents=job.options["latents"], seed=job.seed
    )
    for index, indices in enumerate(batches):
        if _batch_file(job.scratch, index).is_file() or not _take(job.scratch, index):
            continue
        scored = answerer.scored([problems[at] for at in indices])
        _save_batch(_batch_file(job.scratch, index), scored, rank)
        emit(_event(job, scored, len(batches)))


def metrics_of(scored: Sequence[Scored], *, method: str, latents: str) -> dict[str, Any]:
    """Return the metrics of one method: ``scores`` in a run record's form, and the full ``rows`` behind them."""
    rows: list[AccuracyRow] = accuracy_rows(scored)
    return {
        "method": method,
        "latents": latents,
        "scores": run_scores(rows),
        "rows": [as_json(row) for row in rows],
    }


def _check(problems: Sequence[Problem]) -> None:
    if not problems:
        raise DataError("nothing to evaluate: got no problems, expected at least one; look at the split and the file")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"two problems are called {problem.id!r}; ids must be unique within an evaluation")
        seen.add(problem.id)


def _plan(model: Path, problems: Sequence[Problem], settings: Settings, method: str, latents: str) -> dict[str, Any]:
    """What the batches in a scratch folder are answers to; batches of anything else are thrown away."""
    return {
        "model": _digest_files(model),
        "problems": hashlib.sha256(repr([_identity(problem) for problem in problems]).encode()).hexdigest(),
        "settings": settings.model_dump(mode="json", exclude={"runtime", "report"}),
        "method": method,
        "latents": latents,
    }


def _identity(problem: Problem) -> tuple[str, ...]:
    pictures = [hashlib.sha256(image).hexdigest() for image in problem.images]
    return (problem.id, problem.benchmark, problem.group, problem.question, problem.answer, *pictures)


def _digest_files(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as opened:
            digest.update(f"{file.name}\n{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _prepare(scratch: Path, plan: dict[str, Any], problems: Sequence[Problem]) -> None:
    """Make the scratch folder fit this plan: batches of another plan go, claims of a dead attempt are void."""
    plan_file = scratch / "plan.json"
    text = json.dumps(plan, sort_keys=True)
    if not plan_file.is_file() or plan_file.read_text(encoding="utf-8") != text:
        shutil.rmtree(_batches(scratch), ignore_errors=True)
    shutil.rmtree(_claims(scratch), ignore_errors=True)
    for folder in (_batches(scratch), _claims(scratch), _problems(scratch)):
        folder.mkdir(parents=True, exist_ok=True)
    save_problems(_problems(scratch) / "problems.parquet", problems)
    plan_file.write_text(text, encoding="utf-8")


def _job(model: Path, settings: Settings, method: str, latents: str, output: Path, scratch: Path) -> Job:
    return Job(
        program="evaluate",
        settings=settings,
        seed=settings.seed,
        inputs={"model": model, "problems": _problems(scratch)},
        output=output,
        scratch=scratch,
        options={"method": method, "latents": latents},
    )


def _merge(scratch: Path, problems: Sequence[Problem], batches: int) -> list[Scored]:
    """Put the batches' answers together in the problems' order."""
    found: dict[str, list[Scored]] = {}
    for index in range(batches):
        file = _batch_file(scratch, index)
        if not file.is_file():
            raise TrainingProcessDied(
                f"evaluation ended without batch {index} of {batches}; run it again, finished batches are kept"
            )
        for pair in load_predictions(file):
            found.setdefault(pair[0].problem_id, []).append(pair)
    return [pair for problem in problems for pair in found[problem.id]]


def _save_batch(file: Path, scored: Sequence[Scored], rank: int) -> None:
    """Save under another name first: a batch file that exists is complete."""
    half = file.with_suffix(f".rank-{rank}.part")
    save_predictions(half, scored)
    os.replace(half, file)


def _take(scratch: Path, index: int) -> bool:
    """Claim a batch; creating a file that must not exist is atomic, so only one process succeeds."""
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
    """An evaluation keeps finished batches instead of checkpoints."""


def _batches(scratch: Path) -> Path:
    return scratch / "batches"


def _claims(scratch: Path) -> Path:
    return scratch / "claims"


def _problems(scratch: Path) -> Path:
    return scratch / "problems"


def _batch_file(scratch: Path, index: int) -> Path:
    return _batches(scratch) / f"{index:05d}.parquet"
