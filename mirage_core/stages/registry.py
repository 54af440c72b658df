"""Every stage by its name."""

from __future__ import annotations

from mirage_core.errors import InputError
from mirage_core.stages.auxiliary_images import AUXILIARY_IMAGES
from mirage_core.stages.auxiliary_input import AUXILIARY_EXAMPLES, AUXILIARY_INPUT, AUXILIARY_PROBLEMS
from mirage_core.stages.base import BASE
from mirage_core.stages.capimagine import CAPIMAGINE
from mirage_core.stages.captions import CAPTIONS
from mirage_core.stages.collect import COLLECT
from mirage_core.stages.diagnosis import DIAGNOSIS
from mirage_core.stages.direct_sft import DIRECT_SFT
from mirage_core.stages.evaluation import EVALUATION
from mirage_core.stages.examples import EXAMPLES
from mirage_core.stages.grounding import GROUNDING
from mirage_core.stages.grpo import CAPIMAGINE_GRPO, DIRECT_SFT_GRPO, GRPO, WITHOUT_STAGE_1_GRPO
from mirage_core.stages.looks import LOOKS
from mirage_core.stages.measure import MEASURE
from mirage_core.stages.problems import PROBLEMS
from mirage_core.stages.relaxation import RELAXATION, WITHOUT_STAGE_1
from mirage_core.stages.report import REPORT
from mirage_core.stages.stage import Stage
from mirage_core.stages.study import STUDY

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
