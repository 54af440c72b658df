"""The plan of a recipe: memory, steps, tokens, operations and hours of every stage, and advice if it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mirage_core.config import RuntimeSettings, Settings, as_recipe
from mirage_core.errors import SettingsError
from mirage_core.methods import TRAIN_STAGES
from mirage_core.planning.flops import Rates
from mirage_core.planning.memory import Moment, peak
from mirage_core.planning.sizes import ModelSizes, model_sizes
from mirage_core.planning.stages import StageWork, stage_work
from mirage_core.planning.token_counts import RecipeRows, recipe_rows

GIB = 2**30
CONTEXT = 0.75 * GIB
"""Bytes that a GPU uses before the first tensor: the driver's context, kernels, library workspaces."""
FRAGMENTS = 0.05
"""Share of the peak that the allocator reserves beyond what is requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The plan of one stage. Bytes are of one device, ``main``: of one process's main memory; ``needed``: with the
    overhead of a GPU; ``hours``: None without a rate; ``advice``: settings that together make it fit."""

    name: str
    steps: int
    at_once: int
    tokens_per_step: float
    model_flops_per_step: float
    flops_per_step: float
    hours: float | None
    moment: Moment
    main: int
    needed: int
    fits: bool
    advice: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a recipe for ``gpus`` devices of ``gpu_gib`` GiB each."""

    recipe: str
    gpus: int
    gpu_gib: float
    parameters: int
    trained: int
    rates: Rates | None
    rows: RecipeRows
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float | None:
        """The hours of all stages, one after the other."""
        known = [stage.hours for stage in self.stages]
        return None if None in known else sum(hours for hours in known if hours is not None)

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fits for stage in self.stages)


def on_gpus(settings: Settings, gpus: int | None) -> Settings:
    """Return the settings with ``gpus`` processes over all hosts; SettingsError if they do not divide."""
    hosts = max(1, len(settings.runtime.hosts))
    if gpus is None:
        return settings
    if gpus < 1 or gpus % hosts:
        raise SettingsError(f"{gpus} GPUs do not divide among {hosts} hosts (runtime.hosts); give a multiple of them")
    return with_setting(settings, "runtime.processes", gpus // hosts)


def make_plan(settings: Settings, gpu_gib: float, rates: Rates | None = None) -> Plan:
    """Return the plan for the devices of ``settings.runtime``. Raises what ``recipe_rows`` raises."""
    sizes, rows = model_sizes(settings.model), recipe_rows(settings)
    stages = tuple(_stage(settings, sizes, rows, work, gpu_gib) for work in stage_work(settings, sizes, rows, rates))
    return Plan(
        recipe=settings.recipe,
        gpus=settings.runtime.world_size,
        gpu_gib=gpu_gib,
        parameters=sizes.total,
        trained=sizes.trained(settings.model),
        rates=rates,
        rows=rows,
        stages=stages,
    )


def _stage(settings: Settings, sizes: ModelSizes, rows: RecipeRows, work: StageWork, gpu_gib: float) -> StagePlan:
    moment = peak(work.moments)
    required = needed(moment.total)
    fits = required <= gpu_gib * GIB
    return StagePlan(
        name=work.name,
        steps=work.steps,
        at_once=work.at_once,
        tokens_per_step=work.tokens,
        model_flops_per_step=work.model_flops,
        flops_per_step=work.flops,
        hours=None if work.seconds is None else work.steps * work.seconds / 3600,
        moment=moment,
        main=work.main,
        needed=required,
        fits=fits,
        advice=() if fits else advice(settings, sizes, rows, work.name, gpu_gib),
        notes=work.notes,
    )


def needed(tensors: int) -> int:
    """Return the memory that a GPU needs for tensors of so many bytes."""
    return round(tensors * (1 + FRAGMENTS) + CONTEXT)


def advice(settings: Settings, sizes: ModelSizes, rows: RecipeRows, name: str, gpu_gib: float) -> tuple[str, ...]:
    """Return the settings to change, the cheapest first, until the stage fits; a text that says so if none helps.

    Changes that turn out to be unnecessary beside the later ones are removed again.
    """
    tried: list[tuple[str, object]] = []
    for setting, value in _changes(settings, name):
        changed = _changed(settings, [*tried, (setting, value)])
        before = _changed(settings, tried) or settings
        if changed is None or _need(changed, sizes, rows, name) >= _need(before, sizes, rows, name):
            continue
        tried.append((setting, value))
        if _need(changed, sizes, rows, name) <= gpu_gib * GIB:
            return tuple(_as_option(pair) for pair in _necessary(settings, sizes, rows, name, gpu_gib, tried))
    return ("nothing that can be set makes it fit: use more GPUs, larger ones, or a smaller model",)


def _necessary(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, name: str, gpu_gib: float, tried: list[tuple[str, object]]
) -> list[tuple[str, object]]:
    """Return the changes that are necessary to fit."""
    necessary = list(tried)
    for pair in tried:
        fewer = [other for other in necessary if other is not pair]
        changed = _changed(settings, fewer)
        if changed is not None and _need(changed, sizes, rows, name) <= gpu_gib * GIB:
            necessary = fewer
    return necessary


def _need(settings: Settings, sizes: ModelSizes, rows: RecipeRows, name: str) -> int:
    (work,) = (work for work in stage_work(settings, sizes, rows, None) if work.name == name)
    return needed(peak(work.moments).total)


def _changes(settings: Settings, name: str) -> Iterator[tuple[str, object]]:
    """Yield the changes that may save memory, the cheapest first."""
    if name == "evaluation":
        yield from (("evaluation.batch_size", size) for size in (8, 1))
        yield "model.dtype", "bfloat16"
        return
    yield "model.dtype", "bfloat16"
    if name == "base":
        yield "model.warmup.batch_size", 8
    if name in TRAIN_STAGES:  # else nothing more: a data stage holds the weights and one example's images
        yield from _training_changes(settings, name)


def _training_changes(settings: Settings, name: str) -> Iterator[tuple[str, object]]:
    program = TRAIN_STAGES[name].program
    section = program.section
    runtime: RuntimeSettings = settings.runtime
    if runtime.engine == "deepspeed" and runtime.world_size > 1:
        yield "runtime.zero_stage", 2
    if program.reinforces:
        yield "runtime.generation_batch_size", settings.grpo.group_size
        yield "grpo.micro_batch_size", settings.grpo.group_size
    yield f"{section}.gradient_checkpointing", True
    yield f"{section}.micro_batch_size", 1
    if runtime.engine == "deepspeed" and runtime.world_size > 1:
        yield "runtime.zero_stage", 3
    if program.reinforces:
        yield "runtime.offload_reference", True
    if runtime.engine == "deepspeed":
        yield "runtime.offload_optimizer", True
    if settings.model.lora is None and not settings.model.train_vision:
        yield "model.lora", {}
    if runtime.engine == "deepspeed":
        yield "runtime.zero_stage", 3
        yield "runtime.offload_parameters", True


def _as_option(change: tuple[str, object]) -> str:
    setting, value = change
    return f"--set {setting}={'true' if value is True else value}"


def _changed(settings: Settings, changes: list[tuple[str, object]]) -> Settings | None:
    """Return the settings with the changes; None where they are not valid together."""
    for setting, value in changes:
        try:
            settings = with_setting(settings, setting, value)
        except ValueError:
            return None
    return settings


def with_setting(settings: Settings, dotted: str, value: object) -> Settings:
    """Return the settings with one changed, validated again; ValueError if it is not allowed."""
    data = as_recipe(settings)
    *path, last = dotted.split(".")
    section = data
    for name in path:
        section = section[name]
    section[last] = value
    return Settings.model_validate(data)
