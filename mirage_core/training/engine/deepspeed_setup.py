"""The check of DeepSpeed that `make setup` runs: one ZeRO-1 step, without compiled extensions.

On CPU DeepSpeed compiles a shared-memory all-reduce at its first start (minutes, a C++ compiler, and a lock file
that a killed build leaves to hang every later run). Only tensor-parallel inference uses it; ZeRO communicates through
torch.distributed. So ``import_deepspeed`` declares it unavailable, as DeepSpeed itself does off Linux.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mirage_core.errors import MirageError, SettingsError
from mirage_core.training.engine.deepspeed import import_deepspeed


def check_deepspeed(folder: Path) -> str:
    """Take one ZeRO-1 step in this process; returns what was checked, raises MirageError where it does not work.

    ``folder`` (empty) is where an extension would be built; the check includes that none is.
    """
    from mirage_core.distributed.context import current_process
    from mirage_core.distributed.worker import configure_libraries

    configure_libraries(current_process(), 1, folder)
    import torch

    from mirage_core.distributed.collectives import torch_process_group
    from mirage_core.training.engine.base import EngineSettings, Root
    from mirage_core.training.engine.make_engine import make_engine

    with torch_process_group(folder / "rendezvous"):
        layer = torch.nn.Linear(2, 1)
        settings = EngineSettings(kind="deepspeed", zero_stage=1, weight_decay=0.0, max_grad_norm=1.0)
        engine = make_engine(Root({"layer": layer}), settings, None)
        engine.backward(engine.compute(lambda: layer(torch.ones(1, 2)).sum()))
        engine.step(0.1)
    if (folder / "extensions").exists():
        raise SettingsError("DeepSpeed compiled an extension: another version than the pinned one? Use constraints.txt")
    return f"DeepSpeed {import_deepspeed('cpu').__version__} works here; nothing needs compiling"


def main() -> int:
    """Run `python -m mirage_core.training.engine.deepspeed_setup`; returns 1 when the check fails."""
    with tempfile.TemporaryDirectory(prefix="mirage-deepspeed-") as folder:
        try:
            print(check_deepspeed(Path(folder)))
        except MirageError as error:
            print(f"DeepSpeed does not work here: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
