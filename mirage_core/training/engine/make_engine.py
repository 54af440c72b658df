"""Backward passes, clipping and optimizer steps over several processes, behind one protocol; the plain engine.

Both engines take the same AdamW steps on the same gradients and keep their state in the same named
tensors, so that training can go on with another engine, or another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable

from mirage_core.errors import SettingsError
from mirage_core.training.checkpoint.sharded_state import EngineState
from mirage_core.training.engine.base import Engine, EngineSettings, Root, load_weights
from mirage_core.training.engine.plain import PlainEngine


def make_engine(root: Root, settings: EngineSettings, restored: EngineState | None) -> Engine:
    """The engine of that kind; it goes on from ``restored`` where given (read, then closed), weights included.

    SettingsError for settings that do not go together; TrainingError for a state of another model.
    """
    _check(settings)
    if restored is not None:
        load_weights(root, restored)
    engine = _kind(settings)(root, settings, restored)
    if restored is not None:
        restored.close()
    return engine


def _kind(settings: EngineSettings) -> Callable[[Root, EngineSettings, EngineState | None], Engine]:
    if settings.kind == "plain":
        return PlainEngine
    from mirage_core.training.engine.deepspeed import DeepSpeedEngine

    return DeepSpeedEngine


def _check(settings: EngineSettings) -> None:
    """Refuse offloading that the engine does not do."""
    sharded = settings.zero_stage if settings.kind == "deepspeed" else 0
    if settings.offload_optimizer and sharded < 1:
        raise SettingsError(
            "runtime.offload_optimizer needs runtime.engine deepspeed with runtime.zero_stage 1, 2 or 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )
    if settings.offload_parameters and sharded < 3:
        raise SettingsError(
            "runtime.offload_parameters needs runtime.engine deepspeed with runtime.zero_stage 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )
