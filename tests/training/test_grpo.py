"""GRPO on a real, random model: what is drawn, what is learned from, and exact resumption."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mirage_core.distributed.oom import generation_batch_size
from mirage_core.errors import DataError, TrainingError
from mirage_core.generation import generator
from mirage_core.store.records import load_problems
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.batch import block_widths, policy_batch, split_answers
from mirage_core.training.grpo.objective import GRPOObjective, PolicyData
from mirage_core.training.grpo.reference_model import ReferenceModel
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.train import load_trainable
from mirage_core.types import Prediction, Problem, Score
from tests.training.grpo_world import answers, objective, run_here
from tests.training.small_world import make_job, rank_micro_batches, scorer_of

FIGURES = {
    "reward", "reward_accuracy", "reward_format", "reward_spread", "accuracy", "well_formed_share", "latent_share",
    "num_latents", "kl", "clip_fraction", "entropy", "completion_length", "finished_share", "silent_groups",
    "ratio_deviation", "loss", "learning_rate", "gradient_norm",
}  # fmt: skip


@pytest.fixture
def inputs(latent_inputs: Path) -> Path:
    return latent_inputs


@pytest.fixture(scope="module")
def straight(latent_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_here(make_job(latent_inputs, tmp_path_factory.mktemp("grpo") / "work", "grpo"))


def test_every_figure_of_the_policy_is_logged(straight: Path) -> None:
    rows = read_table(straight / "curves.parquet")
    assert {row["name"] for row in rows} >= FIGURES
    assert max(row["value"] for row in rows if row["name"] == "latent_share") > 0.5
    assert min(row["value"] for row in rows if row["name"] == "silent_groups") < 1.0
    assert not [row for row in rows if "second" in row["name"]]


def test_a_run_resumed_from_a_checkpoint_ends_in_the_same_bytes(inputs: Path, straight: Path, tmp_path: Path) -> None:
    checkpoint = straight.parent / "scratch" / "checkpoints" / "step-00000003"
    again = run_here(make_job(inputs, tmp_path / "again", "grpo", resume_from=checkpoint))
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (straight / name).read_bytes()


def test_what_is_drawn_does_not_depend_on_the_number_of_processes(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path)
    alone = answers(drawing.micro_batches(2))
    shared = [answers(rank_micro_batches(drawing, 2, rank, 2)) for rank in (0, 1)]
    assert alone == shared[0] | shared[1]
    assert alone != answers(drawing.micro_batches(3))


def test_recorded_and_recomputed_probabilities_agree(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path)
    (batch,) = drawing.micro_batches(0)
    found = drawing.loss(backbone, batch.data, batch.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-5
    assert float(found.parts["kl"]) == pytest.approx(0.0, abs=1e-9)
    assert float(found.parts["clip_fraction"]) == 0.0


def gradients(inputs: Path, work: Path, **grpo: Any) -> dict[str, torch.Tensor]:
    drawing, backbone = objective(inputs, work, **grpo)
    batches = list(drawing.micro_batches(0))
    totals = total_counts(batches)
    for batch in batches:
        drawing.loss(backbone, batch.data, totals).total.backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5 * max(1.0, largest)), name


def test_micro_batches_give_the_gradient_of_the_whole(inputs: Path, tmp_path: Path) -> None:
    check_equal(gradients(inputs, tmp_path, micro_batch_size=5), gradients(inputs, tmp_path))


@pytest.mark.parametrize("latents", ["recompute", "replay"])
def test_checkpointing_leaves_the_gradient_as_it_is(inputs: Path, tmp_path: Path, latents: str) -> None:
    plain = gradients(inputs, tmp_path, latents=latents)
    check_equal(gradients(inputs, tmp_path, latents=latents, gradient_checkpointing=True), plain)


def test_checkpointing_keeps_less_for_the_backward_pass(inputs: Path, tmp_path: Path) -> None:
    def kept(checkpointing: bool) -> int:
        drawing, backbone = objective(inputs, tmp_path, gradient_checkpointing=checkpointing)
        (batch,) = drawing.micro_batches(0)
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            drawing.loss(backbone, batch.data, batch.counts)
        return sum(sizes.values())

    assert kept(True) < 0.7 * kept(False)


def test_replayed_latents_carry_no_gradient_and_recomputed_ones_do(inputs: Path, tmp_path: Path) -> None:
    recomputed = gradients(inputs, tmp_path)
    replayed = gradients(inputs, tmp_path, latents="replay")
    assert any(not torch.allclose(recomputed[name], replayed[name], atol=1e-7) for name in recomputed)


@pytest.mark.parametrize("max_rows", [1, 3, 4, 9])
def test_answers_are_the_same_whatever_is_drawn_side_by_side(inputs: Path, tmp_path: Path, max_rows: int) -> None:
    together, _ = objective(inputs, tmp_path)
    portions, _ = objective(inputs, tmp_path, max_rows=max_rows)
    assert answers(portions.micro_batches(1)) == answers(together.micro_batches(1))


def test_no_more_answers_are_drawn_side_by_side_than_allowed(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    decode = generator.decode

    def watched(backbone: Any, prompts: Any, ids: Any, settings: Any, **named: Any) -> Any:
        rows.append(len(prompts) * settings.samples)
        return decode(backbone, prompts, ids, settings, **named)

    monkeypatch.setattr(generator, "decode", watched)
    drawing, _ = objective(inputs, tmp_path, max_rows=3)
    drawing.micro_batches(0)
    assert rows == [3, 1] * 3
    del rows[:]
    drawing, _ = objective(inputs, tmp_path, max_rows=9)
    drawing.micro_batches(0)
    assert rows == [8, 4]


@pytest.mark.parametrize(
    ("chosen", "portion", "at_once"),
    [(None, None, None), (6, None, 6), (None, 3, 3), (None, 6, 6), (8, 6, 4), (1, 1, 1)],
)
def test_where_the_memory_did_not_do_fewer_answers_are_drawn_side_by_side(
    inputs: Path, tmp_path: Path, chosen: int | None, portion: int | None, at_once: int | None
) -> None:
    job = make_job(inputs, tmp_path, "grpo", runtime={"generation_batch_size": chosen})
    assert generation_batch_size(job.model_copy(update={"portion": portion})) == at_once


def test_a_prompt_and_its_picture_are_encoded_once_for_a_group(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, kl_weight=0.0)
    patches: list[int] = []
    tokens: list[int] = []
    tower, layer = backbone.model.model.visual.patch_embed, backbone.model.model.language_model.layers[0].mlp
    tower.register_forward_pre_hook(lambda _, given: patches.append(len(given[0])))
    layer.register_forward_pre_hook(lambda _, given: tokens.append(given[0].shape[:-1].numel()))
    (batch,) = drawing.micro_batches(0)
    layout = batch.data.batch.layout
    assert len(layout.prompts.attention_mask) == 3 and layout.answers.rows == 12
    used = int(layout.prompts.grid_thw.prod(-1).sum())
    assert sum(patches) == used + int(layout.prompts.grid_thw[0].prod())  # and the first prompt's, to stand in
    prompts = int(layout.prompts.attention_mask.sum())
    assert tokens[0] == prompts + 3  # decoding keeps the prompt whole; training gives its last token to the answers
    assert max(tokens[1:]) <= 12
    del patches[:], tokens[:]
    drawing.loss(backbone, batch.data, batch.counts)
    assert not patches
    assert tokens[0] == prompts
    assert sum(tokens) == prompts + int(layout.answers.attention_mask.sum())


def test_dropout_is_off_while_drawing_and_while_learning(inputs: Path, tmp_path: Path) -> None:
    job = make_job(inputs, tmp_path, "grpo", model={"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.5}})
    model = load_trainable(job)
    drawing = GRPOObjective(job.settings, model, load_problems(inputs / "problems", split="train"), job.seed)
    model.backbone.train()
    for name, weight in model.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    (batch,) = drawing.micro_batches(0)
    found = drawing.loss(model.backbone, batch.data, batch.counts)
    assert float(found.parts["ratio_deviation"]) < 1e-5
    assert float(found.parts["kl"]) > 1e-6


def test_the_policy_without_its_adapters_is_the_reference_that_a_frozen_copy_would_be(
    inputs: Path, tmp_path: Path
) -> None:
    job = make_job(inputs, tmp_path, "grpo", model={"lora": {"rank": 4, "alpha": 8.0}})
    model = load_trainable(job)
    frozen = load_trainable(make_job(inputs, tmp_path, "grpo")).backbone
    drawing = GRPOObjective(job.settings, model, load_problems(inputs / "problems", split="train"), job.seed)
    for name, weight in model.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    (batch,) = drawing.micro_batches(0)
    own = batch.data.batch.reference_log_probs
    with torch.no_grad(), ReferenceModel(frozen, offload=True).loaded() as copied:
        of_copy = drawing._log_probs(copied, batch.data.batch, reference=True)
        of_policy = drawing._log_probs(model.backbone, batch.data.batch, reference=True)
    assert torch.allclose(own, of_copy, atol=1e-5)
    assert not torch.allclose(own, of_policy, atol=1e-3)


def test_groups_of_equal_rewards_are_left_out_of_the_loss_but_not_of_the_figures(inputs: Path, tmp_path: Path) -> None:
    by_problem = scorer_of(lambda problem, output: int(problem.id[-1], 36) % 2 == 0)
    kept, _ = objective(inputs, tmp_path, scorer=by_problem, format_reward=0.0)
    (everything,) = kept.micro_batches(0)
    assert everything.counts == {"rollouts": 12.0, "drawn": 12.0}
    dropped, backbone = objective(inputs, tmp_path, scorer=by_problem, format_reward=0.0, zero_variance_groups="drop")
    (nothing,) = dropped.micro_batches(0)
    assert nothing.counts == {"rollouts": 0.0, "drawn": 12.0}
    found = dropped.loss(backbone, nothing.data, nothing.counts)
    found.total.backward()
    assert found.total.item() == 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in backbone.parameters() if p.grad is not None)
    expected_parts = kept.loss(backbone, everything.data, everything.counts).parts
    assert float(found.parts["silent_groups"]) == 1.0
    assert (float(found.parts["groups_drawn"]), float(found.parts["groups_learned"])) == (3.0, 0.0)
    for name in ("reward", "accuracy", "completion_length", "entropy"):
        expected = 0.0 if name == "entropy" else float(expected_parts[name])
        assert float(found.parts[name]) == pytest.approx(expected), name


def test_other_prompts_are_drawn_in_place_of_groups_that_teach_nothing(inputs: Path, tmp_path: Path) -> None:
    drawn: list[str] = []

    def noted(problem: Problem, output: str) -> bool:
        drawn.append(problem.id)
        return len(output) % 2 == 0

    redrawing, backbone = objective(
        inputs,
        tmp_path,
        scorer=scorer_of(noted),
        zero_variance_groups="redraw",
        accuracy_filter=(0.0, 0.5),
        max_resamples=2,
        kl_weight=0.0,
    )
    (batch,) = redrawing.micro_batches(0)
    prompts = list(dict.fromkeys(drawn))
    assert drawn == [prompt for prompt in prompts for _ in range(4)]  # nothing is drawn twice
    parts = redrawing.loss(backbone, batch.data, batch.counts).parts
    assert float(parts["groups_drawn"]) == len(prompts) > 3
    assert batch.counts["rollouts"] == 4 * float(parts["groups_learned"]) <= 12
    again, _ = objective(
        inputs, tmp_path, zero_variance_groups="redraw", accuracy_filter=(0.0, 0.5), max_resamples=2, kl_weight=0.0
    )
    assert answers(again.micro_batches(0)) == answers([batch])


@pytest.mark.parametrize(("clip_high", "share"), [(None, 0.2), (1e6, 0.0)])
def test_the_clips_reach_the_loss(inputs: Path, tmp_path: Path, clip_high: float | None, share: float) -> None:
    drawing, backbone = objective(inputs, tmp_path, updates_per_rollout=2, clip=1e-3, clip_high=clip_high)
    (first,) = drawing.micro_batches(0)
    with torch.no_grad():
        backbone.model.lm_head.weight *= 1.2
    data = replace(first.data.batch, advantages=torch.ones_like(first.data.batch.advantages))
    clipped = drawing.loss(backbone, PolicyData(data, None), first.counts).parts["clip_fraction"]
    assert float(clipped) > share if share else float(clipped) == 0.0


def test_undivided_advantages_are_rewards_less_their_mean(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path, advantage="mean")
    for group in drawing._sampler.sample(0, [0, 1, 2]):
        totals = [found.total for found in group.rewards]
        expected = [total - sum(totals) / 4 for total in totals]
        assert [one.advantage for one in group.rollouts] == pytest.approx(expected)
        assert max(totals) > min(totals)


def test_advantages_are_divided_by_the_deviation_of_their_group(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path)
    spread = 0
    for group in drawing._sampler.sample(0, [0, 1, 2]):
        totals, advantages = [found.total for found in group.rewards], [one.advantage for one in group.rollouts]
        assert sum(advantages) == pytest.approx(0.0, abs=1e-9)
        if not group.zero_variance:
            spread += 1
            assert sum(value**2 for value in advantages) / 3 == pytest.approx(1.0)
            assert advantages == pytest.approx([(total - sum(totals) / 4) / group.std for total in totals])
    assert spread > 0


def test_the_loss_is_a_mean_over_the_answers_that_are_learned_from(inputs: Path, tmp_path: Path) -> None:
    one_group = scorer_of(lambda problem, output: len(output) % 2 == 0 and problem.id == first)
    probe, _ = objective(inputs, tmp_path)
    first = probe._problems[probe._order.batch(0)[0]].id
    drawing, backbone = objective(inputs, tmp_path, scorer=one_group, format_reward=0.0, zero_variance_groups="drop")
    (batch,) = drawing.micro_batches(0)
    assert batch.counts == {"rollouts": 4.0, "drawn": 12.0}
    found = drawing.loss(backbone, batch.data, batch.counts)
    terms = drawing._terms(backbone, batch.data.batch)
    assert float(terms.loss.detach().abs().max()) > 0.01
    assert found.total.item() == pytest.approx(float(terms.loss.detach().mean()), rel=1e-5)
    assert float(found.parts["entropy"]) == pytest.approx(float(terms.entropy.mean()), rel=1e-5)


def test_a_scorer_that_fails_is_told_apart_from_a_wrong_answer(inputs: Path, tmp_path: Path) -> None:
    def broken(problem: Problem, prediction: Prediction, rule: str) -> Score:
        raise ZeroDivisionError("division by zero")

    drawing, _ = objective(inputs, tmp_path, scorer=broken)
    with pytest.raises(
        DataError, match=r"the scorer .*broken failed on problem \S+: ZeroDivisionError.*correct the sc"
    ):
        drawing.micro_batches(0)


@pytest.mark.parametrize("verdict", [math.nan, 0.5, None, "yes"])
def test_a_scorer_that_gives_no_verdict_is_named(inputs: Path, tmp_path: Path, verdict: Any) -> None:
    def vague(problem: Problem, prediction: Prediction, rule: str) -> Score:
        return Score(problem_id=problem.id, correct=verdict, parsed="A", rule=rule)

    drawing, _ = objective(inputs, tmp_path, scorer=vague)
    with pytest.raises(DataError, match=r"vague returned .* for problem \S+, expected a Score"):
        drawing.micro_batches(0)


def test_a_reward_that_is_not_finite_names_its_problem_and_scorer(inputs: Path, tmp_path: Path) -> None:
    drawing, _ = objective(inputs, tmp_path)
    sampler = drawing._sampler
    grpo = sampler._settings.grpo.model_copy(update={"accuracy_reward": math.nan})
    sampler._settings = sampler._settings.model_copy(update={"grpo": grpo})
    with pytest.raises(TrainingError, match=r"problem \S+ of .*rule .* reward of nan"):
        drawing.micro_batches(0)


def test_stand_ins_bring_about_the_passes_of_other_processes_and_weigh_nothing(inputs: Path, tmp_path: Path) -> None:
    drawing, backbone = objective(inputs, tmp_path, kl_weight=0.0)
    (batch,) = drawing.micro_batches(0)
    groups = drawing._sampler.sample(0, drawing._order.batch(0))
    (piece,) = split_answers(groups, 12)
    wider = (5, *block_widths(piece)[1:], 3)
    with_stand_in = policy_batch(piece, drawing._model, groups[0].prompt, wider)
    assert [block.width for block in with_stand_in.layout.answers.blocks] == list(wider)
    assert (with_stand_in.learned, with_stand_in.layout.answers.rows) == (12, 13)
    data = PolicyData(with_stand_in, None)
    found = drawing.loss(backbone, data, batch.counts)
    expected = drawing.loss(backbone, batch.data, batch.counts)
    assert found.total.item() == pytest.approx(expected.total.item(), abs=1e-6)
    for name in ("kl", "entropy", "clip_fraction"):
        assert float(found.parts[name]) == pytest.approx(float(expected.parts[name]), abs=1e-5)


def test_the_policy_learns_what_is_rewarded(inputs: Path, tmp_path: Path) -> None:
    """The model as a bandit: only answers that hold one letter are right, whatever was asked."""
    learning = {"steps": 12, "prompts_per_step": 4, "group_size": 8, "learning_rate": 3.0e-3, "kl_weight": 0.0}
    job = make_job(inputs, tmp_path / "bandit", "grpo", grpo=learning)
    output = run_here(job, scorer_of(lambda problem, output: "L" in output))
    rewards = [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == "accuracy"]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.25


def test_a_model_in_bfloat16_learns_too(inputs: Path, tmp_path: Path) -> None:
    grpo = {"steps": 2, "updates_per_rollout": 2, "latents": "replay"}
    output = run_here(make_job(inputs, tmp_path / "half", "grpo", grpo=grpo, model={"dtype": "bfloat16"}))
    rows = read_table(output / "curves.parquet")
    assert all(math.isfinite(row["value"]) for row in rows)
    deviation = [row["value"] for row in rows if row["name"] == "ratio_deviation"]
    assert deviation[0] < 0.1


def test_a_range_of_accuracies_that_no_group_can_have_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="the first must be below the second"):
        make_job(inputs, tmp_path, "grpo", grpo={"accuracy_filter": (0.6, 0.6)})


def test_a_group_of_one_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"group_size"):
        make_job(inputs, tmp_path / "one", "grpo", grpo={"group_size": 1})
