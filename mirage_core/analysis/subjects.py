"""The subjects of an experiment: instances whose clean answer has a whole first span, with the prompts they go on from.

An experiment continues the clean text up to latent_start, so that every run enters the span at the same position,
whatever its image access. Legend: n subjects, k latents, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mirage_core.analysis.collect import CleanRun, stratum
from mirage_core.analysis.intervened_generation import BatchIntervention, GeneratedAnswer, InterventionRunner
from mirage_core.evaluation.pictures import Units, picture_units
from mirage_core.generation.interventions import SpanStates
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.types import LatentSpan, Prediction, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Problems, clean answers and latents [n, k, D] of the subjects.

    ``prompts`` end in latent_start; ``prefix_text``: the part of each answer that its prompt holds.
    """

    problems: tuple[Problem, ...]
    clean: tuple[GeneratedAnswer, ...]
    latents: Tensor
    prompts: tuple[EncodedPrompt, ...]
    prefix_text: tuple[str, ...]

    @property
    def strata(self) -> list[tuple[str, str]]:
        """The stratum of each subject: subjects of one stratum may donate to each other."""
        return [stratum(problem) for problem in self.problems]

    @property
    def units(self) -> Units:
        """The unit of each subject: those that share a picture are no independent observations."""
        return picture_units(self.problems)

    def subset(self, chosen: Sequence[int]) -> Subjects:
        """The subjects of these indices, in their order."""
        return Subjects(
            problems=tuple(self.problems[at] for at in chosen),
            clean=tuple(self.clean[at] for at in chosen),
            latents=self.latents[torch.tensor(list(chosen), dtype=torch.long)],
            prompts=tuple(self.prompts[at] for at in chosen),
            prefix_text=tuple(self.prefix_text[at] for at in chosen),
        )

    def run(
        self, runner: InterventionRunner, intervene: BatchIntervention | None, *, record_states: bool = False
    ) -> list[GeneratedAnswer]:
        """Return answers [n] under an intervention, from latent_start on."""
        return runner.generate(
            self.problems, intervene, prompts=self.prompts, prefix_text=self.prefix_text, record_states=record_states
        )

    def states(self, runner: InterventionRunner) -> list[SpanStates | None]:
        """Recompute the keys and values [n] of the clean spans."""
        return [answer.states for answer in self.run(runner, None, record_states=True)]


def select_subjects(runner: InterventionRunner, clean_run: CleanRun, instances: Sequence[Problem]) -> Subjects:
    """The subjects among the instances of a clean run."""
    chosen = clean_run.with_span().tolist()
    clean = clean_answers(clean_run)
    problems = tuple(instances[at] for at in chosen)
    prefixes = [_before_span(clean_run.scored[at][0]) for at in chosen]
    return Subjects(
        problems=problems,
        clean=tuple(clean[at] for at in chosen),
        latents=clean_run.latents[torch.tensor(chosen, dtype=torch.long)],
        prompts=tuple(extended(runner.prompt(problem), ids) for problem, ids in zip(problems, prefixes, strict=True)),
        prefix_text=tuple(_text(runner, ids) for ids in prefixes),
    )


def clean_answers(clean_run: CleanRun) -> list[GeneratedAnswer]:
    """The answers [N] of a clean run."""
    return [
        GeneratedAnswer(
            prediction=prediction,
            score=score,
            first_token=clean_run.first[at] if bool(clean_run.has_first[at]) else None,
            latents=clean_run.latents[at] if bool(clean_run.has_span[at]) else None,
        )
        for at, (prediction, score) in enumerate(clean_run.scored)
    ]


def extended(prompt: EncodedPrompt, ids: Sequence[int]) -> EncodedPrompt:
    """A prompt followed by the tokens that begin its answer."""
    return replace(prompt, ids=torch.cat([prompt.ids, torch.tensor(list(ids), dtype=prompt.ids.dtype)]))


def _before_span(prediction: Prediction) -> tuple[int, ...]:
    """The tokens of an answer up to its first latent, latent_start included."""
    span: LatentSpan = prediction.spans[0]
    return prediction.token_ids[: span.position]


def _text(runner: InterventionRunner, ids: Sequence[int]) -> str:
    return output_text(runner.loaded.processor.tokenizer, runner.loaded.ids, ids, ())
