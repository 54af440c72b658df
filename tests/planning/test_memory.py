"""The planned memory of a step against the bytes of the tensors that were alive in a real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.live_memory import tensors_of
from bench.training import CASES, equal_rows, memory_of, peak_bytes, state_of
from mirage_core.config import Settings
from mirage_core.latent.tokens import token_ids
from mirage_core.model.cache import FixedCache
from mirage_core.model.loading import build_base_model, load_base_processor, scratch_config
from mirage_core.planning.memory import capacity, peak
from mirage_core.planning.sizes import model_sizes
from mirage_core.planning.stages import stage_work
from mirage_core.training.engine.base import EngineSettings, Root
from mirage_core.training.engine.make_engine import make_engine
from mirage_core.training.warmup.objective import WarmupObjective
from tests.planning.conftest import LARGE, row_of, settings_of

WITHIN = 0.15
CLOSE = 0.08
"""How near the supervised stages were found to be, so that a term that is lost is noticed."""
ALL_AGAIN = tuple(f"{stage}.gradient_checkpointing=true" for stage in ("direct_sft", "grounding", "relaxation", "grpo"))
LATENT = ("grounding", "relaxation", "grpo")


def check(settings: Settings, cases: Sequence[str], **row: int) -> None:
    """The plan of every case is near what a real step takes."""
    for case in cases:
        measured, planned = memory_of(settings, row_of(**row), case)
        near = WITHIN if case == "grpo" else CLOSE
        assert planned == pytest.approx(measured, rel=near), (case, planned / measured)


def test_every_stage_of_a_34_million_parameter_model_is_planned_within_15_percent() -> None:
    settings = settings_of("grpo.max_new_tokens=4", "grpo.group_size=2", "relaxation.batch_size=2", architecture=LARGE)
    assert 30e6 < model_sizes(settings.model).total < 36e6
    check(settings, ("relaxation", "grpo"), prompt=32, after=12)


@pytest.mark.parametrize(
    ("overrides", "cases", "row"),
    [
        ((), LATENT, {"prompt": 200}),
        (("direct_sft.batch_size=12", "relaxation.batch_size=1"), ("direct-sft", "relaxation"), {}),
        (ALL_AGAIN, CASES, {"prompt": 200}),
        (("relaxation.micro_batch_size=1", "grpo.micro_batch_size=4"), ("relaxation", "grpo"), {"after": 90}),
        (("model.dtype=bfloat16",), LATENT, {"prompt": 200}),
        (("latent.num_latents=8", "grpo.kl_weight=0.0"), ("relaxation", "grpo"), {}),
        (("model.lora={rank: 16}",), LATENT, {"prompt": 200}),
        (("model.lora={rank: 16}", *ALL_AGAIN), ("relaxation",), {"prompt": 200}),
    ],
)
def test_batches_lengths_types_portions_adapters_and_checkpointing_are_planned_within_15_percent(
    overrides: tuple[str, ...], cases: tuple[str, ...], row: dict[str, int]
) -> None:
    check(settings_of(*overrides), cases, **row)


def test_the_logits_of_a_large_vocabulary_are_planned_too(tmp_path: Path) -> None:
    model = settings_of().model
    ids = token_ids(load_base_processor(model).tokenizer)
    config = scratch_config(model.architecture, ids)
    config.text_config.vocab_size = 16384
    config.save_pretrained(tmp_path)
    few = settings_of(f"model.source={tmp_path}")
    check(few, ("direct-sft", "grpo"), after=60)
    answers = settings_of(f"model.source={tmp_path}", "grpo.max_new_tokens=64")
    check(answers, ("grpo",))


def test_a_warm_up_which_trains_the_vision_tower_too_is_planned_within_15_percent() -> None:
    settings = settings_of("model.warmup={batch_size: 16, levels: [6]}")
    model = build_base_model(settings.model, 0)
    objective = WarmupObjective(settings, model, 0)
    (batch,) = objective.micro_batches(0)
    root = Root({"backbone": model.backbone, **objective.modules()})
    engine = make_engine(root, EngineSettings(kind="plain", zero_stage=0, weight_decay=0.0, max_grad_norm=1.0), None)

    def step() -> None:
        engine.backward(engine.compute(lambda: objective.loss(model.backbone, batch.data, batch.counts).total))
        engine.step(1e-4)

    step()
    moments = [*state_of(engine), batch.data.layout.pixel_values]
    measured = peak_bytes(step, [*tensors_of(root), *moments], torch.device("cpu"))
    works = list(stage_work(settings, model_sizes(settings.model), equal_rows(settings, row_of()), None))
    assert peak(works[0].moments).total == pytest.approx(measured, rel=WITHIN)


def test_a_step_with_checkpointing_needs_less_as_it_is_planned_to() -> None:
    many = ("relaxation.batch_size=8",)
    plain = memory_of(settings_of(*many), row_of(prompt=200), "relaxation")
    again = memory_of(settings_of(*many, *ALL_AGAIN), row_of(prompt=200), "relaxation")
    assert again[0] < 0.6 * plain[0]
    assert again[1] < 0.6 * plain[1]


def test_a_decodings_cache_has_the_room_that_the_plan_says() -> None:
    for prompt, steps in ((10, 5), (10, 200), (300, 64), (300, 65), (7, 1000)):
        cache = FixedCache()
        cache.update(torch.zeros(1, 1, prompt, 1), torch.zeros(1, 1, prompt, 1), 0)
        cache.advance(prompt)
        for _ in range(steps):
            cache.update(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0)
            cache.advance(1)
        assert cache._buffers[0][0].shape[2] == capacity(prompt, steps)


def test_every_moment_says_what_its_bytes_are_of() -> None:
    settings = settings_of()
    works = list(stage_work(settings, model_sizes(settings.model), equal_rows(settings, row_of()), None))
    assert [work.name for work in works] == ["base", "direct-sft", "grounding", "relaxation", "grpo", "evaluation"]
    for work in works:
        assert all(size >= 0 for moment in work.moments for size in moment.parts.values())
        assert peak(work.moments).parts["weights"] > 0
    assert {"drawing", "reference"} <= {moment.name for moment in works[-2].moments}
