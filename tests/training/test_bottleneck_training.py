"""Stage 2 made harder: bottleneck, ramp, noise and dropout of latents, what is left of grounding; blank spans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mirage_core.config import RelaxationSettings
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import ProgramName
from mirage_core.errors import SettingsError
from mirage_core.latent.bottleneck import Segment
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.model.forward.forward import answers_forward, relaxation_forward, text_forward
from mirage_core.model.forward.grounding import target_latents
from mirage_core.store.records import load_problems
from mirage_core.store.tables import read_table
from mirage_core.training.engine.lockstep import dummy_row
from mirage_core.training.grpo.objective import GRPOObjective
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.beside import Beside
from mirage_core.training.sft.examples import training_data
from mirage_core.training.sft.latent_noise import LatentNoise, LatentRegularizer
from mirage_core.training.sft.losses import cross_entropy, relaxation_loss
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.targets import TargetComparison
from mirage_core.training.sft.train import load_trainable, run_supervised
from tests.latent.tiny import HIDDEN, IDS, mixed_examples, tiny_backbone
from tests.training.small_world import make_job, quiet, rank_micro_batches

STAGE = {"steps": 4, "batch_size": 5, "warmup_steps": 0, "learning_rate": 1e-3}
HARD = {**STAGE, "bottleneck_ramp": 0.3, "grounding_weight": 0.4, "latent_noise": 0.3, "latent_dropout": 0.25}
LATENT = {"num_latents": 2}


def step_gradients(
    inputs: Path, work: Path, program: ProgramName, world_size: int, **sections: Any
) -> tuple[float, dict[str, Tensor]]:
    """The loss and gradients of step 1, added up over processes and micro-batches.

    One of its five rows is not under the bottleneck yet.
    """
    job = make_job(inputs, work, program, **sections)
    model = load_trainable(job)
    model.backbone.train()
    data, steps = training_data(job, model, quiet)
    regularizer = LatentRegularizer(job.settings.relaxation, job.seed, steps)
    objective = SupervisedObjective(program, job.settings, model, data, Beside(regularizer=regularizer))
    batches = [one for rank in range(world_size) for one in rank_micro_batches(objective, 1, rank, world_size)]
    loss, totals = 0.0, total_counts(batches)
    for batch in batches:
        part = objective.loss(model.backbone, batch.data, totals).total * (0.0 if batch.filler else 1.0)
        part.backward()
        loss += float(part.detach())
    return loss, {name: p.grad for name, p in model.backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("program", "bottleneck", "targets"),
    [
        ("relaxation", "latent_only", {}),
        ("relaxation", "latent_kv", {}),
        ("relaxation", "image", {}),
        ("relaxation", "latent_only", {"compression": "changed_patches", "num_latents": 5}),
        ("grounding", "latent_only", {}),
        ("grounding", "latent_only", {"compression": "changed_patches", "num_latents": 3}),
    ],
)
def test_however_a_batch_is_cut_and_checkpointed_the_gradients_are_those_of_the_whole(
    inputs: Path, tmp_path: Path, program: ProgramName, bottleneck: str, targets: dict[str, Any]
) -> None:
    stage = HARD if program == "relaxation" else {**STAGE, "horizon": 2 if targets else 1}
    latent = {**LATENT, "bottleneck": bottleneck, **targets}
    loss, whole = step_gradients(inputs, tmp_path / "whole", program, 1, latent=latent, **{program: stage})
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    cut = {**stage, "micro_batch_size": 1, "gradient_checkpointing": True}
    found_loss, result = step_gradients(inputs, tmp_path / "cut", program, 2, latent=latent, **{program: cut})
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert result.keys() == whole.keys()
    for name, gradient in whole.items():
        assert torch.allclose(result[name], gradient, atol=1e-5 * largest, rtol=1e-4), name


def test_every_part_of_the_regularization_changes_the_loss(inputs: Path, tmp_path: Path) -> None:
    latent, plain = {**LATENT, "bottleneck": "latent_only"}, {**STAGE}

    def loss(name: str, of_latent: dict[str, Any] = latent, **chosen: Any) -> float:
        sections = {"latent": of_latent, "relaxation": {**plain, **chosen}}
        return step_gradients(inputs, tmp_path / name, "relaxation", 1, **sections)[0]

    base = loss("base")
    names = ("bottleneck_ramp", "grounding_weight", "latent_noise", "latent_dropout")
    result = {name: loss(name, **{name: HARD[name]}) for name in names}
    result["none"] = loss("none", LATENT)
    result["latent_kv"] = loss("kv", {**LATENT, "bottleneck": "latent_kv"})
    result["image"] = loss("image", {**LATENT, "bottleneck": "image"})
    assert len({round(value, 5) for value in (base, *result.values())}) == 1 + len(result), str(result)


@pytest.fixture(scope="module")
def regularizer() -> LatentRegularizer:
    settings = RelaxationSettings(bottleneck_ramp=0.5, latent_noise=0.5, latent_dropout=0.25)
    return LatentRegularizer(settings, seed=3, steps=200)


def test_the_share_of_rows_under_the_bottleneck_rises_from_none_to_all(regularizer: LatentRegularizer) -> None:
    shares = [sum(regularizer.bottleneck_rows(step, range(400)) or [True] * 400) / 400 for step in range(0, 200, 25)]
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0], abs=0.08)
    assert regularizer.bottleneck_rows(100, range(4)) is None
    assert LatentRegularizer(RelaxationSettings(), 3, 200).bottleneck_rows(0, range(4)) is None


def test_a_bottleneck_of_the_first_steps_is_lifted(inputs: Path, tmp_path: Path) -> None:
    """The second of four steps is still under it, and the third is not."""
    first = RelaxationSettings(first_bottleneck="image", first_share=0.4)
    regularizer = LatentRegularizer(first, seed=3, steps=10)
    assert [regularizer.bottleneck(step, "none") for step in range(10)] == ["image"] * 4 + ["none"] * 6
    assert LatentRegularizer(RelaxationSettings(), 3, 10).bottleneck(0, "latent_kv") == "latent_kv"
    losses = {
        name: step_gradients(inputs, tmp_path / name, "relaxation", 1, latent=latent, relaxation={**STAGE, **stage})[0]
        for name, latent, stage in (
            ("image", {**LATENT, "bottleneck": "image"}, {}),
            ("first", LATENT, {"first_bottleneck": "image", "first_share": 0.4}),
            ("over", LATENT, {"first_bottleneck": "image", "first_share": 0.2}),
            ("none", LATENT, {}),
        )
    }
    assert losses["first"] == losses["image"] != losses["none"] == losses["over"]
    with pytest.raises(ValueError, match="exclude each other"):
        RelaxationSettings(first_bottleneck="image", bottleneck_ramp=0.5)


def test_which_rows_depends_on_seed_step_and_example_alone(regularizer: LatentRegularizer) -> None:
    result = dict(zip(range(50), regularizer.bottleneck_rows(40, range(50)) or [], strict=True))
    assert regularizer.bottleneck_rows(40, [7, 31, 2]) == [result[7], result[31], result[2]]
    assert regularizer.bottleneck_rows(41, range(50)) != list(result.values())
    assert LatentRegularizer(regularizer.settings, 4, 200).bottleneck_rows(40, range(50)) != list(result.values())


def laid_out(rows: Sequence[Any]) -> LatentBatch:
    return collate(rows, IDS, tiny_backbone().position_ids, bottleneck="latent_only")


def test_noise_and_dropout_of_a_latent_are_the_same_however_the_batch_is_cut(regularizer: LatentRegularizer) -> None:
    rows, names = mixed_examples(), [11, 12, 13, 14, 15]
    whole = regularizer.noise(5, names, laid_out(rows), HIDDEN)
    first = regularizer.noise(5, names[:2], laid_out(rows[:2]), HIDDEN)
    rest = regularizer.noise(5, names[2:], laid_out([*rows[2:], dummy_row((3, 4), IDS, rows)]), HIDDEN)
    assert whole is not None and first is not None and rest is not None
    num_own = len(whole.noise) - len(first.noise)
    assert torch.equal(whole.noise, torch.cat([first.noise, rest.noise[:num_own]]))
    assert torch.equal(whole.mask, torch.cat([first.mask, rest.mask[:num_own]]))
    assert float(rest.noise[num_own:].abs().max()) == 0.0  # the row that keeps processes in step
    assert len(rest.noise) == num_own + 7
    other = regularizer.noise(6, names, laid_out(rows), HIDDEN)
    assert other is not None
    assert not torch.equal(whole.noise, other.noise)


def test_noise_is_in_units_of_a_latents_own_deviation_and_dropout_feeds_zeros(regularizer: LatentRegularizer) -> None:
    rows = mixed_examples() * 30
    result = regularizer.noise(5, range(len(rows)), laid_out(rows), HIDDEN)
    assert result is not None
    assert float(result.noise.std()) == pytest.approx(0.5, rel=0.02)
    assert float(1 - result.mask.mean()) == pytest.approx(0.25, abs=0.05)
    latents = torch.randn(len(result.mask), HIDDEN) * torch.arange(1, len(result.mask) + 1)[:, None]
    fed = result(latents, torch.arange(len(latents)))
    left_out = result.mask[:, 0] == 0
    assert float(fed[left_out].abs().max()) == 0.0
    moved = ((fed - latents).std(-1) / latents.std(-1))[~left_out]
    assert float(moved.mean()) == pytest.approx(0.5, rel=0.02)
    assert LatentRegularizer(RelaxationSettings(), 3, 9).noise(0, [0], laid_out(rows[:1]), HIDDEN) is None


def test_what_remains_of_grounding_is_weighed_beside_the_text_and_counts_no_stand_in() -> None:
    backbone, rows = tiny_backbone(), mixed_examples(2)
    batch = laid_out(rows)
    relaxed = relaxation_forward(backbone, batch)
    targets = target_latents(backbone, batch, "even")
    visual = 1 - cosine_similarity(relaxed.latents, targets, dim=-1).mean()
    text = cross_entropy(backbone, relaxed.hidden, batch.labels)
    result = relaxation_loss(backbone, batch, comparison=TargetComparison(compression="even", weight=0.3))
    assert result.total.item() == pytest.approx((text + 0.3 * visual).item(), rel=1e-5)
    assert result.parts["visual"].item() == pytest.approx(visual.item(), rel=1e-5)
    assert result.parts["cosine"].item() == pytest.approx(1 - visual.item(), rel=1e-5)
    beside = laid_out([*rows, dummy_row((3, 3), IDS, rows)])
    comparison = TargetComparison(compression="even", weight=0.3, spans=len(batch.span_rows))
    again = relaxation_loss(backbone, beside, comparison=comparison)
    assert again.parts.keys() == result.parts.keys()
    for name, value in result.parts.items():
        assert again.parts[name].item() == pytest.approx(value.item(), abs=2e-5), name


def test_noise_is_left_out_of_what_grounding_compares() -> None:
    """The latents that are compared with the images are the model's own, the first of which no noise reached."""
    backbone, batch = tiny_backbone(), laid_out(mixed_examples(2)[:1])
    noise = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(0))
    noisy = relaxation_forward(backbone, batch, latent_transform=LatentNoise(noise, torch.ones(3, 1)))
    plain = relaxation_forward(backbone, batch)
    torch.testing.assert_close(noisy.latents[:, 0], plain.latents[:, 0])
    assert (noisy.latents[:, 1] - plain.latents[:, 1]).abs().max() > 0.01


def test_blank_spans_are_trained_in_one_ordinary_pass(inputs: Path, tmp_path: Path) -> None:
    latent = {**LATENT, "bottleneck": "latent_only", "input": "blank"}
    job = make_job(inputs, tmp_path, "relaxation", latent=latent, relaxation=STAGE)
    model = load_trainable(job)
    data, _ = training_data(job, model, quiet)
    objective = SupervisedObjective("relaxation", job.settings, model, data)
    (batch,) = objective.micro_batches(1)
    assert not batch.data.inputs.batch.aligned
    result = objective.loss(model.backbone, batch.data, batch.counts).total
    hidden = text_forward(model.backbone, batch.data.inputs.batch)
    assert result.item() == pytest.approx(cross_entropy(model.backbone, hidden, batch.data.inputs.batch.labels).item())
    with pytest.raises(SettingsError, match=r"latent_noise is 0\.1 .* latent\.input is blank"):
        run_supervised(
            make_job(inputs, tmp_path, "relaxation", latent=latent, relaxation={**STAGE, "latent_noise": 0.1}),
            EventWriter(tmp_path / "events.jsonl"),
        )


def test_every_row_is_under_the_bottleneck_where_no_training_is(inputs: Path, tmp_path: Path) -> None:
    """As validation has it, whatever the ramp."""
    job = make_job(inputs, tmp_path, "relaxation", latent={**LATENT, "bottleneck": "latent_kv"}, relaxation=HARD)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    regularizer = LatentRegularizer(job.settings.relaxation, job.seed, steps)
    (measured,) = SupervisedObjective("relaxation", job.settings, model, data).micro_batches(0)
    (trained,) = SupervisedObjective(
        "relaxation", job.settings, model, data, Beside(regularizer=regularizer)
    ).micro_batches(0)
    latents = int(measured.data.inputs.batch.span_lengths.sum())
    assert int((measured.data.inputs.batch.segments == Segment.LATENT).sum()) == latents
    assert int((trained.data.inputs.batch.segments == Segment.LATENT).sum()) == 0  # the ramp begins without any
    assert measured.data.inputs.latent_transform is None
    assert trained.data.inputs.latent_transform is not None


def test_a_hard_stage_runs_and_logs_its_parts(inputs: Path, tmp_path: Path) -> None:
    validated = {**HARD, "validation": {"every": 2, "examples": 2, "problems": 1}}
    latent, evaluation = {**LATENT, "bottleneck": "latent_only"}, {"max_new_tokens": 4}
    job = make_job(inputs, tmp_path, "relaxation", latent=latent, relaxation=validated, evaluation=evaluation)
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    rows = read_table(job.output / "curves.parquet")
    values = {name: [row["value"] for row in rows if row["name"] == name] for name in ("loss", "text", "visual")}
    assert len(values["visual"]) == STAGE["steps"]
    for loss, text, visual in zip(*values.values(), strict=True):
        assert loss == pytest.approx(text + 0.4 * visual, rel=1e-5)
    assert {row["name"] for row in rows} >= {"validation/visual", "validation/cosine", "validation/accuracy"}


@pytest.mark.parametrize("latent_input", ["hidden_state", "blank"])
@pytest.mark.parametrize("bottleneck", ["latent_kv", "latent_only"])
def test_the_policy_has_the_probabilities_that_its_answers_were_drawn_with(
    inputs: Path, tmp_path: Path, bottleneck: str, latent_input: str
) -> None:
    latent = {**LATENT, "bottleneck": bottleneck, "input": latent_input}
    grpo = {"prompts_per_step": 2, "max_new_tokens": 6}
    job = make_job(inputs, tmp_path, "grpo", latent=latent, grpo=grpo)
    model = load_trainable(job)
    problems = load_problems(inputs / "problems", split="train")
    _likes_to_imagine(model, GRPOObjective(job.settings, model, problems, job.seed))
    objective = GRPOObjective(job.settings, model, problems, job.seed)
    (batch,) = objective.micro_batches(0)
    answers = batch.data.batch.layout.answers
    assert len(answers.span_rows) > 3
    assert answers.bottleneck == bottleneck
    result = objective.loss(model.backbone, batch.data, batch.counts)
    assert float(result.parts["ratio_deviation"]) < 2e-5
    assert float(result.parts["kl"]) == pytest.approx(0.0, abs=1e-8)


def _likes_to_imagine(model: Any, objective: GRPOObjective) -> None:
    """Let a random model begin spans: latent_start scores high where an answer begins."""
    (batch,) = objective.micro_batches(0)
    with torch.no_grad():
        hidden = answers_forward(model.backbone, batch.data.batch.layout)[:, :3].mean((0, 1))
        head = model.backbone.model.lm_head.weight
        head[model.ids.latent_start] = 7.0 * hidden / hidden.square().sum()
