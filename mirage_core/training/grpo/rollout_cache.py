"""Sampled answers on disk while several updates are taken on them, so that a run can resume between two of these.

One file per process, in the folder that travels with every checkpoint: safetensors, with the rest as JSON.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mirage_core.distributed.context import current_process
from mirage_core.errors import TrainingError
from mirage_core.generation.trajectory import Trajectory
from mirage_core.types import LatentSpan

Answered = tuple[int, Sequence[Trajectory]]
"""The index of a problem, and the answers sampled to it."""

_NAME = re.compile(r"rollouts-step-(\d+)-rank-(\d+)-of-(\d+)\.safetensors")
_GROUPS = "groups"


def save_rollouts(folder: Path, step: int, answered: Sequence[Answered]) -> None:
    """Save this process's answers sampled at ``step``, in place of earlier ones.

    Process 0 also deletes the files of processes that no longer exist.
    """
    rank, world_size = current_process().rank, current_process().world_size
    folder.mkdir(parents=True, exist_ok=True)
    for old, (_, owner, _) in list(_files(folder)):
        if owner == rank or (rank == 0 and owner >= world_size):
            old.unlink(missing_ok=True)
    name = f"rollouts-step-{step:08d}-rank-{rank:04d}-of-{world_size:04d}.safetensors"
    tensors = {
        f"{group}/{number}/{part}": tensor
        for group, (_, answers) in enumerate(answered)
        for number, answer in enumerate(answers)
        for part, tensor in _tensors(answer).items()
    }
    groups = [{"index": index, "answers": [_metadata(answer) for answer in answers]} for index, answers in answered]
    partial = folder.parent / f"{name}.partial"  # outside the folder, all of whose files travel
    save_file(tensors, partial, metadata={_GROUPS: json.dumps(groups)})
    os.replace(partial, folder / name)


def load_rollouts(folder: Path, step: int) -> list[Answered]:
    """Load the answers of all processes sampled at ``step``, in the order in which prompts were dealt to them.

    TrainingError where a part is missing or cannot be read.
    """
    files = [(path, rank, size) for path, (sampled_at, rank, size) in _files(folder) if sampled_at == step]
    parts = {rank: path for path, rank, _ in files}
    missing = [rank for rank in range(files[0][2] if files else 1) if rank not in parts]
    if missing:
        raise TrainingError(
            f"the next update is to be taken on answers drawn for step {step + 1}, but the checkpoint does not hold "
            f"those of the processes {missing}. Delete the checkpoints of this stage, then run again"
        )
    groups = [_read(parts[rank]) for rank in sorted(parts)]
    return [part[number] for number in range(max(map(len, groups))) for part in groups if number < len(part)]


def _files(folder: Path) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    """Yield every file of answers with its step, rank and world size, the oldest step first."""
    for path in sorted(folder.glob("rollouts-step-*.safetensors")):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            step, rank, world_size = (int(number) for number in match.groups())
            yield path, (step, rank, world_size)


def _tensors(answer: Trajectory) -> dict[str, Tensor]:
    """Return the tensors of an answer; the latents of all spans are concatenated."""
    tensors = {
        "tokens": torch.tensor(answer.token_ids, dtype=torch.int64),
        "log_probs": torch.tensor(answer.log_probs, dtype=torch.float64),
        "sampled": torch.tensor(answer.sampled, dtype=torch.bool),
    }
    if answer.latents:
        tensors["latents"] = torch.cat(answer.latents).cpu()
    if answer.latent_log_probs:
        tensors["latent_log_probs"] = torch.cat(answer.latent_log_probs)
    return tensors


def _metadata(answer: Trajectory) -> dict[str, Any]:
    """Return the rest of an answer, for JSON."""
    spans = [[span.position, span.num_latents] for span in answer.spans]
    return {"spans": spans, "finished": answer.finished}


def _read(path: Path) -> list[Answered]:
    try:
        with safe_open(path, "pt") as file:
            groups = json.loads(file.metadata()[_GROUPS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return [
            (group["index"], [_answer(f"{number}/{at}", item, tensors) for at, item in enumerate(group["answers"])])
            for number, group in enumerate(groups)
        ]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is not a file of sampled answers ({error}). Delete the checkpoints of this stage, then run again"
        ) from error


def _answer(name: str, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Trajectory:
    spans = tuple(LatentSpan(position=at, num_latents=length) for at, length in metadata["spans"])
    lengths = [span.num_latents for span in spans]
    latents = tensors[f"{name}/latents"].split(lengths) if spans else ()
    densities = tensors.get(f"{name}/latent_log_probs")  # there are none of latents that were not sampled
    return Trajectory(
        token_ids=tuple(tensors[f"{name}/tokens"].tolist()),
        spans=spans,
        latents=tuple(latents),
        latent_log_probs=() if densities is None else tuple(densities.split(lengths)),
        log_probs=tuple(tensors[f"{name}/log_probs"].tolist()),
        sampled=tuple(tensors[f"{name}/sampled"].tolist()),
        finished=metadata["finished"],
    )
