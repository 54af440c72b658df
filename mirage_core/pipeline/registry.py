"""Every stage by its name."""

from __future__ import annotations

from mirage_core.errors import InputError
from mirage_core.pipeline.stage import Stage
from mirage_core.pipeline.stages.auxiliary_images import AUXILIARY_IMAGES
from mirage_core.pipeline.stages.auxiliary_input import AUXILIARY_EXAMPLES, AUXILIARY_INPUT, AUXILIARY_PROBLEMS
from mirage_core.pipeline.stages.base_model import BASE
from mirage_core.pipeline.stages.captions import CAPTIONS
from mirage_core.pipeline.stages.diagnosis import DIAGNOSIS
from mirage_core.pipeline.stages.evaluate import EVALUATION
from mirage_core.pipeline.stages.examples import EXAMPLES
from mirage_core.pipeline.stages.lens import LOOKS
from mirage_core.pipeline.stages.measure import COLLECT, MEASURE
from mirage_core.pipeline.stages.problems import PROBLEMS
from mirage_core.pipeline.stages.report import REPORT
from mirage_core.pipeline.stages.study_report import STUDY
from mirage_core.pipeline.stages.train import (
    CAPIMAGINE,
    CAPIMAGINE_GRPO,
    DIRECT_SFT,
    DIRECT_SFT_GRPO,
    GROUNDING,
    GRPO,
    RELAXATION,
    WITHOUT_STAGE_1,
    WITHOUT_STAGE_1_GRPO,
)

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
        DIRECT_SFT,
        AUXILIARY_INPUT,
        CAPIMAGINE,
        GROUNDING,
        WITHOUT_STAGE_1,
        RELAXATION,
        DIRECT_SFT_GRPO,
        CAPIMAGINE_GRPO,
        WITHOUT_STAGE_1_GRPO,
        GRPO,
        EVALUATION,
        REPORT,
    )
}

BESIDE: dict[str, Stage] = {stage.name: stage for stage in (COLLECT, MEASURE, LOOKS, DIAGNOSIS, STUDY)}
"""Stages that no road leads through: those of the causal analysis, and a study's report."""


def get_stage(name: str) -> Stage:
    """The stage of that name; InputError names the known ones otherwise."""
    known = {**STAGES, **BESIDE}
    if name not in known:
        raise InputError(f"got the stage {name!r}, expected one of {', '.join(known)}")
    return known[name]
