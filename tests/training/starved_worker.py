"""A worker whose device has no memory for more than three examples at once, from the fifth step on."""

from __future__ import annotations

from typing import Any

import mirage_core.distributed.worker as worker
from mirage_core.distributed.worker import leave

MOST, FROM_STEP = 3, 5


def starve() -> None:
    import torch

    from mirage_core.training import loop

    real = loop._Run.step

    def step(self: Any, number: int) -> dict[str, float]:
        batches = self._objective.micro_batches(number, self._rank, self._world_size)
        rows = max(len(batch.data.batch.input_ids) for batch in batches)
        if number + 1 >= FROM_STEP and rows > MOST:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, number)

    loop._Run.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    prepare = worker.prepare_libraries

    def prepared(*arguments: Any) -> None:
        prepare(*arguments)
        starve()

    worker.prepare_libraries = prepared  # type: ignore[assignment]
    leave(worker.main())
