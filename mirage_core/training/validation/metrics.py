"""The measures of a validation: losses and cosines of held-out examples, the accuracy of greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from mirage_core.config import Settings
from mirage_core.distributed.collectives import added
from mirage_core.distributed.job import Job
from mirage_core.errors import DataError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode
from mirage_core.generation.trajectory import output_text
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression
from mirage_core.latent.encoder import Encoder
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import target_latents
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_problems
from mirage_core.training.engine.base import Engine
from mirage_core.training.engine.gather_weights import whole_weights
from mirage_core.training.grpo.rollouts import is_correct
from mirage_core.training.model_metadata import has_latents
from mirage_core.training.objective import MicroBatch, Objective, counted
from mirage_core.training.validation.validation import Validation, sample
from mirage_core.types import Problem


def policy_validation(job: Job, model: LoadedModel, rank: int, world_size: int) -> Validation | None:
    """What is measured while GRPO trains: answers to problems of the validation split; None where nothing is.

    DataError where it is to be measured and there is no such problem.
    """
    settings = job.settings.grpo.validation
    if settings.every is None:
        return None
    problems = load_problems(job.input("problems"), split="validation")
    if not problems:
        raise DataError(
            f"{job.input('problems')} has no problem of the split validation, which grpo.validation.every needs; "
            "raise problems.*.validation"
        )
    picked = [problems[index] for index in sample(len(problems), settings.problems, job.seed)]
    latents: Literal["on", "off"] = "on" if has_latents(job) else "off"
    return Validation(settings, (HeldOutAnswers(model, job.settings, picked, latents, rank, world_size, job.portion),))


class HeldOutLosses:
    """The losses of an objective on its batch 0: means over the whole sample, however it was cut."""

    def __init__(self, objective: Objective, backbone: Backbone, rank: int, world_size: int) -> None:
        self._objective, self._backbone = objective, backbone
        self._rank, self._world_size = rank, world_size

    def __call__(self, engine: Engine) -> dict[str, float]:
        """The loss and its parts."""
        batches = self._objective.micro_batches(0, self._rank, self._world_size)
        totals = added(counted(batches))
        figures: dict[str, float] = {}
        for batch in batches:
            for name, value in self._figures(engine, batch, totals).items():
                figures[name] = figures.get(name, 0.0) + (0.0 if batch.filler else float(value))
        engine.rest()
        return added(figures)

    def _figures(self, engine: Engine, batch: MicroBatch, totals: dict[str, float]) -> dict[str, Tensor]:
        def work() -> dict[str, Tensor]:
            found = self._objective.loss(self._backbone, batch.data, totals)
            return {"loss": found.total, **found.parts}

        return engine.compute(work)


class HeldOutConstant:
    """What the best constant vector of each latent index would score: its mean cosine to the targets of the sample.

    In place of the same figure of every micro-batch, which knows its own targets alone.
    """

    def __init__(
        self, objective: Objective, backbone: Backbone, compression: Compression, rank: int, world_size: int
    ) -> None:
        self._objective, self._backbone, self._compression = objective, backbone, compression
        self._rank, self._world_size = rank, world_size

    def __call__(self, engine: Engine) -> dict[str, float]:
        """The yardstick of "cosine"."""
        batches = self._objective.micro_batches(0, self._rank, self._world_size)
        held = [(engine.compute(partial(self._targets, batch.data.batch)), batch.filler) for batch in batches]
        engine.rest()
        total = torch.stack([targets.sum(0) * (0.0 if filler else 1.0) for targets, filler in held]).sum(0).cpu()
        spans = added({"spans": float(sum(len(targets) for targets, filler in held if not filler))})["spans"]
        if self._world_size > 1:
            dist.all_reduce(total)
        return {"cosine_constant": float((total / spans).norm(dim=-1).mean())}

    def _targets(self, batch: LatentBatch) -> Tensor:
        """Targets of length 1 [S, K, D]."""
        return normalize(target_latents(self._backbone, batch, self._compression).float(), dim=-1)


class HeldOutAnswers:
    """Greedy answers to problems, shared among the processes: the share that is right, that ended, that imagined.

    Processes draw answers of different lengths, so weights that ZeRO-3 shards are made whole for it.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: Settings,
        problems: Sequence[Problem],
        latents: Literal["on", "off"],
        rank: int,
        world_size: int,
        portion: int | None,
    ) -> None:
        self._model, self._rule = model, settings.evaluation.planning_rule
        self._encoder = Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
        self._decoding = DecodeSettings(
            max_new_tokens=settings.evaluation.max_new_tokens,
            num_latents=settings.latent.num_latents,
            latents=latents,
            end=settings.latent.end,
            max_latents=settings.latent.max_latents,
            max_spans=settings.latent.max_spans,
            bottleneck=settings.latent.bottleneck,
            fed=settings.latent.fed,
        )
        alike = sorted(problems, key=lambda problem: (problem.benchmark, problem.group, problem.id))
        at_once = min(portion or settings.evaluation.batch_size, settings.evaluation.batch_size)
        mine = alike[rank::world_size]
        self._portions = [mine[first : first + at_once] for first in range(0, len(mine), at_once)]

    def __call__(self, engine: Engine) -> dict[str, float]:  # noqa: ARG002 -- no pass of the engine's
        """Shares of all answers."""
        sums = dict.fromkeys(("answers", "accuracy", "finished_share", "latent_share"), 0.0)
        with whole_weights(self._model.backbone):
            for problems in self._portions:
                for problem, answer in zip(problems, self._answers(problems), strict=True):
                    for name, value in self._figures(problem, answer).items():
                        sums[name] += value
        totals = added(sums)
        number = totals.pop("answers")
        if self._decoding.latents == "off":
            del totals["latent_share"]
        return {name: value / number for name, value in totals.items()}

    def _answers(self, problems: Sequence[Problem]) -> list[Trajectory]:
        prompts = [self._encoder.prompt(problem) for problem in problems]
        drawn = decode(self._model.backbone, prompts, self._model.ids, self._decoding)
        return [trajectories[0] for trajectories in drawn]

    def _figures(self, problem: Problem, answer: Trajectory) -> dict[str, float]:
        said = output_text(self._model.processor.tokenizer, self._model.ids, answer.token_ids, answer.spans)
        return {
            "answers": 1.0,
            "accuracy": float(is_correct(problem, said, self._rule)),
            "finished_share": float(answer.finished),
            "latent_share": float(bool(answer.spans)),
        }
