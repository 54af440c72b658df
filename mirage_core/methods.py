"""Every method that can be trained and judged: one record a training stage, one a judged method.

All other tables of methods are derived from these. Add a record here, or ``register`` it in a module of your own that
the environment variable MIRAGE_METHODS names (docs/add-a-method.md).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mirage_core.errors import InputError
from mirage_core.programs import (
    CAPIMAGINE,
    COCONUT,
    CODI,
    FILM,
    GROUNDING,
    GRPO,
    LVR,
    MONET,
    MONET_TARGETS,
    MONET_WARMUP,
    POOLED,
    POOLER,
    RELAXATION,
    TEXT,
    VISUAL_TOKENS,
    Program,
)

MODULES = "MIRAGE_METHODS"
"""The environment variable with the modules to import first, separated by commas."""

DATA_STAGES: Mapping[str, Mapping[str, str]] = {
    "problems": {},
    "auxiliary-images": {"problems": "problems"},
    "base": {},
    "examples": {"problems": "problems", "auxiliary_images": "auxiliary-images"},
    "auxiliary-problems": {"problems": "problems", "auxiliary_images": "auxiliary-images"},
    "auxiliary-examples": {"examples": "examples"},
    "captions": {"examples": "examples"},
    "visual-codes": {"examples": "examples", "model": "base"},
}
"""The stages before the training ones, in their order, and the stage that each of their inputs comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateStage:
    """One stage that computes a teacher's states: those of the model of the stage ``model``.

    ``program``: the training program whose rows it reads; states are those at its latents, else at observed tokens.
    """

    name: str
    label: str
    model: str
    program: Program
    data: str

    @property
    def inputs(self) -> dict[str, str]:
        """The stage that each input comes from."""
        return {"model": self.model, "examples": self.data}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStage:
    """One training stage: the stage whose model it trains further (``start``), and the one whose data it reads.

    ``states``: the stage that computes the teacher's states, where its program has a teacher.
    """

    name: str
    label: str
    program: Program
    start: str
    data: str
    states: StateStage | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """The stage that each input comes from."""
        states = {} if self.states is None else {"states": self.states.name}
        return {"model": self.start, self.program.data: self.data, **states}

    @property
    def latents(self) -> bool:
        """Whether its model thinks in latents; GRPO goes on with what its model was taught before."""
        if not self.program.reinforces:
            return self.program.has_latents
        return self.start in TRAIN_STAGES and TRAIN_STAGES[self.start].latents


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the score table: the stage whose model is judged, and the stage whose problems it answers."""

    name: str
    label: str
    stage: str
    problems: str = "problems"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that train its model after the base, in their order."""
        names: list[str] = []
        name = self.stage
        while name in TRAIN_STAGES:
            names.insert(0, name)
            name = TRAIN_STAGES[name].start
        return tuple(names)

    @property
    def all_stages(self) -> tuple[str, ...]:
        """All that is trained for this method: ``stages``, and those of its teachers, in the registry's order."""
        needed, inputs = {self.stage}, stage_inputs()
        for name in reversed(inputs):
            if name in needed:
                needed.update(inputs[name].values())
        return tuple(name for name in TRAIN_STAGES if name in needed)

    @property
    def latents(self) -> Literal["on", "off"]:
        """Whether its answers may hold latents: not where the model was never taught them."""
        return "on" if self.stage in TRAIN_STAGES and TRAIN_STAGES[self.stage].latents else "off"

    @property
    def uses_grpo(self) -> bool:
        """Whether its model is trained by reinforcement last."""
        return self.stage in TRAIN_STAGES and TRAIN_STAGES[self.stage].program.reinforces


MONET_OBSERVATIONS = StateStage(
    name="monet-observations",
    label="Monet, states at observations",
    model="monet-warmup",
    program=MONET_WARMUP,
    data="captions",
)
MONET_LATENTS = StateStage(
    name="monet-latents",
    label="Monet, states at target latents",
    model="monet-targets",
    program=MONET_TARGETS,
    data="captions",
)

_REINFORCED = (
    ("direct-sft-grpo", "GRPO after direct SFT", "direct-sft"),
    ("capimagine-grpo", "GRPO after CapImagine", "capimagine"),
    ("without-stage-1-grpo", "GRPO without stage 1", "without-stage-1"),
    ("film-grpo", "GRPO after the film", "film"),
    ("pooled-grpo", "GRPO after pooled targets", "pooled"),
    ("lvr-grpo", "GRPO after LVR", "lvr"),
    ("visual-tokens-grpo", "GRPO after visual tokens", "visual-tokens"),
    ("coconut-grpo", "GRPO after Coconut", "coconut"),
    ("codi-grpo", "GRPO after CODI", "codi"),
    ("monet-grpo", "GRPO after Monet", "monet"),
    ("grpo", "GRPO", "relaxation"),
)
"""Reinforcement: the name of each stage, its label, and the stage whose model it goes on with."""

TRAIN_STAGES: dict[str, TrainStage] = {
    stage.name: stage
    for stage in (
        TrainStage(name="direct-sft", label="Direct SFT", program=TEXT, start="base", data="examples"),
        TrainStage(
            name="auxiliary-input",
            label="Auxiliary picture as input",
            program=TEXT,
            start="base",
            data="auxiliary-examples",
        ),
        TrainStage(name="capimagine", label="CapImagine", program=CAPIMAGINE, start="base", data="captions"),
        TrainStage(
            name="visual-tokens",
            label="Explicit visual tokens",
            program=VISUAL_TOKENS,
            start="base",
            data="visual-codes",
        ),
        TrainStage(name="grounding", label="Stage 1, grounding", program=GROUNDING, start="base", data="examples"),
        TrainStage(
            name="without-stage-1",
            label="Relaxation without stage 1",
            program=RELAXATION,
            start="base",
            data="examples",
        ),
        TrainStage(name="film", label="Film, stepwise grounding", program=FILM, start="base", data="examples"),
        TrainStage(
            name="pooler", label="Pooler of the auxiliary picture", program=POOLER, start="base", data="examples"
        ),
        TrainStage(name="pooled", label="Pooled targets", program=POOLED, start="pooler", data="examples"),
        TrainStage(name="lvr", label="LVR, regions of the image", program=LVR, start="base", data="examples"),
        TrainStage(name="coconut", label="Coconut's curriculum", program=COCONUT, start="base", data="captions"),
        TrainStage(name="codi", label="CODI", program=CODI, start="base", data="captions"),
        TrainStage(name="monet-warmup", label="Monet, warm-up", program=MONET_WARMUP, start="base", data="captions"),
        TrainStage(
            name="monet-targets",
            label="Monet, target latents",
            program=MONET_TARGETS,
            start="monet-warmup",
            data="captions",
            states=MONET_OBSERVATIONS,
        ),
        TrainStage(
            name="monet", label="Monet", program=MONET, start="monet-warmup", data="captions", states=MONET_LATENTS
        ),
        TrainStage(
            name="relaxation", label="Stage 2, relaxation", program=RELAXATION, start="grounding", data="examples"
        ),
        *(
            TrainStage(name=name, label=label, program=GRPO, start=start, data="problems")
            for name, label, start in _REINFORCED
        ),
    )
}
"""Every training stage by its name, in an order that one process can follow."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="zero-shot", label="Zero-shot (the base model)", stage="base"),
        Method(name="direct-sft", label="Direct SFT", stage="direct-sft"),
        Method(name="direct-sft-grpo", label="Direct SFT + GRPO", stage="direct-sft-grpo"),
        Method(
            name="auxiliary-input",
            label="Auxiliary picture as input (upper bound)",
            stage="auxiliary-input",
            problems="auxiliary-problems",
        ),
        Method(name="capimagine", label="CapImagine (imagination as text)", stage="capimagine"),
        Method(name="capimagine-grpo", label="CapImagine + GRPO", stage="capimagine-grpo"),
        Method(name="visual-tokens", label="Explicit visual tokens", stage="visual-tokens"),
        Method(name="visual-tokens-grpo", label="Explicit visual tokens + GRPO", stage="visual-tokens-grpo"),
        Method(name="stage-1", label="Mirage, stage 1 alone", stage="grounding"),
        Method(name="without-stage-1", label="Mirage, without stage 1", stage="without-stage-1"),
        Method(name="without-stage-1-grpo", label="Mirage, without stage 1, + GRPO", stage="without-stage-1-grpo"),
        Method(name="film", label="Mirage, film (stepwise grounding)", stage="film"),
        Method(name="film-grpo", label="Mirage, film, + GRPO", stage="film-grpo"),
        Method(name="pooled", label="Pooled targets (learned from the answer)", stage="pooled"),
        Method(name="pooled-grpo", label="Pooled targets + GRPO", stage="pooled-grpo"),
        Method(name="lvr", label="LVR (regions of the image)", stage="lvr"),
        Method(name="lvr-grpo", label="LVR + GRPO", stage="lvr-grpo"),
        Method(name="coconut", label="Coconut's curriculum", stage="coconut"),
        Method(name="coconut-grpo", label="Coconut + GRPO", stage="coconut-grpo"),
        Method(name="codi", label="CODI (self-distillation)", stage="codi"),
        Method(name="codi-grpo", label="CODI + GRPO", stage="codi-grpo"),
        Method(name="monet", label="Monet (latents aligned with a teacher's states)", stage="monet"),
        Method(name="monet-grpo", label="Monet + GRPO", stage="monet-grpo"),
        Method(name="stage-2", label="Mirage, stage 2", stage="relaxation"),
        Method(name="grpo", label="Mirage + GRPO", stage="grpo"),
    )
}
"""Every method by its name, in the order of the score table. CoT SFT is direct-sft with teacher.variant=cot."""


def state_stages() -> dict[str, StateStage]:
    """Return the stages that compute a teacher's states, by name."""
    return {stage.states.name: stage.states for stage in TRAIN_STAGES.values() if stage.states is not None}


def register(stage: TrainStage, *methods: Method) -> None:
    """Make a training stage and the methods that judge its model known to this process.

    InputError for a name that is taken, a program that differs from a known one of its name, or an unknown stage.
    """
    known, names = set(stage_names()), {method.name for method in methods}
    taken = sorted(({stage.name} & known) | (names & METHODS.keys()))
    if taken:
        raise InputError(f"got the names {', '.join(taken)}, which are taken: choose others")
    if programs().get(stage.program.name, stage.program) != stage.program:
        raise InputError(f"there is another program {stage.program.name!r}: give that of {stage.name} its own name")
    needed = {*stage.inputs.values(), *(need for method in methods for need in (method.stage, method.problems))}
    missing = sorted(needed - known - {stage.name, getattr(stage.states, "name", "")})
    if missing:
        raise InputError(f"{stage.name} needs the unknown stages {', '.join(missing)}, expected {', '.join(known)}")
    TRAIN_STAGES[stage.name] = stage
    METHODS.update({method.name: method for method in methods})


def import_registered() -> None:
    """Import the modules that MIRAGE_METHODS names, where a process starts; each registers its methods.

    They import torch inside their loss only: processes set the number of threads before torch is imported.
    """
    for name in filter(None, os.environ.get(MODULES, "").split(",")):
        importlib.import_module(name.strip())


def get_method(name: str) -> Method:
    """Return the method of that name; InputError names the known ones otherwise."""
    if name not in METHODS:
        raise InputError(f"got the method {name!r}, expected one of {', '.join(METHODS)}")
    return METHODS[name]


def method_of_stage(stage: str) -> Method | None:
    """Return the method that judges the model of a stage."""
    return next((method for method in METHODS.values() if method.stage == stage), None)


def furthest_first() -> list[Method]:
    """Return the methods whose model is trained, furthest trained first; those with their own problems come last."""
    trained = [method for method in reversed(METHODS.values()) if method.stages]
    return sorted(trained, key=lambda method: method.problems != "problems")


def enabled_methods(names: Iterable[str], *, grpo: bool) -> tuple[str, ...]:
    """Return the methods of a recipe that are compared: what ends with GRPO only where that is enabled."""
    return tuple(name for name in names if grpo or not get_method(name).uses_grpo)


def programs() -> dict[str, Program]:
    """Return every training program by its name."""
    return {stage.program.name: stage.program for stage in TRAIN_STAGES.values()}


def stage_names() -> tuple[str, ...]:
    """Return the names of all stages of the pipeline, in order."""
    return (*stage_inputs(), "evaluation", "report")


def stage_inputs() -> dict[str, Mapping[str, str]]:
    """Return the stage that each input comes from, for every stage up to the models, in their order."""
    inputs: dict[str, Mapping[str, str]] = dict(DATA_STAGES)
    for name, stage in TRAIN_STAGES.items():
        if stage.states is not None:
            inputs[stage.states.name] = stage.states.inputs
        inputs[name] = stage.inputs
    return inputs


def latent_programs() -> frozenset[str]:
    """Return the programs that teach a model to think in latents."""
    return frozenset(name for name, program in programs().items() if program.has_latents and not program.reinforces)
