"""The one clean run that all measures stand on: every instance answered, with the states that baselines need.

Legend: N instances, n rows of a batch, T columns, k latents, J places of the baselines, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.analysis.donors import spread_evenly
from mirage_core.analysis.intervened_generation import Asker, Said
from mirage_core.analysis.measures.geometry import evenly
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A clean run. Tensors are on the CPU, float32; rows of instances without what a tensor holds are zero.

    ``latents`` [N, k, D] of the first span, where ``has_span`` [N]; k is 0 where no answer has one.
    ``text`` [N, J, D]: last hidden states from which text behind the span (all text, without one) was drawn, at J
    places spread evenly over it, where ``has_text`` [N]. ``image`` [N, J, D]: those at J of the image tokens, where
    ``has_image`` [N]. ``text_mean``, ``image_mean`` [N, D]: the means over all such states.
    ``text_before`` [N, D]: the last state before the span begins (of the prompt, where there is no span).
    ``image_features`` [N, D] and ``image_pooled`` [N, J, D]: what the vision tower says of the picture, its mean and
    its pooling to J vectors. ``first`` [N, V]: log-probabilities of the first token of the answer, where ``has_first``.
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
        """The instances' problems."""
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

    def with_span(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Indices of the instances that have latents."""
        return np.flatnonzero(self.has_span.numpy())


def save_collected(folder: Path, collected: Collected) -> None:
    """Write a clean run into a folder; the same run, the same bytes."""
    save_predictions(folder / PREDICTIONS_FILE, collected.scored)
    tensors = {name: getattr(collected, name).contiguous() for name in _tensor_names()}
    save_file(tensors, folder / LATENTS_FILE)


def load_collected(folder: Path) -> Collected:
    """Read a clean run. DataError where the folder holds another thing."""
    tensors = load_file(folder / LATENTS_FILE)
    names = _tensor_names()
    if set(tensors) != set(names):
        raise DataError(f"{folder / LATENTS_FILE} holds {sorted(tensors)}, expected {sorted(names)}; collect again")
    return Collected(scored=tuple(load_predictions(folder)), **tensors)


def stacked(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Rows of one shape as one tensor, zero where a row is None; and where they are not [N], boolean."""
    known = [row for row in rows if row is not None]
    present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    if not known:
        return torch.zeros(len(rows), 0), present
    empty = torch.zeros_like(known[0])
    return torch.stack([empty if row is None else row for row in rows]), present


def _tensor_names() -> list[str]:
    return [field.name for field in fields(Collected) if field.name != "scored"]


PLACES = 4
"""J, places of the baselines where no answer has a latent; else as many as there are latents."""


def stratum(problem: Problem) -> tuple[str, str]:
    """Instances that may lend latents to each other: the same benchmark and group."""
    return problem.benchmark, problem.group


def chosen_instances(problems: Sequence[Problem], wanted: int, seed: int) -> list[Problem]:
    """So many problems, spread evenly over benchmarks and groups, in their order; all where there are fewer."""
    indices = spread_evenly([stratum(problem) for problem in problems], wanted, seed)
    return [problems[index] for index in indices]


def collect(asker: Asker, problems: Sequence[Problem], progress: Progress) -> Collected:
    """Answer the problems cleanly and keep what they leave; on the CPU, float32. DataError without any problem."""
    if not problems:
        raise DataError("got no problems to collect answers to, expected at least one of the test split; give others")
    kept = _Kept(len(problems), asker.loaded.ids.latent_start)
    progress(ProgressEvent(stage="collect", message=f"clean answers to {len(problems)} problems"))
    said = asker.ask(problems, observe=kept.batch)
    seen = _seen(asker, problems, progress)
    return _put_together(said, kept, seen, asker.num_latents)


class _Kept:
    """The states from which text was drawn: the one before the first span, and those behind it (all, without one)."""

    def __init__(self, instances: int, latent_start: int) -> None:
        self._start = latent_start
        self._spanned: set[int] = set()
        self.before: list[Tensor | None] = [None] * instances
        self.text: list[list[Tensor]] = [[] for _ in range(instances)]

    def batch(self, index: NDArray[np.int64]) -> Observer:
        """The observer of the instances ``index`` [n]."""

        def observe(step: Step) -> None:
            hidden = step.hidden.float().cpu()
            drawn = np.flatnonzero(~step.fed.latent & ~step.fed.forced)
            for place in drawn.tolist():
                self._keep(int(index[step.rows[place]]), int(step.fed.tokens[place]), hidden[place])

        return observe

    def _keep(self, at: int, token: int, state: Tensor) -> None:
        """``state`` [D] is what ``token`` was drawn from."""
        if token == self._start and at not in self._spanned:
            self._spanned.add(at)
            self.before[at], self.text[at] = state, []
            return
        if self.before[at] is None:
            self.before[at] = state
        self.text[at].append(state)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of one instance: last hidden states of its image tokens [P, D], what the vision tower says of them [P, D]."""

    states: Tensor
    features: Tensor


def _seen(asker: Asker, problems: Sequence[Problem], progress: Progress) -> list[_Seen]:
    """The image tokens of every instance, from passes over the prompts alone."""
    found: dict[int, _Seen] = {}
    batches = fixed_batches(problems, asker.batch_size)
    for number, batch in enumerate(batches, start=1):
        prompts = [asker.prompt(problems[at]) for at in batch]
        found.update(zip(batch, _seen_in(asker.loaded, prompts), strict=True))
        progress(ProgressEvent(stage="collect", message="states of image tokens", step=number, total=len(batches)))
    return [found[at] for at in range(len(problems))]


def _seen_in(loaded: LoadedModel, prompts: Sequence[EncodedPrompt]) -> list[_Seen]:
    backbone = loaded.backbone
    with torch.inference_mode():
        batch = collate_prompts(prompts, loaded.ids, backbone.position_ids).to(backbone.device)
        hidden = text_forward(backbone, batch)
        images = [backbone.merged(image) for image in image_features(backbone, batch)]
    owners = batch.image_rows.tolist()
    rows: list[_Seen] = []
    for row in range(batch.rows):
        states = hidden[row][batch.input_ids[row] == loaded.ids.image_pad]
        own = [image for image, owner in zip(images, owners, strict=True) if owner == row]
        features = torch.cat([states[:0], *own])  # none where the question has no picture
        rows.append(_Seen(states.float().cpu(), features.float().cpu()))
    return rows


def _put_together(said: Sequence[Said], kept: _Kept, seen: Sequence[_Seen], num_latents: int) -> Collected:
    """All tensors of the run, instances in their order."""
    latents, has_span = stacked([_first_latents(one, num_latents) for one in said])
    places = num_latents if bool(has_span.any()) else PLACES
    text, has_text = stacked([_at_places(states, places) for states in kept.text])
    image, has_image = stacked([_at_places(one.states, places) for one in seen])
    first, has_first = stacked([one.first for one in said])
    return Collected(
        scored=tuple((one.prediction, one.score) for one in said),
        latents=latents if bool(has_span.any()) else torch.zeros(len(said), 0, _width(kept)),
        has_span=has_span,
        text=text,
        has_text=has_text,
        text_mean=stacked([_mean(states) for states in kept.text])[0],
        text_before=stacked(kept.before)[0],
        image=image,
        has_image=has_image,
        image_mean=stacked([_mean(one.states) for one in seen])[0],
        image_features=stacked([_mean(one.features) for one in seen])[0],
        image_pooled=stacked([_pooled(one.features, places) for one in seen])[0],
        first=first,
        has_first=has_first,
    )


def _first_latents(said: Said, num_latents: int) -> Tensor | None:
    """The latents [k, D] of the first span; None without one, and where the length limit cut it."""
    if said.latents is None or len(said.latents) != num_latents:
        return None
    return said.latents.float().cpu()


def _at_places(states: Sequence[Tensor] | Tensor, places: int) -> Tensor | None:
    """States [J, D] at places spread evenly over all; None where there are fewer than J."""
    if len(states) < places:
        return None
    return torch.stack([states[at] for at in evenly(len(states), places)])


def _mean(states: Sequence[Tensor] | Tensor) -> Tensor | None:
    return torch.stack(list(states)).mean(0) if len(states) else None


def _pooled(features: Tensor, places: int) -> Tensor | None:
    """Image features averaged to [J, D], as targets are; None where the picture has fewer patches."""
    return compress(features, places, "even") if len(features) >= places else None


def _width(kept: _Kept) -> int:
    return next((len(state) for state in kept.before if state is not None), 0)
