"""Two small models whose answers are known to depend on their latents, or not to; and the toy they are trained on.

An image of one colour is one of three letters. ``reader``: text after the span attends to the latents' vectors alone
(latent_only), so its answers come from them. ``deaf``: text after the span attends to no latent in any run, so its
answers owe nothing to them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from mirage_core.analysis.collect import CleanRun, collect
from mirage_core.analysis.intervened_generation import BatchIntervention, GeneratedAnswer, InterventionRunner
from mirage_core.config import ArchitectureSettings, ModelSettings, Settings
from mirage_core.generation.interventions import Interventions
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import Encoder
from mirage_core.model.loading import LoadedModel, build_base_model
from mirage_core.training.sft.losses import relaxation_loss
from mirage_core.training.sft.span_end import SpanEnds
from mirage_core.types import AuxiliaryImage, Problem, ProgressEvent, ReasoningChain, TrainingExample

COLOURS = {"A": (220, 40, 40), "B": (40, 200, 60), "C": (50, 60, 220)}
SMALL = ArchitectureSettings(
    hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1, initializer_range=0.05
)


def toy_settings(bottleneck: str = "none", *, length: str = "fixed", **analysis: Any) -> Settings:
    """A recipe of the toy; ``length`` frames: spans of 1, 2 or 3 latents by the letter, which the model ends itself."""
    spans = {"length": length, "end": "free", "max_latents": 4} if length == "frames" else {}
    measured = {"batch_size": 24, "resamples": 200, "noise_scales": [0.5, 2.0, 8.0], "shuffles": 20}
    return Settings.model_validate(
        {
            "recipe": "toy",
            "prompt": {"form": "short"},
            "latent": {"num_latents": 2, "bottleneck": bottleneck, **spans},
            "auxiliary_images": {"film": "forward"} if spans else {},
            "evaluation": {"max_new_tokens": 8},
            "analysis": {**measured, **analysis},
        }
    )


def toy_problem(index: int) -> Problem:
    """Number ``index``: an image whose colour gives the answer, each a little different."""
    letter = "ABC"[index % 3]
    random = np.random.default_rng(index)
    pixels = np.array(COLOURS[letter]) + random.integers(-25, 26, size=(56, 56, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return Problem(
        id=f"toy-{index}",
        benchmark="vsp-reasoning",
        split="test",
        group=f"level-{3 + index % 2}",
        question="<image>",
        images=(file.getvalue(),),
        answer=letter,
        facts={"plan": "R", "side": "left" if index % 5 < 2 else "right"},
    )


def toy_problems(count: int = 24, first: int = 1000) -> list[Problem]:
    """Problems that no model was trained on."""
    return [toy_problem(first + index) for index in range(count)]


@lru_cache(maxsize=3)
def trained(bottleneck: str, steps: int = 30, length: str = "fixed") -> LoadedModel:
    """A model trained to roll its latents out and to answer, under a bottleneck or none."""
    settings = toy_settings(bottleneck, length=length)
    loaded = build_base_model(ModelSettings(architecture=SMALL), 0)
    loaded = replace(loaded, about={"stages": ["base", "relaxation"]})
    backbone = loaded.backbone.train()
    backbone.freeze_vision()
    encoder = Encoder(loaded.processor, settings.latent, settings.prompt, "direct")
    examples = [encoder.example(_example(index), with_latents=True, with_targets=False) for index in range(120)]
    weights = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    for step in range(steps):
        chosen = [examples[(step * 16 + offset) % len(examples)] for offset in range(16)]
        batch = collate(chosen, loaded.ids, backbone.position_ids, bottleneck=bottleneck)  # type: ignore[arg-type]
        optimizer.zero_grad()
        ends = SpanEnds.of(batch, len(batch.span_lengths), loaded.ids.latent_end) if length == "frames" else None
        relaxation_loss(backbone, batch, ends=ends).total.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    backbone.eval()
    return loaded


def _example(index: int) -> TrainingExample:
    problem = toy_problem(index)
    chain = ReasoningChain(
        problem_id=problem.id,
        variant="direct",
        text_before="",
        text_after=f"\\boxed{{{problem.answer}}}",
        teacher="toy",
    )
    frames = "ABC".index(problem.answer) + 1
    image = AuxiliaryImage(problem_id=problem.id, image=problem.images[0], style="toy", details={"frames": frames})
    return TrainingExample(problem=problem, auxiliary_image=image, chain=chain)


class DeafRunner(InterventionRunner):
    """A runner under which text after a span never attends to a latent, whatever else is changed."""

    def generate(
        self, problems: Sequence[Problem], intervene: BatchIntervention | None = None, **options: Any
    ) -> list[GeneratedAnswer]:
        """As an InterventionRunner does, with ``hide_latents`` in every run."""

        def deaf(index: Any) -> Interventions:
            base = Interventions() if intervene is None else intervene(index)
            return replace(base, hide_latents=True)

        return super().generate(problems, deaf, **options)


def quiet(event: ProgressEvent) -> None:
    """A Progress that reports nothing."""


@lru_cache(maxsize=1)
def reader() -> tuple[InterventionRunner, Settings]:
    """The model whose answers come from its latents."""
    settings = toy_settings("latent_only")
    return InterventionRunner(trained("latent_only"), settings), settings


@lru_cache(maxsize=1)
def deaf() -> tuple[InterventionRunner, Settings]:
    """The model whose answers owe nothing to its latents."""
    settings = toy_settings("none")
    return DeafRunner(trained("none"), settings), settings


@lru_cache(maxsize=2)
def clean(which: str) -> CleanRun:
    """The clean run of ``reader`` or ``deaf`` over the toy's problems."""
    runner, _ = reader() if which == "reader" else deaf()
    return collect(runner, toy_problems(), quiet)
