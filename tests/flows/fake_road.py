"""A small road for tests: the real road and stage runner, with stages that write one line instead of working."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import Stage, StageContext, label
from mirage_core.store.records import PREDICTIONS_FILE, save_predictions
from mirage_core.types import ProgressEvent
from tests.studies.answers import scored

NEEDS: dict[str, tuple[str, tuple[str, ...] | None, tuple[str, ...]]] = {
    "problems": ("problems", (), ()),
    "auxiliary-images": ("auxiliary-images", ("problems",), ()),
    "examples": ("examples", ("problems", "auxiliary_images"), ()),
    "auxiliary-problems": ("problems", ("problems", "auxiliary_images"), ()),
    "auxiliary-examples": ("examples", ("examples",), ()),
    "base": ("model", (), ()),
    "captions": ("examples", ("examples",), ()),
    **dict.fromkeys(
        ("direct-sft", "auxiliary-input", "capimagine", "grounding", "without-stage-1", "relaxation"),
        ("model", ("model", "examples"), ()),
    ),
    **dict.fromkeys(
        ("direct-sft-grpo", "capimagine-grpo", "without-stage-1-grpo", "grpo"), ("model", ("model", "problems"), ())
    ),
    "evaluation": ("evaluation", ("model", "problems"), ("method",)),
    "report": ("report", None, ()),
}


TRAINED = tuple(name for name, (kind, _, _) in NEEDS.items() if kind == "model")


@dataclass
class FakeRoad:
    """What ran, in order, and the errors that stages raise: ``faults[label]`` is emptied call by call.

    ``during[label]`` is called with the context while that stage works; ``""`` stands for every stage.
    """

    ran: list[str] = field(default_factory=list)
    during: dict[str, Callable[[StageContext], None]] = field(default_factory=dict)
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """A stage that notes its call, raises its next fault, or writes what it was given."""
        kind, inputs, params = NEEDS[name]
        return Stage(
            name=name,
            version=self.versions.get(name, 1),
            kind=kind,
            inputs=inputs,
            params=params,
            checkpoints=name in TRAINED,
            gpu=name in (*TRAINED, "evaluation"),
            identity=lambda settings: {"seed": settings.seed},
            run=self._runner(name, kind),
        )

    def _runner(self, name: str, kind: str) -> Callable[[StageContext], dict[str, Any]]:
        def run(context: StageContext) -> dict[str, Any]:
            named = label(name, context.params)
            self.ran.append(named)
            if self.faults.get(named):
                raise self.faults[named].pop(0)
            for act in (self.during.get(named), self.during.get("")):
                if act is not None:
                    act(context)
            for step in (1, 2, 3):
                context.progress(ProgressEvent(stage=name, step=step, total=3, metrics={"loss": 1.0 / step}))
            page = "report.html" if name == "report" else "made.txt"
            (context.output / page).write_text(f"{named} of {sorted(context.inputs)}\n")
            if kind == "model":
                (context.output / "config.json").write_text("{}\n")  # what tells a model folder from others
            if name != "evaluation":
                return {"made": named}
            save_predictions(context.output / PREDICTIONS_FILE, scored("1100", context.params["method"]))
            return {"scores": [score(context.params)]}

        return run


def score(params: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a score table."""
    return {
        "benchmark": "vsp-planning", "method": params["method"], "level": "all",
        "accuracy": 0.5, "interval": [0.25, 0.75], "n": 8, "unparsed": 1,
    }  # fmt: skip


def install(monkeypatch: pytest.MonkeyPatch) -> FakeRoad:
    """Put fake stages in the place of all real ones."""
    fake = FakeRoad()
    for name in NEEDS:
        monkeypatch.setitem(registry.STAGES, name, fake.stage(name))
    return fake
