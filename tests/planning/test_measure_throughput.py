"""Rates measured by a few steps here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.training import equal_rows, measure
from mirage_core.errors import InputError
from mirage_core.planning.flops import Rates
from mirage_core.planning.measure_throughput import measured_rates
from mirage_core.planning.random_model import placeholder_ids, random_model
from mirage_core.planning.sizes import model_sizes
from mirage_core.planning.stages import stage_work
from tests.planning.conftest import row_of, settings_of


def test_measured_rates_give_hours_to_every_stage() -> None:
    settings = settings_of()
    rows = equal_rows(settings, row_of())
    rates = measured_rates(settings, rows, torch.device("cpu"))
    assert rates.measured
    assert min(rates.training, rates.rolling, rates.memory, rates.launch_ms) > 0
    works = list(stage_work(settings, model_sizes(settings.model), rows, rates))
    assert all(work.seconds is not None and work.seconds > 0 for work in works)


def test_a_stated_rate_cannot_beat_the_launch_of_the_layers() -> None:
    settings = settings_of()
    works = {work.name: work for work in _works(Rates(training=1e6, rolling=1e6, launch_ms=1.0))}
    layers = settings.model.architecture.num_layers
    assert works["direct-sft"].seconds == pytest.approx(3 * layers / 1e3, rel=0.05)
    assert works["relaxation"].seconds == pytest.approx(5 * 3 * layers / 1e3, rel=0.05)  # k + 1 passes
    measured = replace(Rates(training=1e6, rolling=1e6), measured=True)
    assert next(work for work in _works(measured) if work.name == "direct-sft").seconds < 1e-3  # type: ignore[operator]


def _works(rates: Rates) -> list:  # type: ignore[type-arg]
    settings = settings_of()
    return list(stage_work(settings, model_sizes(settings.model), equal_rows(settings, row_of()), rates))


def test_a_model_cut_to_a_few_layers_has_them_in_its_own_type() -> None:
    settings = settings_of("model.dtype=bfloat16", "model.lora={rank: 4}").model
    model = random_model(settings, "cpu", layers=2)
    assert len(model.layers) == 2
    assert model.dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32
    placeholder_ids(model).check(model.vocab_size)
    learned = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("q_proj.lora_A" in name for name in learned)
    assert not any("base_layer" in name for name in learned)


def test_the_benchmark_refuses_settings_that_it_cannot_measure() -> None:
    with pytest.raises(InputError, match="--rounds is 0"):
        measure(settings_of(), lambda _: None, rounds=0)
    with pytest.raises(InputError, match="train_vision"):
        measure(settings_of("model.train_vision=true"), lambda _: None)


def test_a_case_in_a_process_of_its_own_is_the_same_case() -> None:
    (apart,), (here,) = (
        measure(settings_of(), lambda _: None, cases=(), rounds=1, row=row_of(), apart=to) for to in (True, False)
    )
    assert replace(apart, seconds=0.0, ratio=0.0) == replace(here, seconds=0.0, ratio=0.0)
