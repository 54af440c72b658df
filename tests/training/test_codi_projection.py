"""CODI with the authors' projection between hidden states and what is fed, and with SIM-CoT's step decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, log_softmax

from mirage_core.generation.decode import decode
from mirage_core.generation.generator import Generator
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.reasoning_steps import FRAME_END
from mirage_core.model.features import with_features
from mirage_core.model.loading import load_model
from mirage_core.model.readout import READOUT_FILE
from mirage_core.pipeline.stages.train import TRAIN
from mirage_core.store.records import load_problems
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.beside import beside_of
from mirage_core.training.sft.codi import distillation
from mirage_core.training.sft.examples import training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.step_decoder import END
from mirage_core.training.sft.train import load_trainable
from tests.training.small_world import quiet, rank_micro_batches, small_settings
from tests.training.test_coconut import checkpoint, curve, rolled_out
from tests.training.test_codi import job_of, outputs_of_layers, trained

CHOSEN: dict[str, Any] = {"projection": 24, "step_decoder": {"width": 32, "layers": 1, "weight": 0.5}}


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(inputs, tmp_path_factory.mktemp("projected") / "whole", **CHOSEN)


def by_definition(weights: dict[str, Tensor], state: Tensor) -> Tensor:
    """Linear, GELU, linear, LayerNorm (CODI's ``prj``)."""
    inner = gelu(state @ weights["head.0.weight"].T + weights["head.0.bias"])
    outer = inner @ weights["head.2.weight"].T + weights["head.2.bias"]
    return layer_norm(outer, outer.shape[-1:], weights["head.3.weight"], weights["head.3.bias"])


def test_loss_and_gradients_are_those_of_the_definition(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path, micro_batch_size=2, gradient_checkpointing=True, **CHOSEN)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    beside = beside_of(job, model, data, steps)
    rows, readout, decoding, backbone = beside.teacher_rows, beside.readout, beside.step_decoding, model.backbone
    assert rows is not None and readout is not None and decoding is not None
    objective = SupervisedObjective("codi", job.settings, model, data, beside)
    assert objective.modules().keys() == {"latent_readout", "step_decoder"}
    batches = rank_micro_batches(objective, 0, 0, 1)
    totals, names = total_counts(batches), ("text", "teacher", "distillation", "explain")
    found = dict.fromkeys(names, 0.0)
    for batch in batches:
        loss = objective.loss(backbone, batch.data, totals)
        loss.total.backward()
        found = {name: value + float(loss.parts[name]) for name, value in found.items()}
    trained_weights = {**dict(backbone.named_parameters()), **dict(readout.named_parameters())}
    gradients = {name: one.grad.clone() for name, one in trained_weights.items() if one.grad is not None}
    assert set(gradients) >= {f"head.{layer}.weight" for layer in (0, 2, 3)}
    for module in (backbone, readout):
        module.zero_grad()
    weights = dict(readout.named_parameters())
    terms: dict[str, list[Tensor]] = {name: [] for name in names}
    for index in data.order.batch(0):
        student, kept_states = data.source.get(index), []
        tasks = zip(("text", "teacher"), (student, rows.row(index, student)), rows.before_answer(index), strict=True)
        for name, row, from_end in tasks:
            place = len(row.ids) - from_end
            with outputs_of_layers(backbone) as seen:
                hidden, latents = rolled_out(backbone, row, model.ids, lambda state: by_definition(weights, state))
            between = [output[0, place] for output in seen[-len(backbone.layers) : -1]]
            kept_states.append(torch.stack([backbone.embed_text(row.ids[None])[0, place], *between, hidden[place]]))
            scores = log_softmax(backbone.logits(hidden[:-1]), dim=-1)
            terms[name] += [-scores[at, token] for at, token in enumerate(row.labels[1:].tolist()) if token != -100]
            said = rows.explained_at(index, 0) if name == "text" else []
            assert len(said) == len(latents)
            for number, text in enumerate(said):
                tokens = model.processor.tokenizer(text, add_special_tokens=False).input_ids
                numbers = torch.tensor([*(decoding.words[token] for token in tokens), END])
                logits = decoding.decoder(latents[None, number : number + 1], numbers[None])[0]
                terms["explain"].append(-log_softmax(logits, dim=-1)[range(len(numbers)), numbers].mean())
        terms["distillation"].append(distillation(kept_states[0][:, None], kept_states[1][:, None]))
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    assert found == {name: pytest.approx(value.item(), abs=1e-5) for name, value in means.items()}
    (means["text"] + 0.5 * means["teacher"] + 3.0 * means["distillation"] + 0.5 * means["explain"]).backward()
    for name, gradient in gradients.items():
        theirs = trained_weights[name].grad
        assert theirs is not None
        torch.testing.assert_close(gradient, theirs, atol=5e-5, rtol=5e-4)


def test_steps_are_said_by_a_latent_each_and_the_last_says_the_rest(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path, **CHOSEN)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    rows = beside_of(job, model, data, steps).teacher_rows
    assert rows is not None
    for index, example in enumerate(data.examples):
        frames = example.chain.caption.split(FRAME_END)
        said = rows.explained_at(index, 0)
        assert len(said) == 2 and said[0] == f"{frames[0]}{FRAME_END * (len(frames) > 1)}".strip()
        assert said[1] == (FRAME_END.join(frames[1:]) if len(frames) > 1 else f"\\boxed{{{example.problem.answer}}}")


def test_answers_are_fed_as_in_training(inputs: Path, whole: Path) -> None:
    model = load_model(whole)
    weights = load_file(whole / READOUT_FILE)
    generator = Generator.for_evaluation(model, small_settings(evaluation={"max_new_tokens": 6}), method="codi")
    problem = load_problems(inputs / "problems")[0]
    model.backbone.freeze_vision()
    (prompt,) = with_features(model.backbone, [generator.encoder.prompt(problem)])
    start = torch.tensor([model.ids.latent_start])
    begun = replace(prompt, ids=torch.cat([prompt.ids, start]))
    ((trajectory,),) = decode(model.backbone, [begun], model.ids, generator.decoding, readout=model.readout)
    assert sum(len(latents) for latents in trajectory.latents) == 2
    row = encode_rollout(begun, trajectory.token_ids, trajectory.spans, trajectory.sampled, model.ids)
    _, latents = rolled_out(model.backbone, row, model.ids, lambda state: by_definition(weights, state))
    torch.testing.assert_close(torch.cat(trajectory.latents), latents, atol=1e-5, rtol=1e-4)


def test_it_resumes_to_the_same_bits_and_keeps_the_projection_alone(inputs: Path, whole: Path, tmp_path: Path) -> None:
    again = trained(inputs, tmp_path / "again", resume_from=checkpoint(whole, 3), **CHOSEN)
    for name in ("model.safetensors", READOUT_FILE):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in whole.glob("*.safetensors")} == {"model.safetensors", READOUT_FILE}
    cut = trained(inputs, tmp_path / "cut", micro_batch_size=1, gradient_checkpointing=True, **CHOSEN)
    for name in ("loss", "explain", "distillation", "gradient_norm"):
        assert curve(cut, name) == pytest.approx(curve(whole, name), rel=2e-4, abs=1e-6), name


def test_settings_that_are_off_change_no_identity_and_a_projection_needs_hidden_states() -> None:
    plain, chosen = small_settings(), small_settings(codi=CHOSEN)
    of_film = {"captions": {"of": "film"}, "auxiliary_images": {"film": "forward"}}
    assert "projection" not in plain.codi.model_dump() and "captions_of" not in TRAIN["codi"].identity(plain)
    assert TRAIN["codi"].identity(chosen)["captions_of"] == "image"
    assert small_settings(**of_film, codi=CHOSEN).codi.reads_steps
    with pytest.raises(ValidationError, match=r"latent.input is blank, and codi.projection reads"):
        small_settings(codi=CHOSEN, latent={"input": "blank"}, evaluation={"methods": ["codi"]})
