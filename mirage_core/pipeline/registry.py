"""Every stage by its name."""

from __future__ import annotations

from mirage_core.errors import InputError
from mirage_core.methods import TRAIN_STAGES, stage_inputs, state_stages
from mirage_core.pipeline.stage import Stage
from mirage_core.pipeline.stages.auxiliary_images import AUXILIARY_IMAGES
from mirage_core.pipeline.stages.auxiliary_input import AUXILIARY_EXAMPLES, AUXILIARY_PROBLEMS
from mirage_core.pipeline.stages.base_model import BASE
from mirage_core.pipeline.stages.captions import CAPTIONS
from mirage_core.pipeline.stages.diagnosis import DIAGNOSIS
from mirage_core.pipeline.stages.evaluate import BLIND_EVALUATION, EVALUATION
from mirage_core.pipeline.stages.examples import EXAMPLES
from mirage_core.pipeline.stages.lens import LENS
from mirage_core.pipeline.stages.measure import COLLECT, MEASURE
from mirage_core.pipeline.stages.problems import PROBLEMS
from mirage_core.pipeline.stages.report import REPORT
from mirage_core.pipeline.stages.study_report import STUDY
from mirage_core.pipeline.stages.teacher_states import TEACHER_STATES, teacher_states_stage
from mirage_core.pipeline.stages.train import TRAIN, train_stage
from mirage_core.pipeline.stages.visual_codes import VISUAL_CODES

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        PROBLEMS,
        AUXILIARY_IMAGES,
        BASE,
        EXAMPLES,
        AUXILIARY_PROBLEMS,
        AUXILIARY_EXAMPLES,
        CAPTIONS,
        VISUAL_CODES,
        *(({**TRAIN, **TEACHER_STATES})[name] for name in stage_inputs() if name in TRAIN or name in TEACHER_STATES),
        EVALUATION,
        REPORT,
    )
}

BESIDE: dict[str, Stage] = {stage.name: stage for stage in (COLLECT, MEASURE, LENS, DIAGNOSIS, STUDY, BLIND_EVALUATION)}
"""Stages outside of most runs' pipeline: those of the causal analysis, a study's report, answers without pictures."""


def get_stage(name: str) -> Stage:
    """Return the stage of that name; InputError names the known ones otherwise."""
    known = {**STAGES, **BESIDE}
    if name in known:
        return known[name]
    if name in TRAIN_STAGES:  # registered after this module was imported
        return train_stage(TRAIN_STAGES[name])
    if name in state_stages():
        return teacher_states_stage(state_stages()[name])
    raise InputError(f"got the stage {name!r}, expected one of {', '.join(known)}")
