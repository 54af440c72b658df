"""The clean run, which all measures start from: every instance answered, with the states that the baselines need.

Legend: N instances, n rows of a batch, T columns, k latents, J positions of the baselines, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.analysis.donors import stratified_sample
from mirage_core.analysis.intervened_generation import GeneratedAnswer, InterventionRunner
from mirage_core.analysis.results import Header, make_header
from mirage_core.config import AnalysisSettings
from mirage_core.errors import DataError
from mirage_core.generation.decode import Observer, Step
from mirage_core.generation.generator import fixed_batches
from mirage_core.latent.collate import collate_prompts
from mirage_core.latent.compress import compress
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.forward.forward import image_features, text_forward
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions, save_predictions
from mirage_core.types import Problem, Progress, ProgressEvent, Scored

LATENTS_FILE = "latents.safetensors"
NUM_POSITIONS = 4
"""J, the positions of the baselines where no answer has latents; else there are as many as latents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRun:
    """A clean run. Tensors are on the CPU, float32; rows of instances without what a tensor holds are zero.

    ``latents`` [N, k, D] of the first span, where ``has_span`` [N]; k is 0 where no answer has one.
    ``text`` [N, J, D]: last hidden states that predict the text after the span (all text, without one), at J positions
    spaced evenly over it, where ``has_text`` [N]. ``image`` [N, J, D]: those at J of the image tokens, where
    ``has_image`` [N]. ``text_mean``, ``image_mean`` [N, D]: the means over all such states.
    ``text_before`` [N, D]: the last state before the span begins (of the prompt, where there is no span).
    ``image_features`` [N, D] and ``image_pooled`` [N, J, D]: the output of the vision tower, as its mean and pooled to
    J vectors. ``first`` [N, V]: log-probabilities of the first token of the answer, where ``has_first``.
    """

    scored: tuple[Scored, ...]
    latents: Tensor
    has_span: Tensor
    text: Tensor
    has_text: Tensor
    text_mean: Tensor
    text_before: Tensor
    image: Tensor
    has_image: Tensor
    image_mean: Tensor
    image_features: Tensor
    image_pooled: Tensor
    first: Tensor
    has_first: Tensor

    @property
    def ids(self) -> tuple[str, ...]:
        """The problem ids of the instances."""
        return tuple(prediction.problem_id for prediction, _ in self.scored)

    @property
    def num_latents(self) -> int:
        """k."""
        return self.latents.shape[1]

    def instances(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems of the instances, in their order. DataError where one of them is not among ``problems``."""
        known = {problem.id: problem for problem in problems}
        missing = [name for name in self.ids if name not in known]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.ids)} collected instances are not among the problems given, the first "
                f"is {missing[0]!r}; give the problems that were collected from"
            )
        return [known[name] for name in self.ids]

    def with_span(self) -> NDArray[np.int64]:
        """Indices of the instances that have latents."""
        return np.flatnonzero(self.has_span.numpy())


def save_clean_run(folder: Path, clean_run: CleanRun) -> None:
    """Write a clean run into a folder; the same run gives the same bytes."""
    save_predictions(folder / PREDICTIONS_FILE, clean_run.scored)
    tensors = {name: getattr(clean_run, name).contiguous() for name in _tensor_names()}
    save_file(tensors, folder / LATENTS_FILE)


def load_clean_run(folder: Path) -> CleanRun:
    """Read a clean run. DataError where the folder holds other tensors."""
    tensors = load_file(folder / LATENTS_FILE)
    names = _tensor_names()
    if set(tensors) != set(names):
        raise DataError(f"{folder / LATENTS_FILE} holds {sorted(tensors)}, expected {sorted(names)}; collect again")
    return CleanRun(scored=tuple(load_predictions(folder)), **tensors)


def _tensor_names() -> list[str]:
    return [field.name for field in fields(CleanRun) if field.name != "scored"]


def stratum(problem: Problem) -> tuple[str, str]:
    """The benchmark and group of a problem: instances of one stratum may donate latents to each other."""
    return problem.benchmark, problem.group


def select_instances(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """``count`` problems in their order, spread evenly over benchmarks and groups; all where there are fewer."""
    indices = stratified_sample([stratum(problem) for problem in problems], count, seed)
    return [problems[index] for index in indices]


def span_header(
    measure: str,
    clean_run: CleanRun,
    problems: Sequence[Problem],
    settings: AnalysisSettings,
    *,
    notes: Sequence[str] = (),
) -> Header:
    """The header of a measure of latents, which uses the instances with a span of a clean run over ``problems``."""
    used, instances = clean_run.with_span(), len(problems)
    span = f"first span of {clean_run.num_latents} latents" if clean_run.num_latents else "whole latent span"
    missing = [f"{instances - len(used)} of {instances} answers have no {span} and are left out."]
    return make_header(
        measure,
        problems,
        used,
        num_latents=clean_run.num_latents,
        seed=settings.seed,
        notes=[*(missing if len(used) < instances else ()), *notes],
    )


def collect(runner: InterventionRunner, problems: Sequence[Problem], progress: Progress) -> CleanRun:
    """Answer the problems without interventions and record the states. DataError without any problem."""
    if not problems:
        raise DataError("got no problems to collect answers to, expected at least one of the test split; give others")
    text_states = _TextStates(len(problems), runner.loaded.ids.latent_start)
    progress(ProgressEvent(stage="collect", message=f"clean answers to {len(problems)} problems"))
    answers = runner.generate(problems, observe=text_states.observer)
    images = _collect_image_states(runner, problems, progress)
    num_latents = runner.num_latents
    several = num_latents is not None  # later spans would not keep lengths of their own
    spans = [answer.latents if several or len(answer.prediction.spans) == 1 else None for answer in answers]
    if num_latents is None:
        num_latents = runner.settings.analysis.span_latents or most_frequent_length(spans)
    latents = [None if span is None or len(span) != num_latents else span.float().cpu() for span in spans]
    return _assemble(answers, latents, text_states, images)


def most_frequent_length(spans: Sequence[Tensor | None]) -> int:
    """The number of latents that most spans [k, D] have, the larger where two are as frequent; 0 without spans."""
    lengths = Counter(len(span) for span in spans if span is not None)
    return max(lengths, key=lambda length: (lengths[length], length), default=0)


class _TextStates:
    """Records the states that predict text: the one before the first span, and those after it (all, without one)."""

    def __init__(self, instances: int, latent_start: int) -> None:
        self._latent_start = latent_start
        self._has_span: set[int] = set()
        self.before: list[Tensor | None] = [None] * instances
        self.text: list[list[Tensor]] = [[] for _ in range(instances)]

    @property
    def width(self) -> int:
        """D; 0 where nothing was recorded."""
        return next((len(state) for state in self.before if state is not None), 0)

    def observer(self, index: NDArray[np.int64]) -> Observer:
        """The observer of the batch of instances ``index`` [n]."""

        def observe(step: Step) -> None:
            hidden = step.hidden.float().cpu()
            sampled = np.flatnonzero(~step.inputs.is_latent & ~step.inputs.forced)
            for row in sampled.tolist():
                self._record(int(index[step.rows[row]]), int(step.inputs.tokens[row]), hidden[row])

        return observe

    def _record(self, at: int, token: int, state: Tensor) -> None:
        """Record ``state`` [D], which predicted ``token``."""
        if token == self._latent_start and at not in self._has_span:
            self._has_span.add(at)
            self.before[at], self.text[at] = state, []
            return
        if self.before[at] is None:
            self.before[at] = state
        self.text[at].append(state)


@dataclass(frozen=True, slots=True)
class ImageStates:
    """The image tokens of one instance: their last hidden states [P, D] and vision tower outputs [P, D]."""

    states: Tensor
    features: Tensor


def _collect_image_states(
    runner: InterventionRunner, problems: Sequence[Problem], progress: Progress
) -> list[ImageStates]:
    """The image states of every instance, from forward passes over the prompts alone."""
    collected: dict[int, ImageStates] = {}
    batches = fixed_batches(problems, runner.batch_size)
    for number, batch in enumerate(batches, start=1):
        prompts = [runner.prompt(problems[at]) for at in batch]
        collected.update(zip(batch, image_states(runner.loaded, prompts), strict=True))
        progress(ProgressEvent(stage="collect", message="states of image tokens", step=number, total=len(batches)))
    return [collected[at] for at in range(len(problems))]


def image_states(loaded: LoadedModel, prompts: Sequence[EncodedPrompt]) -> list[ImageStates]:
    """The image states of one batch of prompts."""
    backbone = loaded.backbone
    with torch.inference_mode():
        batch = collate_prompts(prompts, loaded.ids, backbone.position_ids).to(backbone.device)
        hidden = text_forward(backbone, batch)
        images = [backbone.merged(image) for image in image_features(backbone, batch)]
    owners = batch.image_rows.tolist()
    rows: list[ImageStates] = []
    for row in range(batch.rows):
        states = hidden[row][batch.input_ids[row] == loaded.ids.image_pad]
        own = [image for image, owner in zip(images, owners, strict=True) if owner == row]
        features = torch.cat([states[:0], *own])  # empty where the question has no image
        rows.append(ImageStates(states.float().cpu(), features.float().cpu()))
    return rows


def _assemble(
    answers: Sequence[GeneratedAnswer],
    spans: Sequence[Tensor | None],
    text_states: _TextStates,
    images: Sequence[ImageStates],
) -> CleanRun:
    """All tensors of the run, instances in their order; ``spans`` [N] are the latents [k, D] that are measured."""
    latents, has_span = _stack_rows(spans)
    positions = latents.shape[1] if bool(has_span.any()) else NUM_POSITIONS
    text, has_text = _stack_rows([_at_positions(states, positions) for states in text_states.text])
    image, has_image = _stack_rows([_at_positions(each.states, positions) for each in images])
    first, has_first = _stack_rows([answer.first_token for answer in answers])
    return CleanRun(
        scored=tuple((answer.prediction, answer.score) for answer in answers),
        latents=latents if bool(has_span.any()) else torch.zeros(len(answers), 0, text_states.width),
        has_span=has_span,
        text=text,
        has_text=has_text,
        text_mean=_stack_rows([_mean(states) for states in text_states.text])[0],
        text_before=_stack_rows(text_states.before)[0],
        image=image,
        has_image=has_image,
        image_mean=_stack_rows([_mean(each.states) for each in images])[0],
        image_features=_stack_rows([_mean(each.features) for each in images])[0],
        image_pooled=_stack_rows([_pooled(each.features, positions) for each in images])[0],
        first=first,
        has_first=has_first,
    )


def _stack_rows(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Rows of one shape as one tensor, zero where a row is None; and a mask [N] of the rows that are not None."""
    known = [row for row in rows if row is not None]
    present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    if not known:
        return torch.zeros(len(rows), 0), present
    empty = torch.zeros_like(known[0])
    return torch.stack([empty if row is None else row for row in rows]), present


def _at_positions(states: Sequence[Tensor] | Tensor, positions: int) -> Tensor | None:
    """States [J, D] at positions spaced evenly over all; None where there are fewer than J."""
    if len(states) < positions:
        return None
    return torch.stack([states[at] for at in evenly_spaced(len(states), positions)])


def _mean(states: Sequence[Tensor] | Tensor) -> Tensor | None:
    return torch.stack(list(states)).mean(0) if len(states) else None


def _pooled(features: Tensor, positions: int) -> Tensor | None:
    """Image features averaged to [J, D], as targets are; None where the image has fewer patches."""
    return compress(features, positions, "even") if len(features) >= positions else None


def evenly_spaced(count: int, positions: int) -> NDArray[np.int64]:
    """``positions`` indices spaced evenly over ``count`` items, the first and the last included."""
    return np.linspace(0, count - 1, positions).round().astype(np.int64)
