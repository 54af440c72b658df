"""SIM-CoT's step decoder: what latents must say, its loss by definition, and its training beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax

from mirage_core.config import StepDecoderSettings
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.beside import Beside, curriculum_of, step_decoding_of
from mirage_core.training.sft.examples import training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.step_decoder import END, UNKNOWN, Explanations, StepDecoder, StepDecoding, step_texts
from mirage_core.training.sft.train import load_trainable
from tests.latent.tiny import HIDDEN
from tests.training.small_world import quiet, rank_micro_batches
from tests.training.test_coconut import checkpoint, curve, job_of, rolled_out, trained

DECODER: dict[str, Any] = {"width": 32, "layers": 2, "weight": 0.5}


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained through all stages with a decoder beside it."""
    return trained(inputs, tmp_path_factory.mktemp("decoded") / "whole", step_decoder=DECODER)


def test_a_group_of_latents_says_its_step_the_answer_or_all_that_remain() -> None:
    steps = ["one, ", "two, ", "three"]
    assert step_texts(steps, "A", 2, rest=False) == ["one,", "two,"]
    assert step_texts(steps, "A", 2, rest=True) == ["one,", "two, three"]
    assert step_texts(steps, "A", 3, rest=True) == ["one,", "two,", "three"]
    assert step_texts(steps, "A", 5, rest=True) == ["one,", "two,", "three", "A", "A"]
    assert step_texts(steps, "A", 0, rest=True) == []


def new_decoder(width: int, known: int = 11) -> StepDecoder:
    torch.manual_seed(4)
    return StepDecoder(HIDDEN, known, StepDecoderSettings(width=width))


@pytest.mark.parametrize("width", [32, 128])
def test_the_decoder_is_causal_and_no_step_depends_on_others(width: int) -> None:
    decoder, latents = new_decoder(width), torch.randn(3, 2, HIDDEN)
    steps = torch.randint(1, 11, (3, 6))
    with torch.no_grad():
        whole = decoder(latents, steps)
        assert whole.shape == (3, 6, 11)
        torch.testing.assert_close(decoder(latents[1:2], steps[1:2, :4]), whole[1:2, :4], atol=1e-5, rtol=1e-4)
        changed = steps.clone()
        changed[:, 3] = (changed[:, 3] + 1) % 11
        after = decoder(latents, changed)
        assert torch.equal(after[:, :4], whole[:, :4]) and not torch.allclose(after[:, 4:], whole[:, 4:], atol=1e-3)
        moved = latents.clone()
        moved[:, 1] += 1.0
        assert ((decoder(moved, steps) - whole).abs().amax(-1) > 1e-4).all()


def test_the_loss_is_a_mean_over_steps_of_known_tokens_and_flows_into_the_latents() -> None:
    decoder = new_decoder(32)
    latents = torch.randn(2, 4, HIDDEN, requires_grad=True)
    steps = torch.tensor([[5, 6, END, -100], [7, END, -100, -100], [5, UNKNOWN, 8, END]])
    laid_out = Explanations(decoder, 1.0, 2, torch.tensor([0, 0, 1]), torch.tensor([0, 2, 2]), steps)
    found = laid_out.parts(latents)
    expected, right = [], []
    for group, tokens in zip((latents[0, :2], latents[0, 2:], latents[1, 2:]), steps, strict=True):
        own = tokens[tokens >= 0]
        scores = log_softmax(decoder(group[None], own[None])[0], dim=-1)
        terms = [-scores[at, token] for at, token in enumerate(own.tolist()) if token != UNKNOWN]
        expected.append(torch.stack(terms).mean())
        guessed = scores.argmax(-1)
        known = own != UNKNOWN
        right.append(float((guessed == own)[known].float().mean()))
    assert found["explain"].item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)
    assert found["explain_accuracy"].item() == pytest.approx(sum(right) / 3, abs=1e-6)
    found["explain"].backward()
    assert latents.grad is not None
    assert (latents.grad[0].abs().amax(-1) > 0).all() and (latents.grad[1, :2] == 0).all()


def test_without_a_step_the_loss_is_nothing_but_the_decoder_has_run() -> None:
    decoder = new_decoder(32)
    nothing = Explanations(decoder, 1.0, 2, torch.empty(0).long(), torch.empty(0).long(), torch.empty(0, 1).long())
    found = nothing.parts(torch.empty(0, 0, HIDDEN))
    assert found["explain"].item() == 0 and nothing.count == 0
    found["explain"].backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in decoder.parameters())


@pytest.mark.parametrize("step", [3, 7])
def test_loss_and_gradients_are_those_of_the_definition(inputs: Path, tmp_path: Path, step: int) -> None:
    job = job_of(inputs, tmp_path, micro_batch_size=4, step_decoder=DECODER)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    curriculum = curriculum_of(job, model, data.examples, steps)
    assert curriculum is not None
    decoding = step_decoding_of(job, model, curriculum)
    assert decoding is not None
    objective = SupervisedObjective(
        "coconut", job.settings, model, data, Beside(curriculum=curriculum, step_decoding=decoding)
    )
    assert objective.modules() == {"step_decoder": decoding.decoder}
    batches = rank_micro_batches(objective, step, 0, 1)
    totals, found, explained = total_counts(batches), 0.0, 0.0
    for batch in batches:
        loss = objective.loss(model.backbone, batch.data, totals)
        loss.total.backward()
        found, explained = found + float(loss.parts["text"]), explained + float(loss.parts["explain"])
    together = {
        name: weight.grad.clone() for name, weight in model.backbone.named_parameters() if weight.grad is not None
    }
    model.backbone.zero_grad()
    losses, texts = [], []
    for index in data.order.batch(step):
        row = curriculum.row(index, step, data.source.get(index))
        hidden, latents = rolled_out(model.backbone, row, model.ids)
        scores = log_softmax(model.backbone.logits(hidden[:-1]), dim=-1)
        texts += [-scores[at, token] for at, token in enumerate(row.labels[1:].tolist()) if token != -100]
        said = curriculum.explained(index, curriculum.stage(index, step))
        assert 2 * len(said) == len(latents)
        for group, text in enumerate(said):
            ids = model.processor.tokenizer(text, add_special_tokens=False).input_ids
            numbers = torch.tensor([*(decoding.words[token] for token in ids), END])
            logits = decoding.decoder(latents[None, 2 * group : 2 * group + 2], numbers[None])[0]
            losses.append(-log_softmax(logits, dim=-1)[range(len(numbers)), numbers].mean())
    text, explain = torch.stack(texts).mean(), torch.stack(losses).mean()
    assert (found, explained) == (pytest.approx(text.item(), abs=1e-5), pytest.approx(explain.item(), abs=1e-5))
    (text + 0.5 * explain).backward()
    for name, weight in model.backbone.named_parameters():
        if name in together:
            assert weight.grad is not None
            torch.testing.assert_close(together[name], weight.grad, atol=5e-5, rtol=5e-4)


def test_tokens_that_no_training_example_has_are_unknown(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path, step_decoder=DECODER)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    curriculum = curriculum_of(job, model, data.examples, steps)
    assert curriculum is not None
    decoding = step_decoding_of(job, model, curriculum)
    assert isinstance(decoding, StepDecoding)
    for text in curriculum.all_explained():
        assert (decoding._numbers(text)[:-1] > UNKNOWN).all() and decoding._numbers(text)[-1] == END
    assert decoding._numbers("#").tolist() == [UNKNOWN, END]
    for index in range(len(data.examples)):
        for stage in range(4):
            assert set(curriculum.explained(index, stage)) <= curriculum.all_explained()


def test_it_is_resumed_to_the_same_bits_and_thrown_away(inputs: Path, whole: Path, tmp_path: Path) -> None:
    again = trained(inputs, tmp_path / "again", step_decoder=DECODER, resume_from=checkpoint(whole, 3))
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert curve(again, "explain") == curve(whole, "explain")
    assert curve(whole, "explain")[:2] == [0, 0] and min(curve(whole, "explain")[2:]) > 0  # no latents in stage 0
    assert [path.name for path in whole.glob("*.safetensors")] == ["model.safetensors"]


def test_micro_batches_and_checkpointing_change_nothing(inputs: Path, whole: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"micro_batch_size": 1, "gradient_checkpointing": True}
    cut = trained(inputs, tmp_path / "cut", step_decoder=DECODER, **chosen)
    for name in ("loss", "text", "explain", "explain_accuracy", "gradient_norm"):
        assert curve(cut, name) == pytest.approx(curve(whole, name), rel=2e-4, abs=1e-6), name


def test_the_decoder_learns(inputs: Path, tmp_path: Path) -> None:
    shares = {"first_share": 0.0, "last_share": 1.0, "schedule": "constant"}
    output = trained(inputs, tmp_path, step_decoder={**DECODER, "weight": 1.0}, **{**shares, "steps": 40})
    explained = curve(output, "explain")
    assert explained[-1] < 0.6 * explained[0]


def test_validation_uses_the_same_decoder(inputs: Path, tmp_path: Path) -> None:
    watched = trained(inputs, tmp_path, step_decoder=DECODER, validation={"every": 4, "examples": 2})
    measured = curve(watched, "validation/explain")
    assert len(measured) == 3 and measured[-1] < measured[0]
