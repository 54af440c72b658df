"""Who is experimented on: the instances whose clean answer has a whole first span, and where each of them stands.

An experiment goes on from the clean text up to latent_start, so that every run enters the span at the same place,
whatever is left of the picture. Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.analysis.collect import Collected, stratum
from mirage_core.analysis.intervened_generation import Asker, Change, Said
from mirage_core.generation.interventions import SpanStates
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.types import LatentSpan, Prediction, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """The subjects' problems, their clean answers, their latents [n, k, D], what they go on from, and what of the
    answer stands in that already."""

    problems: tuple[Problem, ...]
    clean: tuple[Said, ...]
    latents: Tensor
    prompts: tuple[EncodedPrompt, ...]
    written: tuple[str, ...]

    @property
    def strata(self) -> list[tuple[str, str]]:
        """Who may lend to whom."""
        return [stratum(problem) for problem in self.problems]

    def run(self, asker: Asker, change: Change | None, *, record_states: bool = False) -> list[Said]:
        """Answers [n] under a change, from latent_start on."""
        return asker.ask(self.problems, change, prompts=self.prompts, written=self.written, record_states=record_states)

    def states(self, asker: Asker) -> list[SpanStates | None]:
        """Keys and values [n] of the clean spans, as the subjects themselves compute them."""
        return [one.states for one in self.run(asker, None, record_states=True)]


def subjects(asker: Asker, collected: Collected, instances: Sequence[Problem]) -> Subjects:
    """The subjects among the instances of a clean run."""
    chosen = collected.with_span().tolist()
    clean = clean_answers(collected)
    problems = tuple(instances[at] for at in chosen)
    begun = [_before_span(collected.scored[at][0]) for at in chosen]
    return Subjects(
        problems=problems,
        clean=tuple(clean[at] for at in chosen),
        latents=collected.latents[torch.tensor(chosen, dtype=torch.long)],
        prompts=tuple(extended(asker.prompt(problem), ids) for problem, ids in zip(problems, begun, strict=True)),
        written=tuple(_text(asker, ids) for ids in begun),
    )


def clean_answers(collected: Collected) -> list[Said]:
    """The answers [N] of a clean run, as it left them."""
    return [
        Said(
            prediction=prediction,
            score=score,
            first=collected.first[at] if bool(collected.has_first[at]) else None,
            latents=collected.latents[at] if bool(collected.has_span[at]) else None,
        )
        for at, (prediction, score) in enumerate(collected.scored)
    ]


def extended(prompt: EncodedPrompt, ids: Sequence[int]) -> EncodedPrompt:
    """A prompt with the beginning of an answer behind it."""
    return replace(prompt, ids=torch.cat([prompt.ids, torch.tensor(list(ids), dtype=prompt.ids.dtype)]))


def _before_span(prediction: Prediction) -> tuple[int, ...]:
    """The tokens of an answer up to its first latent, latent_start among them."""
    span: LatentSpan = prediction.spans[0]
    return prediction.token_ids[: span.position]


def _text(asker: Asker, ids: Sequence[int]) -> str:
    return output_text(asker.loaded.processor.tokenizer, asker.loaded.ids, ids, ())
