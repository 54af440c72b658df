"""Stages of the causal analysis for tests of flows: they write constructed measures instead of asking a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mirage_core.pipeline import registry
from mirage_core.pipeline.stage import StageContext, label
from mirage_core.store.records import save_problems
from mirage_core.types import Problem


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
        return {"instances": 200}

    def measure(self, context: StageContext) -> dict[str, Any]:
        from mirage_core.analysis.results import write_result
        from tests.analysis import made

        self.begin(context, "measure")
        exchanged = made.run("permute", way="vectors", **made.USELESS)
        write_result(context.output, made.everything(exchanged)[context.params["measure"]])
        return {"measure": context.params["measure"]}

    def looks(self, context: StageContext) -> dict[str, Any]:
        from mirage_core.analysis.lens.results import write_looks
        from tests.analysis import made

        self.begin(context, "looks")
        write_looks(context.output, made.looks())
        return {"used": 198}


def install_measures(monkeypatch: pytest.MonkeyPatch) -> FakeMeasures:
    """Put fakes in the place of the stages that need a model; the page is real, but for its plots, which take long."""
    monkeypatch.setattr("mirage_core.reports.diagnosis.page.figures", lambda results, looks: {})
    fake = FakeMeasures()
    for name in ("collect", "measure", "looks"):
        real = registry.BESIDE[name]
        monkeypatch.setitem(registry.BESIDE, name, replace(real, run=getattr(fake, name)))
    return fake


def write_problems(context: StageContext) -> None:
    """What the fake stage ``problems`` leaves so that the page can be written: one test problem."""
    problem = Problem(
        id="p", benchmark="own", split="test", group="one", question="<image>?", images=(b"",), answer="R"
    )
    save_problems(context.output / "problems.parquet", [problem])
