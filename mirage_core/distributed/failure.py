"""How an error crosses from a training process to its parent: a small JSON file, no pickle."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirage_core import errors
from mirage_core.distributed.oom import is_out_of_memory
from mirage_core.errors import MirageError, OutOfMemory, TrainingError, TrainingProcessDied


def write_failure(path: Path, problem: BaseException, rank: int) -> None:
    """Record an error of process ``rank``; the file appears whole or not at all."""
    record = {
        "rank": rank,
        "time": time.time(),
        "kinds": [kind.__name__ for kind in type(problem).__mro__],
        "expected": isinstance(problem, MirageError),
        "out_of_memory": is_out_of_memory(problem),
        "peer_lost": _is_lost_peer(problem),
        "message": str(problem),
        "traceback": "".join(traceback.format_exception(problem)),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, path)


def failure(
    paths: Sequence[Path], exits: Sequence[int | None], log_tail: str, names: Sequence[str] | None = None
) -> MirageError:
    """The error to raise for a group that failed: the cause, not what the other processes saw of it.

    ``exits`` are the exit statuses of the processes called ``names`` (by default one a rank), None for one still
    running. A MirageError comes back as its own kind; a lack of memory as OutOfMemory, whoever noticed it; another
    exception as TrainingError; a process that was killed as TrainingProcessDied.
    """
    records = sorted((json.loads(path.read_text("utf-8")) for path in paths if path.exists()), key=_time)
    starved = [record for record in records if record["out_of_memory"]]
    if starved:
        return OutOfMemory(f"process {starved[0]['rank']}: {starved[0]['kinds'][0]}: {starved[0]['message']}")
    causes = [record for record in records if not record["peer_lost"]]
    if causes:
        return _rebuilt(causes[0], log_tail)
    called = names or [f"process {rank}" for rank in range(len(exits))]
    ended = {name: status for name, status in zip(called, exits, strict=True) if status}
    killed = [f"{name} was killed by signal {-status}" for name, status in ended.items() if status < 0]
    died = [f"{name} ended with status {status}" for name, status in ended.items()]
    what = ", ".join(killed or died) or "a process was lost"
    return TrainingProcessDied(
        f"{what} before its work was done (signal 9 is often the system running out of memory). "
        f"Run again: training goes on from its last checkpoint. End of the log:\n{log_tail}"
    )


def _rebuilt(record: dict[str, Any], log_tail: str) -> MirageError:
    if not record["expected"]:
        return TrainingError(
            f"process {record['rank']} failed: {record['kinds'][0]}: {record['message']}\n"
            f"{record['traceback'][-4000:]}\nEnd of the log:\n{log_tail}"
        )
    kind = next((getattr(errors, name) for name in record["kinds"] if hasattr(errors, name)), TrainingError)
    rebuilt: MirageError = kind(record["message"])
    return rebuilt


def _is_lost_peer(problem: BaseException) -> bool:
    """Whether the error only says that another process went away."""
    text = str(problem)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "SocketException")
    if isinstance(problem, MirageError) or is_out_of_memory(problem):
        return False
    return isinstance(problem, RuntimeError) and any(sign in text for sign in signs)


def _time(record: dict[str, Any]) -> float:
    return float(record["time"])
