"""A small pipeline for tests: the real pipeline and runner, with stages that write one line instead of working."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import Stage, StageContext, label
from mirage_core.store.records import PREDICTIONS_FILE, PROBLEMS_FILE, save_predictions, save_problems
from mirage_core.types import ProgressEvent
from tests.studies.answers import scored


@dataclass
class FakePipeline:
    """What ran, in order, and the errors that stages raise: ``faults[label]`` is emptied call by call.

    ``during[label]`` is called with the context while that stage works; ``""`` stands for every stage.
    """

    ran: list[str] = field(default_factory=list)
    during: dict[str, Callable[[StageContext], None]] = field(default_factory=dict)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """Return a stage that records its call, raises its next fault, or writes its inputs' names."""
        real = registry.STAGES[name]
        return dataclasses.replace(
            real,
            version=self.versions.get(name, 1),
            keeps_scratch=False,
            sharding=None,
            identity=lambda settings: {"seed": settings.seed},
            run=self._runner(name, real.kind),
        )

    def _runner(self, name: str, kind: str) -> Callable[[StageContext], dict[str, Any]]:
        def run(context: StageContext) -> dict[str, Any]:
            stage_label = label(name, context.params)
            self.ran.append(stage_label)
            if self.faults.get(stage_label):
                raise self.faults[stage_label].pop(0)
            for act in (self.during.get(stage_label), self.during.get("")):
                if act is not None:
                    act(context)
            for step in (1, 2, 3):
                context.progress(ProgressEvent(stage=name, step=step, total=3, metrics={"loss": 1.0 / step}))
            page = "report.html" if name == "report" else "made.txt"
            (context.output / page).write_text(f"{stage_label} of {sorted(context.inputs)}\n")
            if kind == "model":
                (context.output / "config.json").write_text("{}\n")  # marks a model folder
            if name == "problems" and not (context.output / PROBLEMS_FILE).exists():
                save_problems(context.output / PROBLEMS_FILE, [])
            if name != "evaluation":
                return {"made": stage_label}
            save_predictions(context.output / PREDICTIONS_FILE, scored("1100", context.params["method"]))
            return {"scores": [score(context.params)]}

        return run


def score(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of a score table."""
    return {
        "benchmark": "vsp-planning", "method": params["method"], "level": "all",
        "accuracy": 0.5, "interval": [0.25, 0.75], "n": 8, "unparsed": 1,
    }  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """Replace all real stages by fake ones."""
    fake = FakePipeline()
    for name in list(registry.STAGES):
        monkeypatch.setitem(registry.STAGES, name, fake.stage(name))
    return fake
