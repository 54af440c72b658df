"""LVR: spans that show regions of the image, their loss against a definition, training, and answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mirage_core.benchmarks import get
from mirage_core.benchmarks.regions import checked_box, cropped
from mirage_core.config import LvrSettings
from mirage_core.distributed.events import EventWriter
from mirage_core.errors import DataError, InputError, SettingsError
from mirage_core.generation.generator import Generator
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.encoder import Encoder, RegionLayout
from mirage_core.latent.examples import IGNORED, EncodedExample
from mirage_core.latent.regions import box_tokens
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.model.readout import READOUT_FILE, new_readout
from mirage_core.store.records import load_examples, load_problems
from mirage_core.store.tables import read_table
from mirage_core.training.grpo.train import run_grpo
from mirage_core.training.sft.region_loss import region_loss
from tests.training.small_world import make_job, small_settings, trained_by
from tests.training.test_pooler import with_model

STAGE = {"steps": 4, "batch_size": 6, "micro_batch_size": 4, "learning_rate": 2e-3, "warmup_steps": 2}
LATENT_END = {"text": {"end": "exact"}, "switch": {"end": "free"}, "vector": {"end": "near"}}


def trained(inputs: Path, work: Path, resume_from: Path | None = None, **sections: Any) -> Path:
    job = make_job(inputs, work, "lvr", resume_from=resume_from, **{"lvr": STAGE, **sections})
    return trained_by(job)


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


@pytest.fixture(scope="module")
def model(inputs: Path) -> LoadedModel:
    return load_model(inputs / "model")


def encoded(inputs: Path, model: LoadedModel, **layout: bool) -> list[EncodedExample]:
    settings = small_settings()
    encoder = Encoder(model.processor, settings.latent, settings.prompt, "direct")
    examples = load_examples(inputs / "examples", split="train")[:4]
    return [encoder.example(one, with_latents=True, regions=RegionLayout(**layout)) for one in examples]


def batch_of(rows: list[EncodedExample], model: LoadedModel) -> LatentBatch:
    return collate(rows, model.ids, model.backbone.position_ids, align=False)


def test_a_box_touches_the_tokens_that_it_covers_in_part() -> None:
    grid = (1, 6, 8)  # 3 rows of 4 merged tokens
    assert box_tokens((0.0, 0.0, 1.0, 1.0), grid, 2).tolist() == list(range(12))
    assert box_tokens((0.26, 0.34, 0.5, 0.6), grid, 2).tolist() == [5]
    assert box_tokens((0.24, 0.34, 0.51, 0.6), grid, 2).tolist() == [4, 5, 6]
    assert box_tokens((0.99, 0.99, 1.0, 1.0), grid, 2).tolist() == [11]


@pytest.mark.parametrize("box", [[0, 0, 1], [0.5, 0, 0.5, 1], [0, 0, 1.2, 1], [-0.1, 0, 1, 1], [0, "a", 1, 1]])
def test_a_wrong_box_is_named_with_what_was_expected(box: list[Any]) -> None:
    with pytest.raises(DataError, match=r"the box is .*, expected left, top, right, bottom as shares"):
        checked_box(box, "the box")


def test_the_latents_of_a_maze_are_the_cells_of_its_path_in_their_order(inputs: Path, model: LoadedModel) -> None:
    example = load_examples(inputs / "examples", split="train")[0]
    (row, *_) = encoded(inputs, model)
    rows, columns = (int(size) // 2 for size in row.grid_thw[0, 1:])
    found = [divmod(token, columns) for token in row.region_tokens.tolist()]
    maze = example.problem.facts["map"]
    here = next((r, c) for r, line in enumerate(maze) for c, kind in enumerate(line) if kind == 1)
    steps = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
    expected = [here]
    for move in example.problem.answer:
        here = (here[0] + steps[move][0], here[1] + steps[move][1])
        expected.append(here)
    assert rows == columns == len(maze)  # a cell is a token
    assert found == expected
    assert int((row.ids == model.ids.latent_pad).sum()) == len(expected)


def test_a_learned_stop_has_a_place_after_the_latents_and_no_label(inputs: Path, model: LoadedModel) -> None:
    plain, stopping = encoded(inputs, model)[0], encoded(inputs, model, stop_token=True)[0]
    ids = stopping.ids.tolist()
    at = ids.index(model.ids.latent_end)
    assert ids[at - 1] == model.ids.pad and ids[at - 2] == model.ids.latent_pad
    assert stopping.labels[at - 1] == IGNORED and stopping.labels[at] == model.ids.latent_end
    assert ids[: at - 1] + ids[at:] == plain.ids.tolist()


def test_a_crop_shows_the_region_alone(inputs: Path, model: LoadedModel) -> None:
    example = load_examples(inputs / "examples", split="train")[0]
    row = encoded(inputs, model, crop=True)[0]
    merged = int(row.auxiliary_grid_thw.prod(1).sum()) // 4
    assert int((row.ids == model.ids.latent_pad).sum()) == merged
    assert len(row.region_tokens) == 0
    picture = example.problem.images[0]
    assert len(cropped(picture, ((0.0, 0.0, 0.5, 0.5),))) < len(picture)


def test_a_problem_without_boxes_says_where_they_come_from(inputs: Path) -> None:
    problem = load_problems(inputs / "problems")[0]
    with pytest.raises(DataError, match=r"of jigsaw has no boxes on an image, .*give it boxes \(docs/data.md\)"):
        get("jigsaw").regions(problem)


def by_definition(model: LoadedModel, row: EncodedExample, settings: LvrSettings) -> dict[str, Tensor]:
    """The parts of the loss of one row: features in the places of latents, through the stock model."""
    backbone, ids = model.backbone, model.ids
    (image,) = backbone.image_features(row.pixel_values, row.grid_thw)
    positions = backbone.position_ids(row.ids, torch.tensor([len(row.ids)]), row.grid_thw)
    inputs = backbone.model.get_input_embeddings()(row.ids).clone()
    inputs[row.ids == ids.image_pad] = image
    places = (row.ids == ids.latent_pad).nonzero().flatten()
    targets = image[row.region_tokens]
    inputs[places] = targets
    output = backbone.model.model.language_model(
        inputs_embeds=inputs[None], position_ids=positions[:, None], attention_mask=None
    ).last_hidden_state[0]
    logits = backbone.model.lm_head(output)
    labelled = (row.labels[1:] != IGNORED).nonzero().flatten()
    text = -logits[labelled].log_softmax(-1)[torch.arange(len(labelled)), row.labels[labelled + 1]].mean()
    parts = {"text": text, "visual": (output[places - 1] - targets).square().mean()}
    if settings.stop == "switch":
        scores = torch.stack([logits[place - 1, ids.latent_end] for place in [*places, places[-1] + 1]])
        chances = scores.sigmoid()
        parts["stop"] = -torch.cat([(1 - chances[:-1]).log(), chances[-1:].log()]).mean()
    return parts


@pytest.mark.parametrize("stop", ["text", "switch"])
def test_the_loss_is_that_of_the_definition(inputs: Path, model: LoadedModel, stop: Any) -> None:
    settings = LvrSettings(stop=stop)
    for row in encoded(inputs, model):
        loss = region_loss(model.backbone, batch_of([row], model), settings, latent_end=model.ids.latent_end)
        expected = by_definition(model, row, settings)
        assert loss.parts.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(loss.parts[name], value, atol=1e-5, rtol=1e-5)
        total = expected["text"] + 0.1 * expected["visual"] + 0.1 * expected.get("stop", torch.zeros(()))
        torch.testing.assert_close(loss.total, total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("head", "stop"), [("none", "switch"), ("simple", "vector"), ("glu", "text")])
def test_a_batch_is_its_rows_and_checkpointing_changes_nothing(
    inputs: Path, model: LoadedModel, head: Any, stop: Any
) -> None:
    readout = None
    if head != "none":
        readout = new_readout(64, 128, head, stops=stop == "vector", seed=3, dtype=torch.float32)
    rows = encoded(inputs, model, stop_token=stop == "vector")
    assert len({len(row.region_tokens) for row in rows}) > 1  # spans of different lengths

    def gradients(batches: list[list[EncodedExample]], checkpointing: bool) -> list[Tensor]:
        backbone, beside = copy.deepcopy(model.backbone), copy.deepcopy(readout)
        backbone.freeze_vision()
        settings = LvrSettings(head=head, stop=stop, gradient_checkpointing=checkpointing)
        sums: dict[str, Tensor] = {}
        counts = {"text": 0, "visual": 0, "stop": 0}
        for part in batches:
            batch = batch_of(part, model)
            spans, latents = len(batch.span_rows), int(batch.span_lengths.sum())
            here = {
                "text": int((batch.labels != IGNORED).sum()),
                "visual": latents,
                "stop": spans if stop == "vector" else latents + spans,
            }
            found = region_loss(backbone, batch, settings, beside, latent_end=model.ids.latent_end).parts
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros(())) + value * here[name]
                counts[name] += here[name]
        total = sum((sums[name] / counts[name] for name in sums), torch.zeros(()))
        total.backward()
        weights = [*backbone.parameters(), *([] if beside is None else beside.parameters())]
        return [total.detach(), *(weight.grad for weight in weights if weight.grad is not None)]

    whole = gradients([rows], False)
    for other in (gradients([[row] for row in rows], False), gradients([rows], True)):
        assert len(other) == len(whole) > 20
        for left, right in zip(whole, other, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_rows_with_regions_and_without_are_refused_together(inputs: Path, model: LoadedModel) -> None:
    settings = small_settings()
    encoder = Encoder(model.processor, settings.latent, settings.prompt, "direct")
    plain = encoder.example(load_examples(inputs / "examples")[0], with_latents=True, with_targets=False)
    with pytest.raises(InputError, match=r"Row 1 has 0 region tokens for 2 latents"):
        batch_of([encoded(inputs, model)[0], plain], model)
    with pytest.raises(InputError, match=r"Got 0 features of regions for 2 latents"):
        region_loss(model.backbone, batch_of([plain], model), LvrSettings(), latent_end=model.ids.latent_end)


@pytest.mark.parametrize(
    ("head", "stop", "region"),
    [("none", "text", "tokens"), ("none", "switch", "tokens"), ("glu", "vector", "tokens"), ("none", "text", "crop")],
)
def test_it_trains_resumes_exactly_and_answers(inputs: Path, tmp_path: Path, head: str, stop: str, region: str) -> None:
    sections = {
        "lvr": {**STAGE, "head": head, "stop": stop, "region": region, "validation": {"every": 4, "examples": 2}},
        "latent": {"num_latents": 3, "max_latents": 4, **LATENT_END[stop]},
    }
    output = trained(inputs, tmp_path / "whole", **sections)
    assert len(curve(output, "visual")) == 4
    assert curve(output, "validation/visual")
    assert bool(curve(output, "stop")) == (stop != "text")
    assert (output / READOUT_FILE).is_file() == (head != "none" or stop == "vector")
    resumed = trained(inputs, tmp_path / "resumed", resume_from=_checkpoint_of(tmp_path / "whole"), **sections)
    for name in ("model.safetensors", *([READOUT_FILE] if (output / READOUT_FILE).is_file() else [])):
        for weight, value in load_file(output / name).items():
            assert torch.equal(load_file(resumed / name)[weight], value), weight

    answering = Generator.for_evaluation(load_model(output), small_settings(**sections), method="lvr")
    problems = load_problems(inputs / "problems")[:2]
    assert len(answering.scored(problems)) == 2


def _checkpoint_of(work: Path) -> Path:
    """The checkpoint of step 3, in the folder that the job left it in."""
    (found,) = [path for path in work.rglob("*") if path.is_dir() and path.name.endswith("3") and any(path.iterdir())]
    return found


def test_a_switch_beside_a_head_is_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"lvr.stop is switch and lvr.head simple.*set lvr.head to none"):
        trained(inputs, tmp_path, lvr={**STAGE, "head": "simple", "stop": "switch"})


def test_an_end_near_a_vector_needs_a_model_that_has_one(inputs: Path) -> None:
    settings = small_settings(latent={"end": "near"})
    generator = Generator.for_evaluation(load_model(inputs / "model"), settings, method="lvr")
    with pytest.raises(SettingsError, match=r"end is near, and the model has no stop vector: train it with lvr.stop"):
        generator.scored(load_problems(inputs / "problems")[:1])


def test_a_damaged_readout_names_the_file(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path, lvr={**STAGE, "head": "glu"})
    save_file({"head.2.weight": torch.zeros(3, 3)}, output / READOUT_FILE, metadata={"head": "glu"})
    with pytest.raises(SettingsError, match=rf"{READOUT_FILE} is no latent readout"):
        load_model(output)


def test_grpo_goes_on_with_recorded_latents_and_keeps_the_readout(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path / "lvr", lvr={**STAGE, "head": "simple"})
    later = with_model(inputs, tmp_path / "inputs", output)
    sections = {"lvr": {**STAGE, "head": "simple"}}

    def grpo(latents: str) -> Path:
        job = make_job(later, tmp_path / latents, "grpo", **sections, grpo={"steps": 1, "latents": latents})
        job.output.mkdir(parents=True)
        job.scratch.mkdir(parents=True)
        run_grpo(job, EventWriter(tmp_path / latents / "events.jsonl"))
        return job.output

    with pytest.raises(SettingsError, match=r"grpo.latents is recompute.*set grpo.latents to replay"):
        grpo("recompute")
    kept = grpo("replay")
    assert (kept / READOUT_FILE).read_bytes() == (output / READOUT_FILE).read_bytes()
