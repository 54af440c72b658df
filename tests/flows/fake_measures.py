"""Stages of the causal analysis for tests of flows: they write constructed measures instead of asking a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import StageContext, label
from mirage_core.store.records import PREDICTIONS_FILE, save_predictions, save_problems
from mirage_core.types import Prediction, Problem, Score, Scored


@dataclass
class FakeMeasures:
    """What ran, in order; ``faults[label]`` are raised, call by call. The page is written by the real stage."""

    ran: list[str] = field(default_factory=list)
    faults: dict[str, list[Exception]] = field(default_factory=dict)

    def begin(self, context: StageContext, name: str) -> None:
        named = label(name, context.params)
        self.ran.append(named)
        if self.faults.get(named):
            raise self.faults[named].pop(0)

    def collect(self, context: StageContext) -> dict[str, Any]:
        self.begin(context, "collect")
        (context.output / "made.txt").write_text("collected\n")
        save_predictions(context.output / PREDICTIONS_FILE, [clean_answer()])
        return {"instances": 200}

    def measure(self, context: StageContext) -> dict[str, Any]:
        from mirage_core.analysis.result_files import write_result
        from tests.analysis import fake_results

        self.begin(context, "measure")
        exchanged = fake_results.run("permute", way="vectors", **fake_results.USELESS)
        write_result(context.output, fake_results.everything(exchanged)[context.params["measure"]])
        return {"measure": context.params["measure"]}

    def lens(self, context: StageContext) -> dict[str, Any]:
        from mirage_core.analysis.lens.results import write_lens
        from tests.analysis import fake_results

        self.begin(context, "looks")
        write_lens(context.output, fake_results.lens())
        return {"used": 198}


def install_measures(monkeypatch: pytest.MonkeyPatch) -> FakeMeasures:
    """Put fakes in the place of the stages that need a model; the page is real, but for its plots, which take long."""
    monkeypatch.setattr("mirage_core.reports.diagnosis.page.figures", lambda *_: {})
    fake = FakeMeasures()
    for name, run in {"collect": fake.collect, "measure": fake.measure, "looks": fake.lens}.items():
        monkeypatch.setitem(registry.BESIDE, name, replace(registry.BESIDE[name], run=run))
    return fake


def clean_answer() -> Scored:
    """A right answer to the one problem of ``write_problems``."""
    prediction = Prediction(
        problem_id="p", benchmark="own", group="one", method="", output="R", token_ids=(1,), spans=(), finished=True
    )
    return prediction, Score(problem_id="p", correct=True, parsed="R", rule="exact-or-letter")


def write_problems(context: StageContext) -> None:
    """What the fake stage ``problems`` leaves so that the page can be written: one test problem."""
    problem = Problem(
        id="p", benchmark="own", split="test", group="one", question="<image>?", images=(b"",), answer="R"
    )
    save_problems(context.output / "problems.parquet", [problem])
