"""VLPO's term: latents without noise, judged as they were fed, in the policy like tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mirage_core.model.forward.forward import answers_forward
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.batch import PolicyBatch
from mirage_core.training.grpo.log_probs import text_log_probs
from tests.training.grpo_world import objective, run_here
from tests.training.small_world import make_job, small_settings

SIGMA = 0.5
Term = Literal["aligned", "released"]


def judged(term: Term, **grpo: Any) -> dict[str, Any]:
    return {"latents": "replay", "latent_term": term, "latent_term_sigma": SIGMA, **grpo}


@pytest.fixture
def inputs(latent_inputs: Path) -> Path:
    return latent_inputs


def expected_terms(batch: PolicyBatch, hidden: Tensor, term: Term) -> dict[tuple[int, int], float]:
    """By definition: row and predicting column of every latent, and its term."""
    layout, found = batch.layout.answers, {}
    spans = zip(layout.span_rows.tolist(), layout.span_starts.tolist(), batch.latents, strict=True)
    for row, start, vectors in spans:
        for number, vector in enumerate(vectors):
            mean = hidden[row, start + number - (term == "aligned")]
            found[row, start + number - 1] = -float((vector - mean).square().sum()) / (2 * SIGMA**2)
    return found


@pytest.mark.parametrize("term", ["aligned", "released"])
def test_every_latent_is_in_the_policy_with_its_term_and_ratios_are_one_on_policy(
    inputs: Path, tmp_path: Path, term: Term
) -> None:
    drawing, backbone = objective(inputs, tmp_path, **judged(term))
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    assert batch.latent_mask is not None
    hidden = answers_forward(backbone, batch.layout, batch.latents)
    terms, found = expected_terms(batch, hidden, term), drawing._log_probs(backbone, batch)
    assert set(map(tuple, batch.latent_mask.nonzero().tolist())) == terms.keys() and terms
    for cell, value in terms.items():
        assert found[cell].item() == pytest.approx(value, abs=1e-3)
        assert batch.sampled_log_probs[cell].item() == pytest.approx(value, abs=1e-3)
    text = text_log_probs(backbone, batch.layout.answers, hidden, drawing._sampler.rules)
    torch.testing.assert_close(found[batch.text_mask], text[batch.text_mask])
    assert float(drawing.loss(backbone, micro_batch.data, micro_batch.counts).parts["ratio_deviation"]) < 1e-4
    assert min(terms.values()) < -1.0 if term == "released" else max(map(abs, terms.values())) < 1e-3


@pytest.mark.parametrize("term", ["aligned", "released"])
def test_a_ratio_off_policy_is_that_of_the_distances(inputs: Path, tmp_path: Path, term: Term) -> None:
    drawing, backbone = objective(inputs, tmp_path, **judged(term))
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    with torch.no_grad():
        before = expected_terms(batch, answers_forward(backbone, batch.layout, batch.latents), term)
        backbone.norm_weight.mul_(1.05)
        after = expected_terms(batch, answers_forward(backbone, batch.layout, batch.latents), term)
        ratios = torch.exp(drawing._log_probs(backbone, batch) - batch.sampled_log_probs)
    for cell, old in before.items():
        assert float(ratios[cell]) == pytest.approx(math.exp(after[cell] - old), rel=2e-3)
    assert max(abs(after[cell] - old) for cell, old in before.items()) > 0.01


def test_the_reference_judges_the_same_latents(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **judged("released"), kl_weight=0.1)
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    assert batch.reference_log_probs is not None
    with torch.no_grad():
        torch.testing.assert_close(batch.reference_log_probs, drawing._log_probs(backbone, batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("term", ["aligned", "released"])
def test_several_updates_go_on_from_a_checkpoint_between_them(inputs: Path, tmp_path: Path, term: Term) -> None:
    grpo = judged(term, updates_per_rollout=2, learning_rate=1e-3, steps=4)
    straight = run_here(make_job(inputs, tmp_path / "straight", "grpo", grpo=grpo))
    checkpoint = straight.parent / "scratch" / "checkpoints" / "step-00000003"
    again = run_here(make_job(inputs, tmp_path / "again", "grpo", grpo=grpo, resume_from=checkpoint))
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (straight / name).read_bytes()
    rows = read_table(straight / "curves.parquet")
    deviations = [row["value"] for row in rows if row["name"] == "ratio_deviation"]
    assert deviations[1] > 1e-3 > deviations[0]


def test_a_term_that_teaches_nothing_on_policy_says_so(inputs: Path, tmp_path: Path) -> None:
    for updates in (1, 2):
        grpo = judged("aligned", updates_per_rollout=updates, steps=1)
        output = run_here(make_job(inputs, tmp_path / str(updates), "grpo", grpo=grpo))
        events = (output.parent / "scratch" / "events.jsonl").read_text(encoding="utf-8")
        assert ("has no gradient on policy" in events) == (updates == 1)


def test_settings_that_contradict_the_term_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValidationError, match="set latents to replay and latent_sigma to 0"):
        small_settings(grpo={"latent_term": "aligned"})
    with pytest.raises(ValidationError, match="set latents to replay and latent_sigma to 0"):
        small_settings(grpo=judged("aligned", latent_sigma=0.1))
    with pytest.raises(ValidationError, match="set latent_term to none"):
        small_settings(grpo=judged("aligned"), latent={"input": "blank"})
