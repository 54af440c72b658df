"""Training with query tokens, with codes, and with latents fed at the norm of the image: stages, saved models, GRPO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.config import LatentSettings, StepwiseSettings
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.generator import Generator
from mirage_core.latent.collate import LatentBatch
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.planning.batch_shapes import Shape
from mirage_core.store.records import load_problems
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.objective import GRPOObjective
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.sft.beside import Beside, stepwise_grounding
from mirage_core.training.sft.examples import training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.train import load_trainable, run_supervised
from mirage_core.training.stepwise.batch import StepBatch
from mirage_core.training.stepwise.heads import StepHeads, StepLoss, load_heads
from tests.training.small_world import even_length, make_job, quiet, small_settings

VISUAL = {"where": "pointer", "what": "codebook", "codebook_size": 4}
FILM = {"steps": 4, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2, "stepwise": VISUAL}
LATENT: dict[str, dict[str, Any]] = {
    "query": {"input": "query"},
    "code": {"input": "code"},
    "image_norm": {"feed_norm": "image"},
}
EVERY = pytest.mark.parametrize("name", LATENT)


def trained(
    inputs: Path, work: Path, name: str, program: ProgramName = "film", resume: Path | None = None, **sections: Any
) -> Path:
    sections = {"film": FILM, **sections, "latent": {**LATENT[name], **sections.get("latent", {})}}
    job = make_job(inputs, work, program, resume_from=resume, **sections)
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    (run_grpo if program == "grpo" else run_supervised)(job, EventWriter(job.scratch / "events.jsonl"))
    return job.output


@pytest.fixture(scope="module")
def models(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind, with checkpoints beside it."""
    return {name: trained(inputs, tmp_path_factory.mktemp(name) / "work", name) for name in LATENT}


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


def first_micro_batch(
    inputs: Path, work: Path, name: str, program: ProgramName = "film"
) -> tuple[LoadedModel, Any, SupervisedObjective]:
    job = make_job(inputs, work, program, film=FILM, latent=LATENT[name])
    model = load_trainable(job)
    data, _ = training_data(job, model, quiet)
    objective = SupervisedObjective(
        program, job.settings, model, data, Beside(stepwise=stepwise_grounding(job, model, data))
    )
    (batch,) = objective.micro_batches(0)
    return model, batch, objective


def stock_text_loss(model: LoadedModel, batch: LatentBatch, fed: Tensor) -> Tensor:
    """Cross-entropy of a batch's labels by the stock language model, row by row, with vectors [n, D] in the spans."""
    losses, taken = [], 0
    images = iter(batch.image_features)
    text = model.backbone.model.model.language_model
    for row in range(batch.rows):
        here = batch.attention_mask[row]
        ids = batch.input_ids[row][here]
        inputs = text.embed_tokens(ids).clone()
        inputs[ids == model.ids.image_pad] = next(images)
        latent = ids == model.ids.latent_pad
        inputs[latent] = fed[taken : (taken := taken + int(latent.sum()))]
        positions = batch.position_ids[:, row][:, here]
        hidden = text(inputs_embeds=inputs[None], position_ids=positions[:, None], use_cache=False).last_hidden_state[0]
        labels = batch.labels[row][here]
        losses.append(
            cross_entropy(model.backbone.logits(hidden[labels != -100]), labels[labels != -100], reduction="none")
        )
    return torch.cat(losses).mean()


def test_training_on_codes_is_the_text_loss_with_the_true_codes_fed(inputs: Path, tmp_path: Path) -> None:
    model, batch, objective = first_micro_batch(inputs, tmp_path, "code")
    heads, data = objective.modules()["step_heads"], batch.data.inputs
    assert isinstance(heads, StepHeads) and heads.codes is not None and heads.centre is not None
    fed: list[Tensor] = []
    for shares in data.stepwise.batch.what.tolist():
        best = shares.index(max(shares))
        fed.append(heads.centre + heads.codes[best] if max(shares) else heads.centre)
    assert len({tuple(vector.tolist()) for vector in fed}) > 1
    with torch.no_grad():
        loss = objective.loss(model.backbone, batch.data, batch.counts)
        expected = stock_text_loss(model, data.batch, torch.stack(fed))
        torch.testing.assert_close(loss.parts["text"], expected, atol=2e-5, rtol=0)
        assert abs(float(stock_text_loss(model, data.batch, torch.stack(fed).flip(0)) - expected)) > 1e-4
    assert not data.batch.blocks  # one parallel pass
    assert {"where", "what"} <= loss.parts.keys()


@EVERY
def test_a_resumed_run_in_micro_batches_goes_as_one_undisturbed(
    inputs: Path, models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    halves = {**FILM, "micro_batch_size": 2, "gradient_checkpointing": True}
    middle = models[name].parent / "scratch" / "checkpoints" / "step-00000003"
    resumed = trained(inputs, tmp_path, name, resume=middle, film=halves)
    for figure in ("loss", "text", "what", "gradient_norm"):
        assert curve(resumed, figure) == pytest.approx(curve(models[name], figure), rel=1e-4), figure
    whole, parts = (load_file(output / "model.safetensors") for output in (models[name], resumed))
    for key, weight in whole.items():
        torch.testing.assert_close(parts[key], weight, atol=2e-4, rtol=1e-3)


def test_the_norms_of_what_is_fed_are_logged_beside_those_of_the_image(inputs: Path, tmp_path: Path) -> None:
    film = {**FILM, "steps": 1, "stepwise": {"where": "cell", "what": "kind"}}
    output = trained(inputs, tmp_path, "image_norm", film=film, model={"train_vision": True})
    (own,), (image,) = curve(output, "latent_norm"), curve(output, "image_norm")
    _, batch, _ = first_micro_batch(inputs, tmp_path / "again", "image_norm")
    data = batch.data.inputs.batch
    lengths = {
        row: feature.norm(dim=-1).mean()
        for row, feature in zip(data.image_rows.tolist(), data.image_features, strict=True)
    }
    expected = sum(float(lengths[row]) for row in data.span_rows.tolist()) / len(data.span_rows)
    assert image == pytest.approx(expected, rel=1e-4)
    assert own == pytest.approx(8.0, rel=0.01)  # the square root of 64 dimensions: the final norm's weight is still 1


def test_query_tokens_are_trained_and_saved_with_the_model(inputs: Path, models: dict[str, Path]) -> None:
    job = make_job(inputs, models["query"].parent / "none", "film", latent={"input": "query"})
    before, after = load_trainable(job), load_model(models["query"])
    assert len(after.ids.latent_queries) == 2 == len(before.ids.latent_queries)
    assert after.backbone.vocab_size == before.backbone.vocab_size > max(after.ids.latent_queries)
    first, trained_rows = (
        model.backbone.embed_text(torch.tensor([model.ids.latent_queries]))[0] for model in (before, after)
    )
    assert (first[0] - first[1]).norm() > 0.5 * first[0].norm()  # different from the first step on
    assert ((first - trained_rows).abs().max(-1).values > 1e-4).all()
    table = before.backbone.model.get_input_embeddings().weight[: min(after.ids.latent_queries)]
    assert first.std().item() == pytest.approx(table.std().item(), rel=0.3)
    assert after.processor.tokenizer.convert_tokens_to_ids("<|latent_query_1|>") == after.ids.latent_queries[1]


def test_adapters_train_the_rows_of_query_tokens_too(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path, "query", model={"lora": {"rank": 2}}, film={**FILM, "steps": 2})
    job = make_job(inputs, tmp_path / "none", "film", latent={"input": "query"})
    before, after = load_trainable(job), load_model(output)
    table, new = (model.backbone.model.get_input_embeddings().weight for model in (before, after))
    changed = set((table - new).abs().sum(-1).nonzero()[:, 0].tolist())
    assert (
        set(after.ids.latent_queries)
        <= changed
        <= {*after.ids.latent_queries, after.ids.latent_start, after.ids.latent_pad, after.ids.latent_end}
    )


@EVERY
def test_a_saved_model_answers_as_it_was_trained(inputs: Path, models: dict[str, Path], name: str) -> None:
    model = load_model(models[name])
    answering = Generator.for_evaluation(model, small_settings(), method="film")  # what its mirage.json says
    problems = load_problems(inputs / "problems", split="train")[:3]
    begun = torch.tensor([model.ids.latent_start])
    prompts = [replace(prompt, ids=torch.cat([prompt.ids, begun])) for prompt in answering.prompts(problems)]
    for prompt, (answer,) in zip(prompts, answering.decode(prompts), strict=True):
        (span, *_) = answer.latents
        if name == "query":
            assert torch.equal(span, model.backbone.embed_text(torch.tensor([model.ids.latent_queries]))[0])
        elif name == "code":
            book = load_heads(models[name], 64)[0].book
            assert book is not None
            distances = torch.cdist(span, book.centre + book.codes)
            assert float(distances.min(-1).values.max()) < 1e-4
        else:
            image = model.backbone.image_features(prompt.pixel_values, prompt.grid_thw)[0]
            torch.testing.assert_close(span.norm(dim=-1), image.norm(dim=-1).mean().expand(2), rtol=1e-5, atol=0)
    reader = ImaginationReader.of(models[name], model, small_settings())
    assert (reader is not None) == (name == "image_norm")


def test_heads_read_the_states_that_rescaled_latents_come_from(inputs: Path, models: dict[str, Path]) -> None:
    loaded, settings = load_model(models["image_norm"]), small_settings()
    (problem,) = load_problems(inputs / "problems", split="train")[:1]
    random = torch.nn.functional.normalize(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    states = loaded.backbone.norm_weight.detach() * random * 8.0
    reader = ImaginationReader.of(models["image_norm"], loaded, settings)
    plain = ImaginationReader.of(models["image_norm"], replace(loaded, about={}), settings)
    assert reader is not None and plain is not None
    assert reader.read([problem], [5.0 * states]) == plain.read([problem], [states])
    assert plain.read([problem], [5.0 * states]) != plain.read([problem], [states])


def test_the_true_code_is_that_of_most_changed_tokens_and_the_mean_appearance_where_nothing_changed() -> None:
    codes, centre = torch.randn(4, 8), torch.randn(8)
    heads = StepHeads(8, StepwiseSettings(**VISUAL), 0, 4, codes, centre)  # type: ignore[arg-type]
    shares = torch.tensor([[0.0, 1, 3, 2], [0, 2, 0, 2], [0, 0, 0, 0]])
    none = torch.empty(0, dtype=torch.long)
    batch = StepBatch(rows=none, columns=none, steps=none, where=none, what=shares, image_columns=none)
    found = StepLoss(heads, batch, 3).true_codes()
    torch.testing.assert_close(found, torch.stack([centre + codes[2], centre + codes[1], centre]))
    bare = StepHeads(8, StepwiseSettings(where="cell", what="kind"), 3, 4)
    with pytest.raises(InputError, match="no codebook"):
        StepLoss(bare, batch, 3).true_codes()


def test_a_code_model_without_its_heads_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in models["code"].iterdir():
        if file.is_file() and file.name != HEADS_FILE:
            (folder / file.name).symlink_to(file)
    with pytest.raises(SettingsError, match=r"lacks what\.weight, what\.bias, codes, centre"):
        load_model(folder)
    save_file(
        {name: tensor for name, tensor in load_file(models["code"] / HEADS_FILE).items() if name != "codes"},
        folder / HEADS_FILE,
    )
    with pytest.raises(SettingsError, match="lacks codes: copy the file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("program", "section"),
    [
        ("film", {"stepwise": {"where": "cell", "what": "kind"}}),
        ("film", {"stepwise": None}),
        ("film", {"stepwise": {**VISUAL, "weight_what": 0.0}}),
        ("grounding", {}),
        ("relaxation", {}),
    ],
)
def test_codes_without_a_head_that_chooses_them_are_refused(
    inputs: Path, tmp_path: Path, program: ProgramName, section: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=f"latent.input is code, and {program} trains no head over a codebook"):
        trained(inputs, tmp_path, "code", program, None, **{program: {"steps": 1, **section}})


@pytest.mark.parametrize("name", ["query", "code"])
def test_noise_on_what_is_no_hidden_state_is_refused(inputs: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"latent.input is {name}: there is no latent to add noise to"):
        trained(inputs, tmp_path, name, film={**FILM, "latent_noise": 0.1})


def test_a_validation_answers_with_the_head_as_it_is_then(inputs: Path, tmp_path: Path) -> None:
    watched = {"every": 2, "examples": 2, "problems": 2}
    evaluation = {"max_new_tokens": 4}
    output = trained(inputs, tmp_path, "code", film={**FILM, "steps": 2, "validation": watched}, evaluation=evaluation)
    assert len(curve(output, "validation/accuracy")) == 2 and len(curve(output, "validation/what")) == 2


@EVERY
def test_the_policy_has_the_probabilities_that_its_answers_were_sampled_with(
    inputs: Path, models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for part, source in {
        "model": models[name],
        "problems": inputs / "problems",
        "examples": inputs / "examples",
    }.items():
        (folder / part).symlink_to(source)
    grpo = {"prompts_per_step": 2, "max_new_tokens": 6, "steps": 1}
    job = make_job(folder, tmp_path / "policy", "grpo", latent=LATENT[name], grpo=grpo)
    model = load_trainable(job)
    with torch.no_grad():
        state = _first_state(model, job, inputs)
        model.backbone.model.lm_head.weight[model.ids.latent_start] = 7.0 * state / state.square().sum()
    objective = GRPOObjective(
        job.settings, model, load_problems(inputs / "problems", split="train"), job.seed, scorer=even_length
    )
    (batch,) = objective.micro_batches(0)
    answers = batch.data.batch.layout.answers
    assert len(answers.span_rows) > 3
    after = answers.labels[answers.span_rows, answers.span_starts + answers.span_lengths] != -100
    assert int(after.sum()) > 3  # text was sampled after spans
    result = objective.loss(model.backbone, batch.data, batch.counts)
    log_probs = -float(result.parts["entropy"])
    assert log_probs < -0.5  # and no token of it was certain
    assert float(result.parts["ratio_deviation"]) < 3e-5
    assert float(result.parts["kl"]) == pytest.approx(0.0, abs=1e-7)


def _first_state(model: LoadedModel, job: Job, inputs: Path) -> Tensor:
    """The mean state [D] that tells of an answer's first token."""
    answering = Generator.for_evaluation(model, job.settings, method="film")
    states: list[Tensor] = []
    problems = load_problems(inputs / "problems", split="train")
    answering.decode(answering.prompts(problems), observe=lambda step: states.append(step.hidden))
    return states[0].mean(0)


def test_grpo_saves_on_the_heads_that_codes_are_chosen_by(
    inputs: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for part, source in {"model": models["code"], **{name: inputs / name for name in ("problems", "examples")}}.items():
        (folder / part).symlink_to(source)
    grpo = {"steps": 1, "prompts_per_step": 1, "group_size": 2, "max_new_tokens": 4}
    output = trained(folder, tmp_path / "work", "code", "grpo", grpo=grpo)
    before, after = load_file(models["code"] / HEADS_FILE), load_file(output / HEADS_FILE)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert load_model(output).readout is not None


def test_the_new_settings_leave_the_stored_form_as_it_was() -> None:
    assert "feed_norm" not in LatentSettings().model_dump(mode="json")
    assert LatentSettings(feed_norm="image").model_dump(mode="json")["feed_norm"] == "image"
    assert [
        LatentSettings(input=name).model_dump(mode="json")["fed"] for name in ("hidden_state", "query", "code")
    ] == ["own", "query", "code"]  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"rescales hidden states, and latent\.input is query"):
        LatentSettings(input="query", feed_norm="image")


@pytest.mark.parametrize(("name", "passes"), [("query", 1), ("code", 1), ("image_norm", 3)])
def test_plans_count_one_pass_where_nothing_is_rolled_out(name: str, passes: int) -> None:
    settings = small_settings(latent={**LATENT[name], "num_latents": 3})
    shape = Shape(prompt=9, image=4, before=1, after=5, caption=0, auxiliary=4, **_spans(settings))
    assert len(shape.batch("film", 2, padded=False).passes) == passes + (name == "image_norm")


def _spans(settings: Any) -> dict[str, Any]:
    from mirage_core.planning import batch_shapes

    return batch_shapes._spans(settings)
