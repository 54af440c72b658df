"""A worker whose device has no memory for more than three examples at once, from the fifth step on."""

from __future__ import annotations

from typing import Any

from mirage_core.distributed.worker import exit_now, worker_process

MOST, FROM_STEP = 3, 5


def starve() -> None:
    import torch

    from mirage_core.training import loop

    real = loop.TrainingRun.step

    def step(self: Any, number: int) -> dict[str, float]:
        batches = self._objective.micro_batches(number)
        rows = max(len(batch.data.inputs.batch.input_ids) for batch in batches)
        if number + 1 >= FROM_STEP and rows > MOST:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, number)

    loop.TrainingRun.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    with worker_process() as (job, events):
        from mirage_core.pipeline.programs import program_of  # torch is imported here, after the libraries are set up

        starve()
        program_of(job.program)(job, events)
    exit_now()
