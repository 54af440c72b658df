"""A training or evaluation job: everything its processes need to know, as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.config import Settings
from mirage_core.config.section import OneOf
from mirage_core.errors import InputError
from mirage_core.methods import programs

ProgramName = Annotated[str, OneOf(lambda: ("warmup", *programs(), "evaluate"))]
"""A training program of ``mirage_core.methods``, the warm-up from scratch, or an evaluation."""


def required_inputs(program: str) -> tuple[str, ...]:
    """Return the names that a program needs in ``Job.inputs``: local folders of artifacts of that kind."""
    if program == "warmup":
        return ()
    return ("model", "problems") if program == "evaluate" else programs()[program].inputs


class Job(BaseModel):
    """One piece of work for a group of processes.

    ``inputs`` maps a name (``required_inputs``) to the local folder of an artifact. A trained model, or an
    evaluation's result, goes to ``output``; logs, events and checkpoints to ``scratch``, which the caller deletes.
    Files that a program moves into ``scratch/kept`` are saved with every checkpoint and restored on resuming.
    ``resume_from`` is a folder that ``on_checkpoint`` received in an earlier attempt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    program: ProgramName = Field(description="Which program the processes run.")
    settings: Settings = Field(description="The resolved recipe; a program reads its own section of it.")
    seed: int = Field(ge=0, description="Seed of data order, sampling and fresh modules.")
    inputs: dict[str, Path] = Field(default_factory=dict, description="Local folders of the input artifacts.")
    output: Path = Field(description="Folder of the result; created when missing.")
    scratch: Path = Field(description="Folder of logs, events and checkpoints.")
    resume_from: Path | None = Field(None, description="Checkpoint folder to continue from.")
    label: str | None = Field(None, description="Its name where several are shown; None: the program.")
    digests: dict[str, str] = Field(default_factory=dict, description="Digests of the input artifacts, where known.")
    portion: int | None = Field(None, gt=0, description="Micro-batch of a process after out-of-memory errors (oom.py).")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of this program alone (JSON).")

    def input(self, name: str) -> Path:
        """Return the folder of an input; InputError where the job has none of that name."""
        if name not in self.inputs:
            expected = ", ".join(required_inputs(self.program))
            raise InputError(
                f"a {self.program} job got the inputs {sorted(self.inputs)}, expected {expected}: {name} is missing"
            )
        return self.inputs[name]


def write_job(job: Job, path: Path) -> None:
    """Write a job as JSON."""
    path.write_text(job.model_dump_json(indent=1), encoding="utf-8")


def read_job(path: Path) -> Job:
    """Read a job back; InputError when the file is not one."""
    try:
        return Job.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} is not a job file: {error}") from error
