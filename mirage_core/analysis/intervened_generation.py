"""Generation under interventions: one model answers problems greedily, in fixed batches, while latents are changed.

Legend: N problems, n rows of a batch, k latents, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.config import InferenceSettings, Settings
from mirage_core.distributed.collectives import process_device
from mirage_core.generation.decode import DecodeSettings, Latents, Observer, Step, Trajectory
from mirage_core.generation.generator import Generator, fixed_batches
from mirage_core.generation.interventions import Interventions, SpanStates
from mirage_core.generation.latent_modes import Ints
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.methods import latent_programs
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.types import Prediction, Problem, Score

BOX = "\\boxed{"
_TAIL = len(BOX) + 8  # characters of a row's text that are kept to find the box in

BatchIntervention = Callable[[NDArray[np.int64]], Interventions]
"""The interventions on one batch, from the indices [n] of its problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedAnswer:
    """One answer and its score; None: the answer has no such thing.

    ``first_token`` [V]: log-probabilities of the first token of the answer; ``latents`` [k, D] of the first span;
    ``states``: the keys and values of that span, where they were recorded.
    """

    prediction: Prediction
    score: Score
    first_token: Tensor | None
    latents: Tensor | None = None
    states: SpanStates | None = None

    @property
    def text(self) -> str:
        """The answer as the scorer parsed it; the whole output where it could not."""
        return self.prediction.output if self.score.parsed is None else self.score.parsed


class InterventionRunner:
    """One model that answers under interventions: greedily, with spans of exactly the k latents of training.

    Where spans have as many latents as their film has frames, the model ends them itself (``num_latents`` is None),
    until ``of_length`` gives a runner whose spans have exactly k: latents are exchanged between spans of one length.
    """

    def __init__(
        self, loaded: LoadedModel, settings: Settings, folder: Path | None = None, *, num_latents: int | None = None
    ) -> None:
        """``folder``: the model's, where it was loaded from one. ``num_latents``: of every span; None: as trained."""
        inference = InferenceSettings.from_metadata(loaded.about, settings)
        latents = latents_of_model(loaded.about)
        own_ends = latents == "on" and inference.latent.length == "frames" and num_latents is None
        decoding = DecodeSettings.of(
            inference.latent,
            max_new_tokens=settings.evaluation.max_new_tokens,
            num_latents=num_latents or inference.latent.num_latents,
            latents=latents,
            end="free" if own_ends else "exact",
        )
        rule = settings.evaluation.planning_rule
        self._generator = Generator(loaded, inference, decoding, planning_rule=rule, method="analysis")
        loaded.backbone.eval()
        self.loaded, self.settings, self.folder = loaded, settings, folder
        self.num_latents = None if own_ends else decoding.num_latents
        self.bottleneck = decoding.bottleneck
        self.batch_size = settings.analysis.batch_size

    def of_length(self, num_latents: int) -> Self:
        """Return a runner of the same model whose spans have exactly so many latents; itself, where they always do."""
        if self.num_latents is not None or not num_latents:
            return self
        return type(self)(self.loaded, self.settings, self.folder, num_latents=num_latents)

    def prompt(self, problem: Problem) -> EncodedPrompt:
        """The prompt of a problem, encoded as in training."""
        return self._generator.encoder.prompt(problem)

    def generate(
        self,
        problems: Sequence[Problem],
        intervene: BatchIntervention | None = None,
        *,
        prompts: Sequence[EncodedPrompt] | None = None,
        prefix_text: Sequence[str] | None = None,
        prefix_in_answer_box: bool = False,
        record_states: bool = False,
        observe: Callable[[NDArray[np.int64]], Observer] | None = None,
    ) -> list[GeneratedAnswer]:
        """Return answers [N] to problems, in their order; batches depend on the problems alone.

        ``prompts`` replace the problems' own; ``prefix_text``: the part of each answer that its prompt already holds,
        ``prefix_in_answer_box``: it ends in the open box. ``observe`` gives the observer of a batch by its indices [n].
        """
        answers: dict[int, GeneratedAnswer] = {}
        for batch in fixed_batches(problems, self.batch_size):
            index = np.array(batch, dtype=np.int64)
            first = FirstAnswerToken(self.loaded.processor.tokenizer, len(batch), in_answer_box=prefix_in_answer_box)
            rows = self._generator.decode(
                [self.prompt(problems[at]) if prompts is None else prompts[at] for at in batch],
                observe=first if observe is None else _both(first, observe(index)),
                interventions=None if intervene is None else intervene(index),
                record_states=record_states,
            )
            for row, at in enumerate(batch):
                prefix = "" if prefix_text is None else prefix_text[at]
                answers[at] = self._answer(problems[at], rows[row][0], prefix, first.log_probs[row])
        return [answers[at] for at in range(len(problems))]

    def is_correct(self, problem: Problem, prediction: Prediction) -> bool:
        """Whether an answer is correct for a problem, its own or another."""
        return self._generator.judge(problem, prediction).correct

    def _answer(
        self, problem: Problem, trajectory: Trajectory, prefix: str, first_token: Tensor | None
    ) -> GeneratedAnswer:
        prediction = self._generator.prediction(problem, trajectory, prefix_text=prefix)
        return GeneratedAnswer(
            prediction=prediction,
            score=self._generator.judge(problem, prediction),
            first_token=first_token,
            latents=trajectory.latents[0] if trajectory.latents else None,
            states=trajectory.span_states[0] if trajectory.span_states else None,
        )


def load_runner(folder: Path, settings: Settings) -> InterventionRunner:
    """Load the model in a folder for generation under interventions. SettingsError where the folder has no model."""
    model, device = settings.model, process_device()
    loaded = load_model(folder, dtype=model.dtype, attention=model.attention, device=device)
    return InterventionRunner(loaded, settings, folder)


def latents_of_model(about: dict[str, Any]) -> Latents:
    """Whether a model's answers may hold latents, by the stages that trained it; "on" where they are not recorded."""
    stages = about.get("stages") or ([about["stage"]] if "stage" in about else None)
    return "on" if stages is None or latent_programs() & set(stages) else "off"


def replace_latents(latents: Tensor, index: NDArray[np.int64]) -> Callable[[Ints, Ints, Tensor], Tensor]:
    """Feed ``latents`` [N, k, D] as the first k latents of the problems ``index`` [n]; later spans keep their own."""

    def replace(rows: Ints, numbers: Ints, vectors: Tensor) -> Tensor:
        inside = np.flatnonzero(numbers < latents.shape[1])
        chosen = latents[torch.from_numpy(index[rows[inside]]), torch.from_numpy(numbers[inside])]
        at = torch.from_numpy(inside).to(vectors.device)
        return vectors.index_copy(0, at, chosen.to(vectors))

    return replace


def replace_latent(
    latents: Tensor, numbers: NDArray[np.int64], index: NDArray[np.int64]
) -> Callable[[Ints, Ints, Tensor], Tensor]:
    """Feed ``latents`` [N, D] as the one latent ``numbers`` [N] of the problems ``index`` [n].

    Those before it stay, and those after it are rolled out from what was fed.
    """

    def replace(rows: Ints, at: Ints, vectors: Tensor) -> Tensor:
        here = np.flatnonzero(at == numbers[index[rows]])
        chosen = latents[torch.from_numpy(index[rows[here]])]
        return vectors.index_copy(0, torch.from_numpy(here).to(vectors.device), chosen.to(vectors))

    return replace


class FirstAnswerToken:
    r"""An observer of ``decode``: the log-probabilities [V] of the token with which each row begins its answer.

    A tokenizer may write "{" and what follows as one token; then the answer begins with that token. Rows that never
    open a box have None. ``in_answer_box``: prompts end in the open box, so the first token begins the answer.
    """

    def __init__(self, tokenizer: Any, rows: int, *, in_answer_box: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}
        self._tails = [BOX if in_answer_box else ""] * rows
        self.log_probs: list[Tensor | None] = [None] * rows

    def __call__(self, step: Step) -> None:
        """Read one step of decoding."""
        begins = [
            (at, row)
            for at, row in enumerate(step.rows.tolist())
            if not step.inputs.is_latent[at] and self._begins_answer(row, int(step.inputs.tokens[at]))
        ]
        if begins and step.logits is not None:
            chosen = step.logits[torch.tensor([at for at, _ in begins], device=step.logits.device)]
            for (_, row), log_probs in zip(begins, chosen.float().log_softmax(-1).cpu(), strict=True):
                self.log_probs[row] = log_probs

    def _begins_answer(self, row: int, token: int) -> bool:
        """Append a token to the row's text; return whether it is the first that reaches into the row's box."""
        if self.log_probs[row] is not None:
            return False
        text = self._tails[row] + self._piece(token)
        self._tails[row] = text[-_TAIL:]
        inside = text.find(BOX)
        return inside >= 0 and len(text) > inside + len(BOX)

    def _piece(self, token: int) -> str:
        """The text of one token; special tokens have one too, so a row that ends inside its box begins an answer."""
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._pieces[token]


def kl_divergence(clean: Tensor, other: Tensor) -> float:
    """KL(clean || other) in nats, of log-probabilities [V]; tokens of probability 0 under ``clean`` add nothing."""
    clean, other = clean.double(), other.double()
    terms = torch.where(clean > -torch.inf, clean.exp() * (clean - other), torch.zeros_like(clean))
    return float(terms.sum().clamp(min=0))


def _both(first: Observer, second: Observer) -> Observer:
    def observe(step: Step) -> None:
        first(step)
        second(step)

    return observe
