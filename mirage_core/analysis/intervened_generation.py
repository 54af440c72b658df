"""Questions to one model, again and again: fixed batches, greedy answers, whatever is changed on the way.

Legend: N questions, n rows of a batch, k latents, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.benchmarks.judge import judge
from mirage_core.config import Settings
from mirage_core.distributed.collectives import process_device
from mirage_core.generation.decode import Observer, Step, Trajectory, decode
from mirage_core.generation.generator import Answerer, Latents, fixed_batches
from mirage_core.generation.interventions import Interventions, SpanStates
from mirage_core.generation.latent_modes import Ints
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.types import Prediction, Problem, Score

BOX = "\\boxed{"
_TAIL = len(BOX) + 8  # characters kept of what was written before


class FirstOfAnswer:
    r"""An observer of ``decode``: log-probabilities [V] of the token with which each row begins its answer.

    A tokenizer may write "{" and what follows as one token; then it is that token that begins the answer. Rows that
    never open a box have none. ``begun``: the answer begins at the first token (a prompt that ends in the box).
    """

    def __init__(self, tokenizer: Any, rows: int, *, begun: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}
        self._tails = [BOX if begun else ""] * rows
        self.found: list[Tensor | None] = [None] * rows

    def __call__(self, step: Step) -> None:
        """Look at one step of decoding."""
        begins = [
            (place, row)
            for place, row in enumerate(step.rows.tolist())
            if not step.fed.latent[place] and self._begins(row, int(step.fed.tokens[place]))
        ]
        if begins and step.logits is not None:
            chosen = step.logits[torch.tensor([place for place, _ in begins], device=step.logits.device)]
            for (_, row), logits in zip(begins, chosen.float().log_softmax(-1).cpu(), strict=True):
                self.found[row] = logits

    def _begins(self, row: int, token: int) -> bool:
        """Whether this token is the first that reaches into the row's box; the row's text goes on with it."""
        if self.found[row] is not None:
            return False
        text = self._tails[row] + self._piece(token)
        self._tails[row] = text[-_TAIL:]
        inside = text.find(BOX)
        return inside >= 0 and len(text) > inside + len(BOX)

    def _piece(self, token: int) -> str:
        """The text of a token alone; of special tokens too, so that a row that ends in its box has begun an answer."""
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._pieces[token]


def divergence(clean: Tensor, other: Tensor) -> float:
    """KL(clean || other) in nats, of log-probabilities [V]; tokens that ``clean`` never draws add nothing."""
    clean, other = clean.double(), other.double()
    terms = torch.where(clean > -torch.inf, clean.exp() * (clean - other), torch.zeros_like(clean))
    return float(terms.sum().clamp(min=0))


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


def open_asker(folder: Path, settings: Settings) -> Asker:
    """Load the model in a folder and make it ready to be asked. SettingsError where the folder is no model's."""
    wanted = settings.model
    device = process_device(0, 1)
    return Asker(load_model(folder, dtype=wanted.dtype, attention=wanted.attention, device=device), settings)
