"""Metrics of a validation: losses and cosines of its examples, the accuracy of greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mirage_core.benchmarks.judge import Scorer, judge
from mirage_core.config import InferenceSettings, Settings
from mirage_core.distributed.collectives import all_reduce_sum, sum_over_processes
from mirage_core.distributed.context import current_process
from mirage_core.generation.decode import DecodeSettings
from mirage_core.generation.generator import Generator
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import LoadedModel
from mirage_core.training.engine.base import Engine
from mirage_core.training.engine.gather_weights import gathered_weights
from mirage_core.training.objective import MicroBatch, Objective, total_counts
from mirage_core.types import Problem


class ValidationLoss:
    """The losses of an objective on its batch 0: means over the whole sample, however it was split."""

    def __init__(self, objective: Objective, backbone: Backbone) -> None:
        self._objective, self._backbone = objective, backbone

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Return the loss and its parts."""
        batches = self._objective.micro_batches(0)
        totals = sum_over_processes(total_counts(batches))
        figures: dict[str, float] = {}
        for batch in batches:
            for name, value in self._figures(engine, batch, totals).items():
                figures[name] = figures.get(name, 0.0) + (0.0 if batch.filler else float(value))
        engine.release()
        return sum_over_processes(figures)

    def _figures(self, engine: Engine, batch: MicroBatch, totals: dict[str, float]) -> dict[str, Tensor]:
        def forward() -> dict[str, Tensor]:
            loss = self._objective.loss(self._backbone, batch.data, totals)
            return {"loss": loss.total, **loss.parts}

        return engine.compute(forward)


class ConstantBaseline:
    """The mean cosine of the best constant vector of each latent index to the targets of the whole sample.

    It replaces the same figure of every micro-batch, which knows its own targets alone. ``targets`` returns those of a
    batch [S, K, D].
    """

    def __init__(self, objective: Objective, targets: Callable[[LatentBatch], Tensor]) -> None:
        self._objective, self._make_targets = objective, targets

    def __call__(self, engine: Engine) -> dict[str, float]:
        """Return the baseline of "cosine"."""
        batches = self._objective.micro_batches(0)
        targets = [engine.compute(partial(self._targets, batch.data.inputs.batch)) for batch in batches]
        engine.release()
        weights = [0.0 if batch.filler else 1.0 for batch in batches]
        local = sum(weight * len(of_batch) for of_batch, weight in zip(targets, weights, strict=True))
        spans = sum_over_processes({"spans": local})["spans"]
        sums = [of_batch.sum(0) * weight for of_batch, weight in zip(targets, weights, strict=True)]
        total = torch.stack(sums).sum(0).cpu()
        all_reduce_sum(total)
        return {"cosine_constant": float((total / spans).norm(dim=-1).mean())}

    def _targets(self, batch: LatentBatch) -> Tensor:
        """Return the targets with length 1 [S, K, D]."""
        return normalize(self._make_targets(batch).float(), dim=-1)


class ValidationAccuracy:
    """Shares of greedy answers, split among the processes, that are correct, finished, or have latents.

    ``max_rows``: answers decoded side by side; None: a batch of the evaluation. Processes decode answers of different
    lengths, so weights that ZeRO-3 shards are gathered for it.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: Settings,
        problems: Sequence[Problem],
        latents: Literal["on", "off"],
        max_rows: int | None,
        scorer: Scorer = judge,
    ) -> None:
        self._generator = Generator(
            model,
            InferenceSettings.of(settings),
            DecodeSettings.of(settings.latent, max_new_tokens=settings.evaluation.max_new_tokens, latents=latents),
            planning_rule=settings.evaluation.planning_rule,
            scorer=scorer,
        )
        ordered = sorted(problems, key=lambda problem: (problem.benchmark, problem.group, problem.id))
        size = min(max_rows or settings.evaluation.batch_size, settings.evaluation.batch_size)
        local = current_process().share(ordered)
        self._batches = [local[first : first + size] for first in range(0, len(local), size)]

    def __call__(self, engine: Engine) -> dict[str, float]:  # noqa: ARG002 -- decodes without the engine
        """Return the shares over all processes."""
        sums = dict.fromkeys(("answers", "accuracy", "finished_share", "latent_share"), 0.0)
        model = self._generator.model
        with (
            gathered_weights(model.backbone),
            nullcontext() if model.readout is None else gathered_weights(model.readout),
        ):
            for problems in self._batches:
                for prediction, score in self._generator.scored(problems):
                    sums["answers"] += 1.0
                    sums["accuracy"] += float(score.correct)
                    sums["finished_share"] += float(prediction.finished)
                    sums["latent_share"] += float(bool(prediction.spans))
        totals = sum_over_processes(sums)
        answers = totals.pop("answers")
        if self._generator.decoding.latents == "off":
            del totals["latent_share"]
        return {name: value / answers for name, value in totals.items()}
