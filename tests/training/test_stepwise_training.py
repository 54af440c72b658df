"""Stepwise grounding in training: resumed, in micro-batches, beside adapters, with the best weights, and saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mirage_core.config import RelaxationSettings, StepwiseSettings
from mirage_core.distributed.events import EventWriter
from mirage_core.errors import DataError, InputError
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import load_model
from mirage_core.store.records import load_examples, save_examples
from mirage_core.store.tables import read_table
from mirage_core.training.sft.train import run_supervised
from mirage_core.training.stepwise.heads import load_heads
from mirage_core.training.stepwise.setup import FilmData, make_stepwise
from tests.training.small_world import make_job, small_settings

VISUAL = StepwiseSettings(where="pointer", what="codebook")

TRIALS: dict[str, dict[str, Any]] = {
    "labels": {"where": "cell", "what": "kind"},
    "visual": {"where": "pointer", "what": "codebook", "codebook_size": 4, "after_end": "free"},
    "mixed": {"where": "pointer", "what": "kind", "pace": "spread"},
}


def trained(inputs: Path, work: Path, program: str = "film", resume_from: Path | None = None, **sections: Any) -> Path:
    job = make_job(inputs, work, program, resume_from=resume_from, **sections)
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(work / "events.jsonl"))
    return job.output


def film_section(stepwise: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"steps": 4, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2, "stepwise": stepwise, **more}


def place_weights(output: Path) -> Tensor:
    """The weights of the head that tells where, as saved."""
    return load_heads(output, 64)[0].state_dict()["where.weight"]


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


@pytest.mark.parametrize("trial", ["visual", "mixed"])
def test_a_resumed_run_in_micro_batches_goes_as_one_undisturbed_in_whole_batches(
    inputs: Path, tmp_path: Path, trial: str
) -> None:
    whole = trained(inputs, tmp_path / "whole", film=film_section(TRIALS[trial]))
    halves = film_section(TRIALS[trial], micro_batch_size=2, gradient_checkpointing=True)
    middle = tmp_path / "whole" / "scratch" / "checkpoints" / "step-00000003"
    resumed = trained(inputs, tmp_path / "resumed", film=halves, resume_from=middle)
    for name in ("loss", "where", "what", "where_accuracy", "gradient_norm"):
        assert curve(resumed, name) == pytest.approx(curve(whole, name), rel=1e-4), name
    first, second = (load_heads(output, 64)[0].state_dict() for output in (whole, resumed))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-4, rtol=1e-3)
    assert len(curve(whole, "what_accuracy_1")) == 1  # by the latent's number every tenth step


def test_the_heads_lie_beside_a_model_that_loads_and_answers_without_them(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path, film=film_section(TRIALS["labels"]))
    heads, names = load_heads(output, 64)
    examples = load_examples(inputs / "examples", split="train")
    cells = {json.dumps(cell) for example in examples for cell in example.auxiliary_image.details["cells"]}
    assert set(names["cells"]) == cells and set(names["kinds"]) == {'"ice"', '"goal"'}
    assert heads.settings == StepwiseSettings(**TRIALS["labels"])
    (output / HEADS_FILE).unlink()
    assert load_model(output).about["stage"] == "film"
    with pytest.raises(InputError, match="trained without stepwise grounding"):
        load_heads(output, 64)


def test_the_heads_are_trained_beside_adapters_too(inputs: Path, tmp_path: Path) -> None:
    section = film_section(TRIALS["labels"])
    model = {"lora": {"rank": 2}}
    short = trained(inputs, tmp_path / "1", film={**section, "steps": 1}, model=model)
    long = trained(inputs, tmp_path / "4", film=section, model=model)
    assert (place_weights(short) - place_weights(long)).abs().max() > 1e-4
    with safe_open(long / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "step_heads" in name]  # noqa: SIM118 -- no mapping


def test_the_best_heads_are_kept_with_the_best_weights(inputs: Path, tmp_path: Path) -> None:
    section = film_section(TRIALS["labels"], learning_rate=0.5, warmup_steps=1, max_loss_ratio=None)
    output = trained(inputs, tmp_path, film={**section, "validation": {"every": 1, "keep_best": True}})
    kept = json.loads((output / "mirage.json").read_text())["history"][-1]["kept_step"]
    losses = curve(output, "validation/loss")
    assert kept == losses.index(min(losses)) == 0  # a rate of 0.5 makes it worse with every step
    assert place_weights(output).abs().max() < 0.2  # as they were at first, not after such steps


def test_relaxation_takes_stepwise_grounding_only_where_it_is_asked_for(inputs: Path, tmp_path: Path) -> None:
    plain = trained(inputs, tmp_path / "plain", "relaxation", relaxation={"steps": 2})
    assert not (plain / HEADS_FILE).exists() and not curve(plain, "where")
    asked = {"steps": 2, "stepwise": TRIALS["labels"]}
    film = {"film": "forward"}
    stepwise = trained(inputs, tmp_path / "stepwise", "relaxation", relaxation=asked, auxiliary_images=film)
    assert (stepwise / HEADS_FILE).exists() and len(curve(stepwise, "where")) == 2
    assert "stepwise" not in RelaxationSettings().model_dump()


def test_examples_without_frames_are_refused_with_the_way_out(inputs: Path, tmp_path: Path) -> None:
    model, settings = load_model(inputs / "model"), small_settings()
    examples = load_examples(inputs / "examples", split="train")
    bare = [replace(e, auxiliary_image=replace(e.auxiliary_image, frames=())) for e in examples]
    save_examples(tmp_path / "examples.parquet", bare)
    films = FilmData(bare, "train", range(len(bare)), tmp_path, tmp_path / "scratch")
    with pytest.raises(DataError, match=r"auxiliary_images\.film to forward"):
        make_stepwise(VISUAL, settings, model, films, 7)


def test_spans_as_long_as_their_films_learn_where_to_end_in_any_micro_batches(inputs: Path, tmp_path: Path) -> None:
    latent = {"length": "frames", "end": "free", "max_latents": 4}
    outputs = [
        trained(
            inputs,
            tmp_path / str(size),
            film=film_section(TRIALS["labels"], micro_batch_size=size),
            latent=latent,
            auxiliary_images={"film": "forward"},
        )
        for size in (6, 2)
    ]
    for name in ("loss", "end", "end_accuracy", "where", "where_accuracy"):
        whole, parts = (curve(output, name) for output in outputs)
        assert len(whole) == 4 and whole == pytest.approx(parts, rel=1e-4), name
    examples = load_examples(inputs / "examples", split="train")
    assert len({example.auxiliary_image.details["frames"] for example in examples}) > 2
