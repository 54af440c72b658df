"""Make the engine that the settings choose. All engines step on the same gradients and save the same named tensors.

So training can go on with another engine, or another number of processes.
"""

from __future__ import annotations

from mirage_core.errors import SettingsError
from mirage_core.training.checkpoint.sharded_state import EngineState
from mirage_core.training.engine.base import Engine, EngineSettings, Root, load_weights
from mirage_core.training.engine.plain import PlainEngine


def make_engine(root: Root, settings: EngineSettings, restored: EngineState | None) -> Engine:
    """Make the engine; it goes on from ``restored``, weights included (read, then closed), unless that is None.

    SettingsError for settings that contradict each other; TrainingError for a state of another model.
    """
    _check_supported(settings)
    if restored is not None:
        load_weights(root, restored)
    engine: Engine
    if settings.kind == "plain":
        engine = PlainEngine(root, settings, restored)
    else:
        from mirage_core.training.engine.deepspeed import DeepSpeedEngine

        engine = DeepSpeedEngine(root, settings, restored)
    if restored is not None:
        restored.close()
    return engine


def _check_supported(settings: EngineSettings) -> None:
    """Refuse offloading, or an optimizer, that the engine does not support."""
    zero_stage = settings.zero_stage if settings.kind == "deepspeed" else 0
    if settings.optimizer == "muon" and zero_stage > 0:
        raise SettingsError(
            f"the optimizer is muon, which steps on whole matrices, and runtime.zero_stage {zero_stage} shards them: "
            "set runtime.zero_stage to 0, or runtime.engine to plain"
        )
    if settings.offload_optimizer and zero_stage < 1:
        raise SettingsError(
            "runtime.offload_optimizer needs runtime.engine deepspeed with runtime.zero_stage 1, 2 or 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )
    if settings.offload_parameters and zero_stage < 3:
        raise SettingsError(
            "runtime.offload_parameters needs runtime.engine deepspeed with runtime.zero_stage 3, got "
            f"{settings.kind} with {settings.zero_stage}"
        )
