"""Latents that are sampled in GRPO: their densities in the ratio, what learns from them, and what stays as it was."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.gaussian_latents import GaussianLatents, gaussian_log_density
from mirage_core.generation.interventions import Interventions
from mirage_core.generation.trajectory import Trajectory
from mirage_core.model.forward.feed_norm import at_norms, image_norms
from mirage_core.model.forward.forward import answers_forward, image_features
from mirage_core.model.loading import load_model
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.batch import PolicyBatch
from mirage_core.training.grpo.latent_policy import LatentPolicy
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.training.grpo.objective import GRPOObjective, PolicyData
from mirage_core.training.grpo.rewards import Reward
from mirage_core.training.grpo.rollouts import Sampler
from mirage_core.training.sft.train import load_trainable
from mirage_core.types import Problem
from tests.training.grpo_world import answers, objective, run_here
from tests.training.small_world import make_job, rank_micro_batches, small_settings

SIGMA = 0.3
SAMPLED: dict[str, Any] = {"latents": "replay", "latent_sigma": SIGMA}


@pytest.fixture
def inputs(latent_inputs: Path) -> Path:
    return latent_inputs


def log_normal(value: float, mean: float, sigma: float) -> float:
    """The logarithm of a normal density, by the standard library."""
    return math.log(statistics.NormalDist(mean, sigma).pdf(value))


def latents_of(batch: PolicyBatch) -> list[tuple[int, int, Tensor]]:
    """Row, column that predicts it, and vector of every latent of a batch."""
    layout, found = batch.layout.answers, []
    spans = zip(layout.span_rows.tolist(), layout.span_starts.tolist(), batch.latents, strict=True)
    for row, start, vectors in spans:
        found += [(row, start - 1 + number, vector) for number, vector in enumerate(vectors)]
    return found


def test_a_density_is_the_mean_over_the_dimensions_of_the_normal_ones() -> None:
    torch.manual_seed(0)
    latents, means = torch.randn(4, 6), torch.randn(4, 6)
    found = gaussian_log_density(latents, means, torch.tensor(math.log(0.7)))
    for at in range(4):
        pairs = zip(latents[at].tolist(), means[at].tolist(), strict=True)
        expected = statistics.fmean(log_normal(value, mean, 0.7) for value, mean in pairs)
        assert found[at].item() == pytest.approx(expected, abs=1e-5)


def test_every_latent_and_no_token_more_is_in_the_policy(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED)
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    places = latents_of(batch)
    assert batch.latent_mask is not None and places
    assert set(map(tuple, batch.latent_mask.nonzero().tolist())) == {place[:2] for place in places}
    assert not (batch.latent_mask & batch.text_mask).any()
    assert int(batch.mask.sum()) == int(batch.text_mask.sum()) + len(places)
    hidden = answers_forward(backbone, batch.layout, batch.latents)
    found = drawing._log_probs(backbone, batch)
    text = text_log_probs(backbone, batch.layout.answers, hidden, drawing._sampler.rules)
    for row, column, latent in places:
        pairs = zip(latent.tolist(), hidden[row, column].tolist(), strict=True)
        expected = statistics.fmean(log_normal(value, mean, SIGMA) for value, mean in pairs)
        assert found[row, column].item() == pytest.approx(expected, abs=1e-4)
        assert batch.sampled_log_probs[row, column].item() == pytest.approx(expected, abs=1e-3)
    torch.testing.assert_close(found[batch.text_mask], text[batch.text_mask])


def test_noise_is_there_with_the_deviation_that_was_asked_for(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED)
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    hidden = answers_forward(backbone, batch.layout, batch.latents)
    deviations = torch.stack([latent - hidden[row, column] for row, column, latent in latents_of(batch)])
    assert deviations.std().item() == pytest.approx(SIGMA, rel=0.05)
    assert abs(deviations.mean().item()) < 0.02
    assert len({tuple(row.tolist()) for row in deviations}) == len(deviations)


def test_ratios_are_one_on_policy_and_the_reference_is_the_policy(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED)
    (batch,) = drawing.micro_batches(0)
    found = drawing.loss(backbone, batch.data, batch.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-4
    assert float(found.parts["kl"]) == pytest.approx(0.0, abs=1e-7)
    assert "latent_sigma" not in found.parts and not drawing.modules()


def test_a_ratio_off_policy_is_that_of_two_normal_densities(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED, updates_per_rollout=2)
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    with torch.no_grad():
        before = answers_forward(backbone, batch.layout, batch.latents)
        backbone.norm_weight.mul_(1.1)
        after = answers_forward(backbone, batch.layout, batch.latents)
        ratios = torch.exp(drawing._log_probs(backbone, batch) - batch.sampled_log_probs)
    moved = 0.0
    for row, column, latent in latents_of(batch):
        old, new = (float((latent - hidden[row, column]).square().mean()) for hidden in (before, after))
        expected = math.exp((old - new) / (2 * SIGMA**2))
        assert float(ratios[row, column]) == pytest.approx(expected, rel=2e-3)
        moved = max(moved, abs(expected - 1))
    assert moved > 0.01


def test_the_gradient_reaches_the_weights_through_the_means_alone(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED, kl_weight=0.0)
    (micro_batch,) = drawing.micro_batches(0)
    batch = micro_batch.data.batch
    assert not any(latent.requires_grad for latent in batch.latents)
    values = drawing._log_probs(backbone, batch)[batch.latent_mask]
    values.sum().backward()
    found = {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-3
    backbone.zero_grad()
    hidden = answers_forward(backbone, batch.layout, batch.latents)
    expected = torch.stack(
        [
            ((latent - hidden[row, column]).square().mean() / (-2 * SIGMA**2))
            for row, column, latent in latents_of(batch)
        ]
    ).sum()
    expected.backward()
    for name, weight in backbone.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, atol=1e-4, rtol=1e-3)


def test_sampled_latents_do_not_depend_on_processes_portions_or_micro_batches(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path, **SAMPLED)
    portions, _ = objective(inputs, tmp_path, max_rows=3, **SAMPLED)
    parts, _ = objective(inputs, tmp_path, **SAMPLED, micro_batch_size=5)
    (whole,) = drawing.micro_batches(1)
    alone = answers([whole])
    assert alone == answers(portions.micro_batches(1)) == answers(parts.micro_batches(1))
    assert alone == {one for rank in (0, 1) for one in answers(rank_micro_batches(drawing, 1, rank, 2))}
    first, again = (torch.cat(batch.data.batch.latents) for batch in (whole, portions.micro_batches(1)[0]))
    torch.testing.assert_close(first, again, atol=1e-5, rtol=0.0)


def gradients(inputs: Path, work: Path, **grpo: Any) -> dict[str, Tensor]:
    drawing, backbone = objective(inputs, work, **{**SAMPLED, **grpo})
    batches = list(drawing.micro_batches(0))
    totals = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    for batch in batches:
        drawing.loss(backbone, batch.data, totals).total.backward()
    modules = {"": backbone, **drawing.modules()}
    return {
        f"{owner}.{name}": weight.grad
        for owner, module in modules.items()
        for name, weight in module.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.parametrize("other", [{"micro_batch_size": 5}, {"gradient_checkpointing": True}])
def test_parts_and_checkpointing_leave_the_gradient_as_it_is(
    inputs: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    whole = gradients(inputs, tmp_path, latent_sigma_learned=True)
    found = gradients(inputs, tmp_path, latent_sigma_learned=True, **other)
    assert float(whole["latent_policy.offset"].abs()) > 0 and whole.keys() == found.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


def test_without_sampled_latents_a_learned_deviation_has_a_gradient_of_zero(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, **SAMPLED, latent_sigma_learned=True, zero_variance_groups="drop")
    (batch,) = drawing.micro_batches(0)
    none = torch.empty(0, dtype=torch.long)
    empty = replace(batch.data.batch.layout.answers, span_rows=none, span_starts=none, span_lengths=none)
    data = replace(
        batch.data.batch, layout=replace(batch.data.batch.layout, answers=empty), latents=(), latent_mask=None
    )
    drawing.loss(backbone, PolicyData(data, None), batch.counts).total.backward()
    (policy,) = drawing.modules().values()
    grads = [weight.grad for weight in policy.parameters()]
    assert len(grads) == 1 and grads[0] is not None and float(grads[0]) == 0.0  # None would put processes out of step


def test_latents_at_the_images_norm_have_means_at_that_norm(inputs: Path, tmp_path: Path) -> None:
    job = make_job(inputs, tmp_path, "grpo", grpo=SAMPLED, latent={"feed_norm": "image"})
    model = load_model(inputs / "model")
    problems = objective(inputs, tmp_path)[0]._problems
    drawing = GRPOObjective(job.settings, model, problems, job.seed)
    (micro_batch,) = drawing.micro_batches(0)
    batch, backbone = micro_batch.data.batch, model.backbone
    found = drawing.loss(backbone, micro_batch.data, micro_batch.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-3
    prompts = batch.layout.prompts
    with torch.no_grad():
        hidden = answers_forward(backbone, batch.layout, batch.latents, feed_norm="image")
        images = [backbone.merged(image) for image in image_features(backbone, prompts)]
        norms = image_norms(prompts, images)[batch.layout.owners]
    places = latents_of(batch)
    means = at_norms(torch.stack([hidden[row, column] for row, column, _ in places]),
                     torch.stack([norms[row] for row, _, _ in places]))  # fmt: skip
    deviations = torch.stack([latent for _, _, latent in places]) - means
    assert deviations.std().item() == pytest.approx(SIGMA, rel=0.05)


def figures(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


def test_a_learned_deviation_moves_is_logged_and_goes_on_from_a_checkpoint(inputs: Path, tmp_path: Path) -> None:
    grpo = {**SAMPLED, "latent_sigma_learned": True, "updates_per_rollout": 2, "learning_rate": 1e-2}
    straight = run_here(make_job(inputs, tmp_path / "straight", "grpo", grpo=grpo))
    checkpoint = straight.parent / "scratch" / "checkpoints" / "step-00000003"
    again = run_here(make_job(inputs, tmp_path / "again", "grpo", grpo=grpo, resume_from=checkpoint))
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (straight / name).read_bytes()
    values = figures(straight, "latent_sigma")
    assert values[0] == pytest.approx(SIGMA) and abs(values[-1] - SIGMA) > 1e-3


def test_latents_that_are_not_sampled_are_trained_on_to_the_byte_as_before(inputs: Path, tmp_path: Path) -> None:
    replayed = {"latents": "replay", "steps": 2}
    plain = run_here(make_job(inputs, tmp_path / "plain", "grpo", grpo=replayed))
    off = run_here(make_job(inputs, tmp_path / "off", "grpo", grpo={**replayed, "latent_sigma": 0.0}))
    noisy = run_here(make_job(inputs, tmp_path / "noisy", "grpo", grpo={**replayed, "latent_sigma": 0.05}))
    for name in ("model.safetensors", "curves.parquet", "mirage.json"):
        assert (off / name).read_bytes() == (plain / name).read_bytes(), name
    assert (noisy / "model.safetensors").read_bytes() != (plain / "model.safetensors").read_bytes()
    drawing, _ = objective(inputs, tmp_path, latents="replay")
    (batch,) = drawing.micro_batches(0)
    assert batch.data.batch.latent_mask is None and batch.data.batch.mask.equal(batch.data.batch.text_mask)
    assert not {"latent_sigma", "latent_sigma_learned"} & small_settings().grpo.model_dump().keys()


def test_a_text_model_samples_no_latents(inputs: Path, tmp_path: Path) -> None:
    job = make_job(inputs, tmp_path, "grpo", grpo=SAMPLED)
    problems = objective(inputs, tmp_path)[0]._problems
    drawing = GRPOObjective(job.settings, load_trainable(job), problems, job.seed, latents="off")
    (batch,) = drawing.micro_batches(0)
    assert batch.data.batch.latent_mask is None and not batch.data.batch.latents


Toy = Callable[[Sampler, Problem, Trajectory], Reward]


def projection(inputs: Path, model: Path, direction: Tensor) -> float:
    """The mean of the latents along a direction, as they are fed without noise."""
    job = make_job(inputs, model / "probe", "grpo", grpo={"latents": "replay"})
    job = job.model_copy(update={"inputs": {**job.inputs, "model": model}})
    problems = objective(inputs, model / "probe")[0]._problems
    drawing = GRPOObjective(job.settings, load_trainable(job), problems, job.seed)
    groups = drawing._sampler.sample(0, [0, 1, 2, 3])
    latents = [latent for group in groups for rollout in group.rollouts for latent in rollout.latents]
    return float((torch.cat(latents) @ direction).mean())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_reward_of_the_latents_alone_moves_what_is_imagined_towards_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: float
) -> None:
    direction = torch.nn.functional.normalize(torch.arange(64.0).cos(), dim=0)

    def reward(sampler: Sampler, problem: Problem, answer: Trajectory) -> Reward:
        gain = sign * float(answer.latents[0][0] @ direction) if answer.latents else 0.0
        return Reward(accuracy=gain, format=0.0, correct=False, well_formed=False)

    toy: Toy = reward
    monkeypatch.setattr(Sampler, "_reward", toy)
    learning = {**SAMPLED, "steps": 8, "group_size": 8, "learning_rate": 1.0e-3, "kl_weight": 0.0}
    output = run_here(make_job(inputs, tmp_path / "toy", "grpo", grpo=learning))
    before, after = (projection(inputs, folder, direction) for folder in (inputs / "model", output))
    assert sign * (after - before) > 0.5


def test_settings_that_contradict_sampled_latents_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"grpo\.latents to replay"):
        small_settings(grpo={"latent_sigma": 0.05})
    with pytest.raises(ValidationError, match="the deviation to begin with"):
        small_settings(grpo={"latents": "replay", "latent_sigma_learned": True})
    with pytest.raises(ValidationError, match=r"latent\.input is blank"):
        small_settings(grpo=SAMPLED, latent={"input": "blank"})
    with pytest.raises(InputError, match="above 0"):
        GaussianLatents(torch.zeros(1, 1, 2), 0.0)
    replaced = Interventions(latents=lambda rows, index, latents: latents)
    with pytest.raises(InputError, match="leave one of them out"):
        GaussianLatents(torch.zeros(1, 1, 2), 0.1).within(replaced)


def test_a_deviation_is_read_back_as_it_was_given() -> None:
    policy = LatentPolicy(0.05, learned=True)
    assert policy.sigma() == pytest.approx(0.05)
    with torch.no_grad():
        policy.offset.add_(math.log(2.0))
    assert policy.sigma() == pytest.approx(0.1) and float(policy.first().exp()) == pytest.approx(0.05)
