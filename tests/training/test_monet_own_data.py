"""Records in the layout of Monet-SFT-125K, several auxiliary images in a chain, from the file to Monet's last stage."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax

from mirage_core.benchmarks.custom.jsonl_data import rows_of
from mirage_core.config import Settings
from mirage_core.errors import DataError
from mirage_core.latent.collate import collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.latent.observed import ObservedEncoder
from mirage_core.model.forward.forward import image_features
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.runner import run_in_process
from mirage_core.planning.batch_shapes import AUXILIARY_LABELS, Shape
from mirage_core.planning.plan import make_plan
from mirage_core.planning.token_counts import RecipeRows, _token_counter
from mirage_core.store import Store
from mirage_core.store.records import load_examples
from mirage_core.training.monet.forward import observed_cells, span_cells
from mirage_core.training.monet.losses import latent_loss, target_loss
from mirage_core.training.monet.sight import auxiliary_sight
from mirage_core.types import IMAGE_PLACE, OBSERVED, TrainingExample
from tests.pipeline.jobs_here import jobs_here
from tests.training.small_world import quiet, small_settings
from tests.training.test_codi import outputs_of_layers

COUNT = 8
PARTS = {"monet-warmup": (False, True), "monet-targets": (True, True), "monet": (True, False)}
"""Whether the rows of each stage have spans, and auxiliary images."""
WEIGHTS: dict[str, Any] = {"observation_weight": 4.0, "alignment_weight": 2.0, "axis": "paper"}


def write_records(folder: Path) -> Path:
    """``COUNT`` records, every other one with two auxiliary images, and one without an observation."""
    records = []
    for number in range(COUNT + 1):
        for kind, colour in (("q", 20), ("a", 90), ("b", 160)):
            image = Image.new("RGB", (56, 84 if kind == "b" else 56), (colour, 10 * number, 40))
            image.save(folder / f"{kind}{number}.png")
        parts: list[Any] = [f"I cut the {number}th part out. {IMAGE_PLACE}", {"image": f"a{number}.png"}]
        parts.append(f"{OBSERVED[0]}It shows {number} dots.{OBSERVED[1]} Hence")
        if number % 2:
            parts += [
                f" I zoom in. {IMAGE_PLACE}\n",
                {"image": f"b{number}.png"},
                f"Then {OBSERVED[0]}red{OBSERVED[1]}",
            ]
        parts.append(f" the answer is \\boxed{{{number}}}.")
        if number == COUNT:
            parts[2] = "Nothing observed."
        question = [{"type": "image", "image": f"q{number}.png"}, {"type": "text", "text": f"How many, {number}?"}]
        answer = [{"type": "text", "text": one} if isinstance(one, str) else {"type": "image", **one} for one in parts]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        records.append({"metadata": {"dataset_name": "Zebra_CoT"}, "data": turns})
    file = folder / "train.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = write_records(tmp_path_factory.mktemp("records"))
    stage = {"steps": 2, "batch_size": 4, "warmup_steps": 0, "batch_by": "length"}
    return small_settings(
        problems={"vsp_planning": None, "own": {"file": str(file), "layout": "monet", "test_share": 0.2}},
        teacher={"variant": "cot"},
        model={"warmup": {"steps": 0}},
        evaluation={"methods": ["monet"], "max_new_tokens": 4},
        **dict.fromkeys(("monet_warmup", "monet_targets", "monet"), stage),
    )


@pytest.fixture(scope="module")
def run(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Store]:
    folder = tmp_path_factory.mktemp("store")
    store = Store.open(str(folder / "store"), cache=folder / "cache")
    with jobs_here():
        return run_in_process(settings, store, quiet), store


def folder_of(run: tuple[RunRecord, Store], name: str) -> Path:
    """The folder of what a stage made."""
    record, store = run
    (path,) = [stage.path for stage in record.stages if stage.name == name]
    return store.fetch(next(artifact for artifact in store.list() if artifact.path == path))


@pytest.fixture(scope="module")
def examples(run: tuple[RunRecord, Store]) -> list[TrainingExample]:
    return load_examples(folder_of(run, "captions"))


@pytest.fixture(scope="module")
def model(run: tuple[RunRecord, Store]) -> LoadedModel:
    return load_model(folder_of(run, "base"))


@pytest.fixture(scope="module")
def encoder(settings: Settings, model: LoadedModel) -> ObservedEncoder:
    return ObservedEncoder(model.processor, settings.latent, settings.prompt, "cot")


def test_a_file_is_learned_through_all_stages(run: tuple[RunRecord, Store], settings: Settings) -> None:
    record, store = run
    names = [stage.name for stage in record.stages]
    stages = ["monet-warmup", "monet-observations", "monet-targets", "monet-latents", "monet"]
    assert [name for name in names if name.startswith("monet")] == stages
    assert {row.method for row in record.scores} == {"monet"} and all(one.cached for one in plan(settings, store))
    assert [work.name for work in make_plan(settings, 80.0).stages][-2:] == ["monet", "evaluation"]


def test_records_without_an_observation_are_left_out_and_the_others_kept_whole(
    examples: list[TrainingExample], settings: Settings
) -> None:
    assert settings.problems.own is not None
    rows = list(rows_of(settings.problems.own))
    assert len(rows) == COUNT and len({row.problem.id for row in rows}) == COUNT
    assert sorted({len(example.auxiliary_image.frames) for example in examples}) == [1, 2]
    for example in examples:
        (number,) = re.findall(r"How many, (\d)\?", example.problem.question)
        assert example.problem.answer == number and example.problem.group == "Zebra_CoT"
        assert example.chain.text_before == f"I cut the {number}th part out. "
        assert example.chain.words.startswith(f"It shows {number} dots.") and OBSERVED[0] not in example.chain.words


@pytest.mark.parametrize(("with_latents", "with_image"), [(False, True), (True, True), (True, False)])
def test_every_image_has_its_span_and_only_tagged_words_are_observed(
    examples: list[TrainingExample], encoder: ObservedEncoder, model: LoadedModel, with_latents: bool, with_image: bool
) -> None:
    ids, tokenizer = model.ids, model.processor.tokenizer
    for example in examples:
        (number,) = re.findall(r"How many, (\d)\?", example.problem.question)
        two = int(number) % 2 == 1
        found = encoder.observed(example, with_latents=with_latents, with_image=with_image)
        assert found.observed is not None
        assert tokenizer.decode(found.ids[found.observed]) == f"It shows {number} dots." + "red" * two
        images = "<|vision_start|>[]<|vision_end|>" if with_image else ""
        span = images + ("<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>" if with_latents else "")
        middle = f"{span}It shows {number} dots. Hence" + f" I zoom in. {span}Then red" * two
        text = f"I cut the {number}th part out. {middle} the answer is \\boxed{{{number}}}.<|im_end|>\n"
        for grid in found.grid_thw[1:]:
            text = text.replace("[]", "<|image_pad|>" * (int(grid.prod()) // 4), 1)
        begin = len(encoder.prompt(example.problem).ids)
        assert tokenizer.decode(found.ids[begin:]) == text
        assert len(found.ids) == encoder.observed_length(example, with_latents=with_latents, with_image=with_image)
        silent = [ids.image_pad, ids.vision_start, ids.vision_end, ids.latent_pad, ids.latent_end]
        assert torch.equal(found.labels[begin:] == -100, torch.isin(found.ids[begin:], torch.tensor(silent)))


def gradients(model: LoadedModel, total: Tensor) -> dict[str, Tensor]:
    model.backbone.zero_grad()
    total.backward()
    return {name: one.grad.clone() for name, one in model.backbone.named_parameters() if one.grad is not None}


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=5e-5, rtol=5e-4)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_batch_of_rows_with_one_and_two_spans_is_the_mean_of_its_rows(
    examples: list[TrainingExample], encoder: ObservedEncoder, model: LoadedModel, stage: int
) -> None:
    rows = [encoder.observed(example, with_latents=True, with_image=stage == 2) for example in examples[:3]]
    assert len({int((row.ids == model.ids.latent_start).sum()) for row in rows}) == 2

    def loss(chosen: list[EncodedExample], *, checkpointing: bool = False) -> Tensor:
        batch = collate(chosen, model.ids, model.backbone.position_ids)
        cells = observed_cells(batch) if stage == 2 else span_cells(batch)
        teacher = torch.cat([state_like(row, stage, model) for row in chosen], dim=1)
        assert teacher.shape[1] == len(cells[0])
        if stage == 3:
            return latent_loss(model.backbone, batch, teacher, **WEIGHTS, checkpointing=checkpointing).total
        sight = auxiliary_sight(batch, model.ids)
        options = {**WEIGHTS, "latent_weight": 2.0, "checkpointing": checkpointing}
        return target_loss(model.backbone, batch, teacher, sight, **options).total

    whole = loss(rows)
    together = gradients(model, whole)
    alone = torch.stack([loss([row]) for row in rows]).mean()
    assert whole.item() == pytest.approx(alone.item(), abs=1e-5)
    close(together, gradients(model, alone))
    close(together, gradients(model, loss(rows, checkpointing=True)))


def state_like(row: EncodedExample, stage: int, model: LoadedModel) -> Tensor:
    """A teacher's states for a row: some numbers that depend on the row alone."""
    assert row.observed is not None
    count = int(row.observed.sum() if stage == 2 else (row.ids == model.ids.latent_pad).sum())
    generator = torch.Generator().manual_seed(int(row.ids.sum()))
    return torch.randn(len(model.backbone.layers) + 1, count, model.backbone.hidden_size, generator=generator)


def test_the_loss_of_several_spans_is_that_of_the_definition(
    examples: list[TrainingExample], encoder: ObservedEncoder, model: LoadedModel
) -> None:
    """Stage 3 on a row of two spans: latents one pass each, fed detached; then all fed with gradient, in one pass."""
    example = next(one for one in examples if len(one.auxiliary_image.frames) == 2)
    row, backbone = encoder.observed(example, with_latents=True, with_image=False), model.backbone
    teacher = state_like(row, 3, model)
    batch = collate([row], model.ids, backbone.position_ids)
    ours = latent_loss(backbone, batch, teacher, **WEIGHTS)
    found = gradients(model, ours.total)

    plain = collate([row], model.ids, backbone.position_ids, align=False)
    embedded = backbone.embed(plain.input_ids, image_features(backbone, plain)).tokens[0]
    rotary, places = backbone.rotary(plain.position_ids), (row.ids == model.ids.latent_pad).nonzero().flatten().tolist()
    assert len(places) == 4 and places[2] - places[1] > 2

    def hidden(vectors: Tensor) -> Tensor:
        length = len(vectors)
        return backbone.hidden(vectors[None], (rotary[0][:, :length], rotary[1][:, :length]), None)[0]

    detached, fed = embedded, embedded
    for place in places:
        latent = hidden(detached[:place])[-1]
        detached = torch.cat([detached[:place], latent.detach()[None], detached[place + 1 :]])
        fed = torch.cat([fed[:place], latent[None], fed[place + 1 :]])
    with outputs_of_layers(backbone) as seen:
        last = hidden(fed)
    between = [output[0, places] for output in seen[:-1]]
    states = torch.stack([fed[places], *between, last[places]])
    scores = log_softmax(backbone.logits(last[:-1]), dim=-1)
    labelled = [(at, token) for at, token in enumerate(row.labels[1:].tolist()) if token != -100]
    assert row.observed is not None
    weights = torch.tensor([4.0 if row.observed[at + 1] else 1.0 for at, _ in labelled])
    losses = torch.stack([-scores[at, token] for at, token in labelled])
    text = (weights * losses).sum() / weights.sum()
    total = text + 2.0 * (1 - cosine_similarity(teacher, states, dim=-1)).mean()
    assert ours.total.item() == pytest.approx(total.item(), abs=1e-5)
    close(found, gradients(model, total))


def test_the_plan_counts_every_image_and_span(
    examples: list[TrainingExample], encoder: ObservedEncoder, settings: Settings
) -> None:
    """But for the words, which are counted as one text."""
    counter = _token_counter(settings, [])
    for example in examples[:4]:
        row = counter.row(example)
        shape = Shape.longest(RecipeRows(rows=((row, 1.0),), train=1, test=1, notes=()), settings)
        assert row.spans == len(example.auxiliary_image.frames)
        for stage, (latents, image) in PARTS.items():
            ids = encoder.observed(example, with_latents=latents, with_image=image).ids
            planned = shape.batch(stage, 1, padded=False).passes
            assert planned[-1] == pytest.approx(len(ids), abs=1 if latents else AUXILIARY_LABELS), stage
            assert len(planned) == (row.spans * settings.latent.num_latents + 2 if latents else 1)


def test_images_that_were_not_kept_are_missed_with_the_way_out(
    examples: list[TrainingExample], encoder: ObservedEncoder
) -> None:
    example = next(one for one in examples if len(one.auxiliary_image.frames) == 2)
    bare = replace(example, auxiliary_image=replace(example.auxiliary_image, frames=()))
    with pytest.raises(DataError, match=r"2 places of auxiliary images, but 0 images are at hand"):
        encoder.observed(bare, with_latents=True, with_image=True)
    assert torch.equal(
        encoder.observed(bare, with_latents=True, with_image=False).ids,
        encoder.observed(example, with_latents=True, with_image=False).ids,
    )
