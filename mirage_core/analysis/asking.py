"""Questions to one model, again and again: fixed batches, greedy answers, whatever is changed on the way.

Legend: N questions, n rows of a batch, k latents, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.first_token import FirstOfAnswer
from mirage_core.config import Settings
from mirage_core.evaluation.answer import Answerer, Latents, fixed_batches
from mirage_core.evaluation.judging import judge
from mirage_core.latent.encoded import EncodedPrompt
from mirage_core.model.base import LoadedModel
from mirage_core.model.decode import Observer, Step, Trajectory, decode
from mirage_core.model.intervention import Interventions, SpanStates
from mirage_core.model.modes import Ints
from mirage_core.model.transcript import output_text
from mirage_core.types import Prediction, Problem, Score

LATENT_STAGES = frozenset({"grounding", "relaxation"})
"""Training programs that teach a model to answer with latents."""

Change = Callable[[NDArray[np.int64]], Interventions]
"""The questions of a batch (their indices [n]) to what is changed in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer and its verdict.

    ``first`` [V]: log-probabilities of the first token of the answer; ``latents`` [k, D] of the first span; ``states``
    its keys and values, where they were recorded. None: the answer has no such thing.
    """

    prediction: Prediction
    score: Score
    first: Tensor | None
    latents: Tensor | None = None
    states: SpanStates | None = None

    @property
    def read(self) -> str:
        """The answer as the scorer read it; what it could not read counts as it stands."""
        return self.prediction.output if self.score.parsed is None else self.score.parsed


class Asker:
    """One model with its settings of use. Answers are greedy, and spans have the k latents of training."""

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        greedy = settings.evaluation.model_copy(
            update={"temperature": 0.0, "samples": 1, "batch_size": settings.analysis.batch_size}
        )
        self._answerer = Answerer(
            loaded,
            settings.model_copy(update={"evaluation": greedy}),
            method="analysis",
            latents=latents_of_model(loaded.about),
        )
        self._drawing = replace(self._answerer.drawing, end="exact")
        self.loaded = loaded
        self.num_latents = self._drawing.num_latents
        self.bottleneck = self._drawing.bottleneck
        self.rule = settings.evaluation.planning_rule
        self.batch_size = settings.analysis.batch_size

    def prompt(self, problem: Problem) -> EncodedPrompt:
        """The problem as the model was trained to see it."""
        return self._answerer.encoder.prompt(problem)

    def ask(
        self,
        problems: Sequence[Problem],
        change: Change | None = None,
        *,
        prompts: Sequence[EncodedPrompt] | None = None,
        written: Sequence[str] | None = None,
        begun: bool = False,
        record_states: bool = False,
        observe: Callable[[NDArray[np.int64]], Observer] | None = None,
    ) -> list[Said]:
        """Answers [N] to problems, in their order.

        ``prompts``: what the model goes on from in place of the problems' own; ``written``: what of each answer stands
        in its prompt already, and counts as said; ``begun``: that ends in the open box. ``observe``: an observer of the
        batch of these questions. Batches depend on the problems alone.
        """
        found: dict[int, Said] = {}
        for batch in fixed_batches(problems, self.batch_size):
            index = np.array(batch, dtype=np.int64)
            asked = [self.prompt(problems[at]) if prompts is None else prompts[at] for at in batch]
            first = FirstOfAnswer(self.loaded.processor.tokenizer, len(batch), begun=begun)
            rows = decode(
                self.loaded.backbone,
                asked,
                self.loaded.ids,
                self._drawing,
                observe=_both(first, None if observe is None else observe(index)),
                interventions=None if change is None else change(index),
                record_states=record_states,
            )
            for place, at in enumerate(batch):
                before = "" if written is None else written[at]
                found[at] = self._said(problems[at], rows[place][0], before, first.found[place])
        return [found[at] for at in range(len(problems))]

    def judged(self, problem: Problem, prediction: Prediction) -> bool:
        """Whether an answer is right for a problem, its own or another's."""
        return judge(problem, prediction, self.rule).correct

    def _said(self, problem: Problem, trajectory: Trajectory, before: str, first: Tensor | None) -> Said:
        loaded, tokens = self.loaded, trajectory.token_ids
        prediction = Prediction(
            problem_id=problem.id,
            benchmark=problem.benchmark,
            group=problem.group,
            method=self._answerer.method,
            output=before + output_text(loaded.processor.tokenizer, loaded.ids, tokens, trajectory.spans),
            token_ids=tokens,
            spans=trajectory.spans,
            finished=trajectory.finished,
        )
        score = judge(problem, prediction, self.rule)
        return Said(
            prediction=prediction,
            score=score,
            first=first,
            latents=trajectory.latents[0] if trajectory.latents else None,
            states=trajectory.span_states[0] if trajectory.span_states else None,
        )


def latents_of_model(about: dict[str, Any]) -> Latents:
    """Whether a model's answers may hold latents, by the stages that made it; "on" where nobody told."""
    stages = about.get("stages") or ([about["stage"]] if "stage" in about else None)
    return "on" if stages is None or LATENT_STAGES & set(stages) else "off"


def fed(given: Tensor, index: NDArray[np.int64]) -> Callable[[Ints, Ints, Tensor], Tensor]:
    """Feed ``given`` [N, k, D] in the first k latents of the questions ``index`` [n]; later spans keep their own."""

    def replaced(rows: Ints, numbers: Ints, vectors: Tensor) -> Tensor:
        inside = np.flatnonzero(numbers < given.shape[1])
        chosen = given[torch.from_numpy(index[rows[inside]]), torch.from_numpy(numbers[inside])]
        at = torch.from_numpy(inside).to(vectors.device)
        return vectors.index_copy(0, at, chosen.to(vectors))

    return replaced


def _both(first: FirstOfAnswer, other: Observer | None) -> Observer:
    if other is None:
        return first

    def observe(step: Step) -> None:
        first(step)
        other(step)

    return observe
