"""``mirage plan``: the memory, steps, tokens and hours that a recipe needs, before anything starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.commands.printing import console, print_line, stderr
from mirage_core.config import Settings
from mirage_core.errors import SettingsError
from mirage_core.recipes import load

if TYPE_CHECKING:
    from mirage_core.planning.flops import Rates
    from mirage_core.planning.plan import Plan, StagePlan

GIB = 2**30


def show(
    recipe: str, sets: list[str], gpus: int | None, gpu_gib: float, rate: float | None, *, measure: bool, as_json: bool
) -> None:
    """Print the plan; hours need a rate, given or measured here."""
    from mirage_core.planning.plan import make_plan, on_gpus

    if rate is not None and measure:
        raise SettingsError("got --rate and --measure; give one of them")
    if (rate is not None and rate <= 0) or gpu_gib <= 0:
        raise SettingsError(f"--rate is {rate} and --gpu-gib {gpu_gib}; both must be above 0")
    settings = on_gpus(load(recipe, sets), gpus)
    result = make_plan(settings, gpu_gib, _rates(settings, rate, measure=measure))
    if as_json:
        console.print_json(json.dumps(plan_as_json(result)))
        return
    print_line(_headline(result))
    console.print(plan_table(result))
    for line in _lines(result):
        print_line(line)


def _rates(settings: Settings, rate: float | None, *, measure: bool) -> Rates | None:
    from mirage_core.planning.flops import Rates

    if rate is not None:
        return Rates(training=rate, rolling=rate)
    if not measure:
        return None
    import torch

    from mirage_core.planning.measure_throughput import measured_rates
    from mirage_core.planning.token_counts import recipe_rows

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stderr.print(f"measuring a few steps of {settings.model.source} with random weights, on {device}", markup=False)
    torch.set_num_threads(settings.runtime.threads)
    return measured_rates(settings, recipe_rows(settings), device)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON: bytes, operations, hours."""
    stages = [
        {
            **asdict(stage),
            "moment": stage.moment.name,
            "memory": {name: size for name, size in stage.moment.parts.items() if size},
        }
        for stage in plan.stages
    ]
    rows = {name: round(plan.rows.mean(name), 1) for name in ("prompt", "image", "before", "after", "auxiliary")}
    return {
        "recipe": plan.recipe,
        "gpus": plan.gpus,
        "gpu_gib": plan.gpu_gib,
        "parameters": plan.parameters,
        "trained": plan.trained,
        "rates": None if plan.rates is None else asdict(plan.rates),
        "rows": {"train": plan.rows.train, "test": plan.rows.test, "mean_tokens": rows},
        "stages": stages,
        "hours": plan.hours,
        "fits": plan.fits,
        "notes": list(plan.rows.notes),
    }


def plan_table(plan: Plan) -> Table:
    """Return one row per stage."""
    table = Table(
        "stage",
        "steps",
        "at once",
        "tokens a step",
        "TFLOP a step",
        "hours",
        "GiB a GPU",
        "fits",
        box=None,
        pad_edge=False,
    )
    for stage in plan.stages:
        hours = "-" if stage.hours is None else f"{stage.hours:.2f}"
        table.add_row(
            stage.name,
            str(stage.steps),
            str(stage.at_once),
            f"{stage.tokens_per_step:.0f}",
            f"{stage.flops_per_step / 1e12:.3g}",
            hours,
            f"{stage.needed / GIB:.1f}",
            "yes" if stage.fits else "NO",
        )
    return table


def _headline(plan: Plan) -> str:
    rows = plan.rows
    return (
        f"{plan.recipe}: {plan.parameters:,} parameters, {plan.trained:,} are trained; {plan.gpus} processes, "
        f"one per GPU of {plan.gpu_gib:g} GiB; {rows.train} training examples of {rows.mean('prompt'):.0f} prompt "
        f"tokens ({rows.mean('image'):.0f} of them images), {rows.test} test problems"
    )


def _lines(plan: Plan) -> list[str]:
    lines = [f"{stage.name}: {_memory(stage)}" for stage in plan.stages]
    for stage in plan.stages:
        lines += [f"{stage.name} does not fit; it fits with: {' '.join(stage.advice)}"] if not stage.fits else []
        lines += [f"{stage.name}: {note}" for note in stage.notes]
    lines += [f"note: {note}" for note in plan.rows.notes]
    if plan.hours is None:
        return [*lines, "hours: give the sustained TFLOP/s of a GPU, such as --rate 200, or measure it: --measure"]
    return [*lines, f"hours of all stages: {plan.hours:.2f}"]


def _memory(stage: StagePlan) -> str:
    """Return what uses the memory of the stage at its peak."""
    parts = [f"{name} {size / GIB:.2f}" for name, size in stage.moment.parts.items() if size > 0.005 * GIB]
    main = f"; main memory of a process {stage.main / GIB:.1f}" if stage.main else ""
    return f"most at the moment '{stage.moment.name}': {', '.join(parts) or 'little'} GiB{main}"
