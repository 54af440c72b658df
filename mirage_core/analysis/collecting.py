"""The one clean run that all measures stand on: every instance answered, with the states that baselines need.

Legend: N instances, n rows of a batch, T columns, k latents, J places of the baselines, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.asking import Asker, Said
from mirage_core.analysis.collected import Collected, stacked
from mirage_core.analysis.geometry import evenly
from mirage_core.analysis.partners import spread_evenly
from mirage_core.errors import DataError
from mirage_core.evaluation.answer import fixed_batches
from mirage_core.latent.compress import compress
from mirage_core.latent.encoded import EncodedPrompt
from mirage_core.latent.layout import collate_prompts
from mirage_core.model.base import LoadedModel
from mirage_core.model.decode import Observer, Step
from mirage_core.model.rollout import image_features, text_forward
from mirage_core.types import Problem, Progress, ProgressEvent

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
