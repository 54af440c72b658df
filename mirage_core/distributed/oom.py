"""Out of memory on a device: recognised in the errors of any library, answered by halving the micro-batch.

The global batch stays as it is; a process computes fewer examples at once, so losses and gradients are equal up to
rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mirage_core.attempts import Attempt, attempts
from mirage_core.config import GRPOSettings, TrainSettings
from mirage_core.distributed.job import Job
from mirage_core.errors import MirageError, OutOfMemory
from mirage_core.methods import programs
from mirage_core.types import Progress, ProgressEvent

SIGNS = (
    "out of memory",  # CUDA and HIP ("CUDA out of memory", "CUDA error: out of memory"), NCCL
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "can't allocate memory",  # torch's allocator of the CPU
)  # fmt: skip
"""What libraries write in the message of a RuntimeError; torch and Python also have error classes of their own."""

WARMUP_GROUP = 8
"""Images of the warm-up whose features are centred together: its smallest micro-batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that a device (or the machine) has no memory left."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"OutOfMemoryError", "MemoryError"}:
        return True
    return "RuntimeError" in kinds and any(sign in str(error) for sign in SIGNS)


class OutOfMemoryBackoff:
    """Attempts at a job: after each that is out of memory, ``job`` has half the micro-batch.

    OutOfMemory when even the smallest micro-batch does not fit.
    """

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job = job
        self._initial, self._progress = micro_batch_size(job), progress

    def __iter__(self) -> Iterator[Attempt]:
        return attempts(self._halve)

    @property
    def summary(self) -> dict[str, Any]:
        """What the artifact's summary says about it: nothing if the job fitted at once."""
        portion = self.job.portion
        return {} if portion is None else {"portion": portion, "portion_that_did_not_fit": self._initial}

    def _halve(self, error: MirageError) -> bool:
        if not isinstance(error, OutOfMemory):
            return False
        job, size, smaller = self.job, micro_batch_size(self.job), halve_micro_batch(self.job)
        if smaller is None:
            raise OutOfMemory(
                f"out of memory in {job.program} even with a micro-batch of {size}: {advice(job.program)}. {error}"
            ) from error
        reason = str(error).splitlines()[0][:160]
        message = f"out of memory with a micro-batch of {size}, going on with {smaller.portion} ({reason})"
        self._progress(ProgressEvent(stage=job.program, message=message))
        self.job = smaller
        return True


def micro_batch_size(job: Job) -> int:
    """Return how much a process computes at once: examples; images of a warm-up; answers of GRPO; problems."""
    local = _local_batch_size(job)
    section = job.settings.training(job.program) if job.program in programs() else None
    return min(job.portion or (section and section.micro_batch_size) or local, local)


def generation_batch_size(job: Job) -> int | None:
    """Return how many answers of GRPO a process decodes side by side; None: all of a step.

    After an out-of-memory error they are fewer, in the proportion of the micro-batch.
    """
    wanted = job.settings.runtime.generation_batch_size
    if job.portion is None:
        return wanted
    initial = micro_batch_size(job.model_copy(update={"portion": None}))
    return math.ceil((wanted or _local_batch_size(job)) * micro_batch_size(job) / initial)


def halve_micro_batch(job: Job) -> Job | None:
    """Return the same job with half the micro-batch; None where it is the smallest already."""
    size, smallest = micro_batch_size(job), WARMUP_GROUP if job.program == "warmup" else 1
    if size <= smallest:
        return None
    return job.model_copy(update={"portion": max(smallest, math.ceil(size / 2))})


def _local_batch_size(job: Job) -> int:
    """Return one process's share of a step."""
    settings, processes = job.settings, job.settings.runtime.world_size
    if job.program == "evaluate":
        return settings.evaluation.batch_size  # a process takes whole batches
    if job.program == "warmup":
        return math.ceil(settings.model.warmup.batch_size / processes)
    if programs()[job.program].reinforces:
        own = settings.section(job.program, GRPOSettings)
        return math.ceil(own.prompts_per_step / processes) * own.group_size
    return math.ceil(settings.section(job.program, TrainSettings).batch_size / processes)


def advice(program: str) -> str:
    """Return the settings that make a job smaller when its smallest micro-batch does not fit."""
    always = "lower prompt.max_pixels or prompt.image_scale, or use a device with more memory"
    if program == "evaluate":
        return f"lower evaluation.samples or evaluation.max_new_tokens, {always}"
    if program == "warmup":
        return f"lower model.architecture's sizes, {always}"
    if programs()[program].reinforces:
        return (
            "set grpo.gradient_checkpointing=true, a lower runtime.generation_batch_size, a lower grpo.max_new_tokens, "
            f"runtime.offload_reference=true or grpo.kl_weight=0 (no second model on the device), {always}"
        )
    return (
        f"set {programs()[program].section}.gradient_checkpointing=true, model.dtype=bfloat16, a higher "
        f"runtime.zero_stage with more runtime.processes, {always}"
    )
