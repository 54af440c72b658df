"""A store of known nights: problems, models, and evaluations whose answers a test chooses, found there as if made."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.evaluation.metrics import accuracy_rows, run_scores
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.pipeline.stages.evaluate import EVALUATION
from mirage_core.pipeline.stages.problems import PROBLEMS
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, PROBLEMS_FILE, save_predictions, save_problems
from mirage_core.types import Artifact, Prediction, Problem, Score

PLANNING, REASONING = "vsp-planning", "vsp-reasoning"


@dataclass(frozen=True)
class Nights:
    """Publishes what a night would find; the answers to the first problems of each benchmark are right."""

    store: Store
    settings: Settings = field(default_factory=lambda: load("micro"))
    each: int = 40

    def problems(self) -> Artifact:
        """As many test problems of two benchmarks; other settings give other problems."""
        problems = [self._problem(name, at) for name in (PLANNING, REASONING) for at in range(self.each)]
        with tempfile.TemporaryDirectory() as folder:
            save_problems(Path(folder) / PROBLEMS_FILE, problems)
            identified = stage_fingerprint(PROBLEMS, self.settings, {})
            return self.store.publish("problems", identified, Path(folder), summary={}, about={})

    def model(self, name: str, planning: int, reasoning: int, *, rule: str = "mirage") -> Artifact:
        """A stage-2 model of that name that answers so many problems right, evaluated already."""
        about = {"stage": "relaxation", "settings": identity(self.settings)}
        model = self._publish("model", sha256(name.encode()).hexdigest(), {"weights": name}, {}, about)
        self._evaluation(model, {PLANNING: planning, REASONING: reasoning}, rule)
        return model

    def _evaluation(self, model: Artifact, right: dict[str, int], rule: str) -> None:
        scored = [
            self._answer(benchmark, at, at < count, rule)
            for benchmark, count in right.items()
            for at in range(self.each)
        ]
        inputs = {"model": model, "problems": self.problems()}
        identified = stage_fingerprint(EVALUATION, self.settings, inputs, {"method": "stage-2"})
        summary = {"method": "stage-2", "scores": run_scores(accuracy_rows(scored))}
        self._publish("evaluation", identified, {}, summary, {}, scored)

    def _publish(
        self,
        kind: str,
        identified: str,
        texts: dict[str, str],
        summary: dict[str, Any],
        about: dict[str, Any],
        scored: Sequence[tuple[Prediction, Score]] = (),
    ) -> Artifact:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                (Path(folder) / name).write_text(text)
            if scored:
                save_predictions(Path(folder) / PREDICTIONS_FILE, scored)
            return self.store.publish(kind, identified, Path(folder), summary=summary, about=about)

    def _problem(self, benchmark: str, at: int) -> Problem:
        return Problem(
            id=f"{benchmark}-{at}", benchmark=benchmark, split="test", group="level-3",
            question=f"<image> question {at}, seed {self.settings.seed}", images=(b"not opened",), answer="R",
        )  # fmt: skip

    def _answer(self, benchmark: str, at: int, right: bool, rule: str) -> tuple[Prediction, Score]:
        name = f"{benchmark}-{at}"
        prediction = Prediction(
            problem_id=name, benchmark=benchmark, group="level-3", method="stage-2", output="R", token_ids=(1,),
            spans=(), finished=True,
        )  # fmt: skip
        return prediction, Score(problem_id=name, correct=right, parsed="R", rule=rule)
