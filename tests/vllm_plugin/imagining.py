"""A model of random weights that imagines often and whose answers hang on it, problems, and what ``decode`` answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mirage_core import benchmarks
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import (
    ArchitectureSettings,
    BenchmarkData,
    LatentSettings,
    ModelSettings,
    ProblemSettings,
    PromptSettings,
    identity,
)
from mirage_core.generation.decode import DecodeSettings, Step, Trajectory, decode
from mirage_core.generation.interventions import Interventions
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import LoadedModel, build_base_model, save_model
from mirage_core.types import Problem

PROMPT = PromptSettings(form="short", image_scale=28 / 64)
TOKENS = 24
"""Text tokens of an answer at most."""
SIZES = ArchitectureSettings(
    hidden_size=64, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=1, vision_hidden_size=64,
    vision_intermediate_size=64, vision_depth=1, vision_num_heads=2, initializer_range=0.12,
)  # fmt: skip


def make_model(folder: Path, latent: LatentSettings, prompt: PromptSettings = PROMPT) -> LoadedModel:
    """Save a model with such latents in ``folder``. Its weights are large, so that every input matters."""
    loaded = build_base_model(ModelSettings(architecture=SIZES), 3)
    loaded.backbone.eval()
    _let_spans_begin(loaded)
    about = {
        "prompt": identity(prompt), "latent": identity(latent), "variant": "direct", "stage": "relaxation",
    }  # fmt: skip
    save_model(folder, loaded.backbone, loaded.processor, about)
    save_file({"where.weight": torch.zeros(3)}, folder / HEADS_FILE)  # as a film's folder has; none of the model's
    return loaded


def _let_spans_begin(model: LoadedModel) -> None:
    """Make latent_start as likely as the likeliest token of plain answers, and the end of turn likelier."""
    states: list[Tensor] = []
    best: list[Tensor] = []

    def observe(step: Step) -> None:
        assert step.logits is not None
        states.append(step.hidden)
        best.append(step.logits.amax(-1))

    prompts = [ask(model, LatentSettings(), problem).prompt for problem in problems(24)]
    decode(model.backbone, prompts, model.ids, DecodeSettings(max_new_tokens=12, num_latents=4), observe=observe)
    seen = torch.cat(states)
    mean = seen.mean(0)
    with torch.no_grad():
        weight = model.backbone.model.get_output_embeddings().weight
        weight[model.ids.latent_start] = mean * (torch.cat(best).median() / (seen @ mean).median())
        weight[model.ids.end_of_turn] *= 2


def problems(count: int) -> list[Problem]:
    """Mazes to be planned."""
    none = BenchmarkData(train=0, validation=0, test_per_level=0)
    data = BenchmarkData(train=count, validation=0, test_per_level=0, train_levels=(3, 4))
    return generate_problems(ProblemSettings(vsp_planning=data, vsp_reasoning=none), 3, lambda event: None)


@dataclass(frozen=True)
class Asked:
    """A problem as a conversation of OpenAI's form (its picture left open), and as the encoder has it."""

    pieces: list[str]
    picture: bytes
    prompt: EncodedPrompt


def ask(model: LoadedModel, latent: LatentSettings, problem: Problem, prompt: PromptSettings = PROMPT) -> Asked:
    question = benchmarks.get(problem.benchmark).prompt(problem, prompt.form, "direct")
    encoder = Encoder(model.processor, latent, prompt, "direct")
    return Asked(question.split("<image>"), problem.images[0], encoder.prompt(problem))


def answers(
    model: LoadedModel, latent: LatentSettings, asked: Sequence[Asked], *, lose: bool = False, **settings: Any
) -> list[Trajectory]:
    """What ``decode`` answers; ``lose``: without its latents."""
    decoding = DecodeSettings.of(latent, max_new_tokens=TOKENS, **settings)
    lost = Interventions(latents=lambda rows, numbers, latents: torch.zeros_like(latents)) if lose else None
    prompts = [one.prompt for one in asked]
    return [each[0] for each in decode(model.backbone, prompts, model.ids, decoding, interventions=lost)]


def with_latents(model: LoadedModel, answer: Trajectory) -> list[int]:
    """The tokens of an answer as the engine has them: latent_pad for each latent, the end of turn after a cut one."""
    spans = {span.position: span.num_latents for span in answer.spans}
    tokens: list[int] = []
    for place, token in enumerate(answer.token_ids):
        tokens += [model.ids.latent_pad] * spans.get(place, 0) + [token]
    return tokens if answer.finished else [*tokens, model.ids.end_of_turn]
