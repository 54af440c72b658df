"""When a device runs out of memory: how that is recognised, and the same work in smaller portions.

The global batch stays as it is; only the number of examples a process computes at once is halved, so that losses
and gradients are equal up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mirage_core.distributed.job import Job
from mirage_core.errors import OutOfMemory
from mirage_core.types import Progress, ProgressEvent

SIGNS = (
    "out of memory",  # CUDA and HIP ("CUDA out of memory", "CUDA error: out of memory"), NCCL
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "can't allocate memory",  # torch's allocator of the CPU
)  # fmt: skip
"""How libraries say it in the message of a RuntimeError; torch and Python also have kinds of their own for it."""

WARMUP_GROUP = 8
"""Pictures of the warm-up whose features are centred together: its smallest portion."""

_SMALLEST = {"warmup": WARMUP_GROUP}


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error of any library says that the memory of a device (or of the machine) is used up."""
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    if kinds & {"OutOfMemoryError", "MemoryError"}:
        return True
    return "RuntimeError" in kinds and any(sign in str(problem) for sign in SIGNS)


def fitted(job: Job, run: Callable[[Job], None], progress: Progress) -> dict[str, Any]:
    """Run a job; each time the memory does not do, run it again with half the portion.

    Returns what to tell of it in the artifact's summary: nothing where it fitted at once. OutOfMemory when even the
    smallest portion is too much.
    """
    whole = portion_of(job)
    while True:
        try:
            run(job)
        except OutOfMemory as error:
            smaller = in_smaller_portions(job)
            if smaller is None:
                raise OutOfMemory(
                    f"the memory does not do for {job.program}, not even {portion_of(job)} at once: "
                    f"{advice(job.program)}. {error}"
                ) from error
            said = f"out of memory with {portion_of(job)} at once, going on with {smaller.portion} ({_brief(error)})"
            progress(ProgressEvent(stage=job.program, message=said))
            job = smaller
        else:
            return {} if job.portion is None else {"portion": job.portion, "portion_that_did_not_fit": whole}


def _brief(problem: BaseException) -> str:
    return str(problem).splitlines()[0][:160]


def portion_of(job: Job) -> int:
    """How much a process computes at once: examples; pictures of a warm-up; answers of GRPO; problems."""
    whole = _whole(job)
    return min(job.portion or _chosen(job) or whole, whole)


def answers_at_once(job: Job) -> int | None:
    """How many answers GRPO draws side by side in a process: None for all of a step.

    Where the memory did not do for a whole portion, fewer are drawn in the same proportion.
    """
    chosen = job.settings.runtime.generation_batch_size
    if job.portion is None:
        return chosen
    before = portion_of(job.model_copy(update={"portion": None}))
    return math.ceil((chosen or _whole(job)) * portion_of(job) / before)


def in_smaller_portions(job: Job) -> Job | None:
    """The same job with half the portion; None where it is the smallest already."""
    size, smallest = portion_of(job), _SMALLEST.get(job.program, 1)
    if size <= smallest:
        return None
    return job.model_copy(update={"portion": max(smallest, math.ceil(size / 2))})


def _whole(job: Job) -> int:
    """What falls to one process in a step."""
    settings, processes = job.settings, job.settings.runtime.world_size
    if job.program == "grpo":
        return math.ceil(settings.grpo.prompts_per_step / processes) * settings.grpo.group_size
    if job.program == "evaluate":
        return settings.evaluation.batch_size  # a process takes whole batches
    sizes = {
        "warmup": settings.model.warmup.batch_size,
        "text": settings.direct_sft.batch_size,
        "capimagine": settings.capimagine.batch_size,
        "grounding": settings.grounding.batch_size,
        "relaxation": settings.relaxation.batch_size,
    }
    return math.ceil(sizes[job.program] / processes)


def _chosen(job: Job) -> int | None:
    """What the settings say, where they can."""
    settings = job.settings
    chosen = {
        "text": settings.direct_sft.micro_batch_size,
        "capimagine": settings.capimagine.micro_batch_size,
        "grounding": settings.grounding.micro_batch_size,
        "relaxation": settings.relaxation.micro_batch_size,
        "grpo": settings.grpo.micro_batch_size,
    }
    return chosen.get(job.program)


def advice(program: str) -> str:
    """The settings that make a job smaller when its smallest portion does not fit."""
    always = "lower prompt.max_pixels or prompt.image_scale, or use a device with more memory"
    if program == "evaluate":
        return f"lower evaluation.samples or evaluation.max_new_tokens, {always}"
    if program == "warmup":
        return f"lower model.architecture's sizes, {always}"
    if program == "grpo":
        return (
            "set grpo.gradient_checkpointing=true, a lower runtime.generation_batch_size, a lower grpo.max_new_tokens, "
            f"runtime.offload_reference=true or grpo.kl_weight=0 (no second model on the device), {always}"
        )
    section = {"text": "direct_sft"}.get(program, program)
    return (
        f"set {section}.gradient_checkpointing=true, model.dtype=bfloat16, a higher runtime.zero_stage with more "
        f"runtime.processes, {always}"
    )
