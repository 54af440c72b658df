"""Stages that compute a teacher's states at every example's tokens, for training stages to align with."""

from __future__ import annotations

from typing import Any

from mirage_core.config import InferenceSettings, Settings
from mirage_core.methods import StateStage, state_stages
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.store.records import load_examples


def teacher_states_stage(record: StateStage) -> Stage:
    """Return the pipeline stage of such a stage's record."""

    def stage_identity(settings: Settings) -> dict[str, Any]:
        """How rows are laid out, and the numbers that are computed with."""
        inference = InferenceSettings.of(settings).as_metadata(latents=record.program.has_latents)
        return {"model": settings.model.model_dump(mode="json", include={"dtype", "attention"}), **inference}

    def run(context: StageContext) -> dict[str, Any]:
        """Compute the states; the summary counts examples and states."""
        from mirage_core.distributed.collectives import process_device
        from mirage_core.model.loading import load_model
        from mirage_core.training.monet.teacher_states import save_teacher_states, states_of
        from mirage_core.training.sft.examples import observed_encoder

        own = context.settings.model
        examples = load_examples(context.input_paths["examples"], frames=record.program.shows_auxiliary)
        model = load_model(
            context.input_paths["model"], dtype=own.dtype, attention=own.attention, device=process_device()
        )
        encode = observed_encoder(record.program.name, context.settings, model, examples)
        states = states_of(
            model, encode, len(examples), at_latents=record.program.has_latents, progress=context.progress
        )
        named = ((example.problem.id, own) for example, own in zip(examples, states, strict=True))
        return {"examples": len(examples), "states": save_teacher_states(context.output, named)}

    return Stage(
        name=record.name,
        version=1,
        kind="states",
        inputs=tuple(record.inputs),
        identity=stage_identity,
        run=run,
        gpu=True,
    )


TEACHER_STATES: dict[str, Stage] = {name: teacher_states_stage(record) for name, record in state_stages().items()}
"""Every such stage by its name."""
