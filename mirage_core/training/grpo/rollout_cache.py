"""Answers kept on disk while several updates are taken on them, so that a checkpoint between two of these can go on.

One file a process, in the folder that travels with every checkpoint: safetensors, and what is no tensor as JSON.
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

from mirage_core.errors import TrainingError
from mirage_core.generation.trajectory import Trajectory
from mirage_core.types import LatentSpan

Answered = tuple[int, Sequence[Trajectory]]
"""The index of a problem, and the answers that were drawn to it."""

_NAME = re.compile(r"rollouts-step-(\d+)-rank-(\d+)-of-(\d+)\.safetensors")
_GROUPS = "groups"


def keep_rollouts(folder: Path, step: int, rank: int, world_size: int, answered: Sequence[Answered]) -> None:
    """Keep this process's part of what was drawn at ``step``, in place of what it kept before.

    Process 0 also lets go of what processes kept that are no more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old, (_, owner, _) in list(_files(folder)):
        if owner == rank or (rank == 0 and owner >= world_size):
            old.unlink(missing_ok=True)
    name = f"rollouts-step-{step:08d}-rank-{rank:04d}-of-{world_size:04d}.safetensors"
    tensors = {
        f"{place}/{number}/{part}": tensor
        for place, (_, answers) in enumerate(answered)
        for number, answer in enumerate(answers)
        for part, tensor in _tensors(answer).items()
    }
    groups = [{"index": index, "answers": [_described(one) for one in answers]} for index, answers in answered]
    partial = folder.parent / f"{name}.partial"  # beside the folder: all that is in it travels
    save_file(tensors, partial, metadata={_GROUPS: json.dumps(groups)})
    os.replace(partial, folder / name)


def kept_rollouts(folder: Path, step: int) -> list[Answered]:
    """What all processes kept at ``step``, in the order in which prompts were dealt to them.

    TrainingError where a part is missing or cannot be read.
    """
    found = [(path, rank, of) for path, (drawn, rank, of) in _files(folder) if drawn == step]
    parts = {rank: path for path, rank, _ in found}
    missing = [rank for rank in range(found[0][2] if found else 1) if rank not in parts]
    if missing:
        raise TrainingError(
            f"the next update is to be taken on answers drawn for step {step + 1}, but the checkpoint does not hold "
            f"those of the processes {missing}. Delete the checkpoints of this stage, then run again"
        )
    read = [_read(parts[rank]) for rank in sorted(parts)]
    return [part[place] for place in range(max(map(len, read))) for part in read if place < len(part)]


def _files(folder: Path) -> Iterator[tuple[Path, tuple[int, int, int]]]:
    """Every file of answers, and its step, its process and how many of these there were; the oldest step first."""
    for path in sorted(folder.glob("rollouts-step-*.safetensors")):
        named = _NAME.fullmatch(path.name)
        if named is not None:
            step, rank, of = (int(number) for number in named.groups())
            yield path, (step, rank, of)


def _tensors(answer: Trajectory) -> dict[str, Tensor]:
    """What of an answer are numbers; the latents of all spans end to end."""
    tensors = {
        "tokens": torch.tensor(answer.token_ids, dtype=torch.int64),
        "log_probs": torch.tensor(answer.log_probs, dtype=torch.float64),
        "sampled": torch.tensor(answer.sampled, dtype=torch.bool),
    }
    if answer.latents:
        tensors["latents"] = torch.cat(answer.latents).cpu()
    return tensors


def _described(answer: Trajectory) -> dict[str, Any]:
    """What of an answer is no tensor."""
    spans = [[span.position, span.num_latents] for span in answer.spans]
    return {"spans": spans, "finished": answer.finished}


def _read(path: Path) -> list[Answered]:
    try:
        with safe_open(path, "pt") as file:
            groups = json.loads(file.metadata()[_GROUPS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return [
            (group["index"], [_answer(f"{place}/{at}", one, tensors) for at, one in enumerate(group["answers"])])
            for place, group in enumerate(groups)
        ]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as fault:
        raise TrainingError(
            f"{path} is not a file of kept answers ({fault}). Delete the checkpoints of this stage, then run again"
        ) from fault


def _answer(name: str, described: dict[str, Any], tensors: dict[str, Tensor]) -> Trajectory:
    spans = tuple(LatentSpan(position=at, num_latents=length) for at, length in described["spans"])
    latents = tensors[f"{name}/latents"].split([span.num_latents for span in spans]) if spans else ()
    return Trajectory(
        token_ids=tuple(tensors[f"{name}/tokens"].tolist()),
        spans=spans,
        latents=tuple(latents),
        log_probs=tuple(tensors[f"{name}/log_probs"].tolist()),
        sampled=tuple(tensors[f"{name}/sampled"].tolist()),
        finished=described["finished"],
    )
