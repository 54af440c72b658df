"""Answers that share their prompt: the same hidden states and gradients as whole rows, each prompt encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.collate_answers import AnswerBatch, collate_answers
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import answers_forward, relaxation_forward, replay_forward
from tests.latent.tiny import IDS, KINDS, Maker, tiny_backbone

CLOSE = {"atol": 5e-5, "rtol": 0.0}
Groups = list[tuple[EncodedPrompt, list[EncodedExample]]]


def some_groups(seed: int = 0) -> Groups:
    """Prompts of several lengths with none, one and two images; answers with late, early, no and two spans."""
    make = Maker(seed)
    long, plain, two = make.prompt(9, [(3, 4)], 11), make.prompt(6, [], 2), make.prompt(3, [(4, 2), (2, 2)], 4)
    return [
        (long, [make.example(long, (0, 6)), make.example(long, (7, 3), 2), make.example(long, (5,))]),
        (plain, [make.example(plain, (2, 4, 5))]),
        (two, [make.example(two, (3, 9)), make.example(two, (12,))]),
    ]


def shared(backbone: Backbone, groups: Groups) -> AnswerBatch:
    return collate_answers(groups, IDS, backbone.position_ids)


def full(backbone: Backbone, groups: Groups) -> LatentBatch:
    return collate([answer for _, answers in groups for answer in answers], IDS, backbone.position_ids)


def weighed(backbone: Backbone, batch: LatentBatch, hidden: Tensor) -> Tensor:
    chosen = batch.labels != -100
    return backbone.logits(hidden[chosen]).log_softmax(-1).gather(-1, batch.labels[chosen][:, None]).sum()


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


def check_gradients(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (result[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


@contextmanager
def tokens_in_layers(backbone: Backbone) -> Iterator[list[int]]:
    """How many tokens each call of the first decoder layer's MLP was given."""
    counted: list[int] = []
    mlp = backbone.model.model.language_model.layers[0].mlp
    handle = mlp.register_forward_pre_hook(lambda _, given: counted.append(given[0].shape[:-1].numel()))
    try:
        yield counted
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_that_share_a_prompt_have_the_hidden_states_of_whole_rows(attention: str, kind: str) -> None:
    backbone, groups = tiny_backbone(attention, kind), some_groups()
    batch, rows = shared(backbone, groups), full(backbone, groups)
    hidden, expected = answers_forward(backbone, batch), relaxation_forward(backbone, rows).hidden
    for row in range(rows.rows):
        result = hidden[row][batch.answers.attention_mask[row]]
        torch.testing.assert_close(result, expected[row][rows.attention_mask[row]][-len(result) :], **CLOSE)
        assert torch.equal(
            batch.answers.position_ids[:, row][:, batch.answers.attention_mask[row]],
            rows.position_ids[:, row][:, rows.attention_mask[row]][:, -len(result) :],
        )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_share_a_prompt_have_the_gradients_of_whole_rows(kind: str, checkpointing: bool) -> None:
    backbone, groups = tiny_backbone("sdpa", kind), some_groups(1)
    batch, rows = shared(backbone, groups), full(backbone, groups)
    together = weighed(backbone, batch.answers, answers_forward(backbone, batch, checkpointing=checkpointing))
    apart = weighed(backbone, rows, relaxation_forward(backbone, rows).hidden)
    assert together.item() == pytest.approx(apart.item(), abs=1e-3)
    check_gradients(gradients(backbone, together), gradients(backbone, apart))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_recorded_latents_are_replayed_behind_a_shared_prompt(checkpointing: bool) -> None:
    backbone, groups = tiny_backbone(), some_groups(2)
    batch, rows = shared(backbone, groups), full(backbone, groups)
    lengths = rows.span_lengths.tolist()
    recorded = [
        torch.randn(length, backbone.hidden_size, generator=torch.Generator().manual_seed(3)) for length in lengths
    ]
    hidden = answers_forward(backbone, batch, recorded, checkpointing=checkpointing)
    result = gradients(backbone, weighed(backbone, batch.answers, hidden))
    expected = replay_forward(backbone, rows, recorded, checkpointing=checkpointing)
    check_gradients(result, gradients(backbone, weighed(backbone, rows, expected)))


def test_every_prompt_is_encoded_once_for_all_its_answers() -> None:
    backbone, groups = tiny_backbone(), some_groups()
    batch = shared(backbone, groups)
    prompts = sum(len(prompt.ids) - 1 for prompt, _ in groups)
    answers = sum(len(answer.ids) - len(prompt.ids) + 1 for prompt, group in groups for answer in group)
    with tokens_in_layers(backbone) as counted:
        answers_forward(backbone, batch)
    assert counted[0] == prompts
    assert sum(counted) == prompts + answers


def test_an_answer_to_another_prompt_is_refused() -> None:
    backbone, make = tiny_backbone(), Maker(0)
    with pytest.raises(InputError, match="does not begin with it"):
        shared(backbone, [(make.prompt(), [make.example(make.prompt())])])


def test_a_prompt_of_one_token_cannot_be_shared() -> None:
    backbone, make = tiny_backbone(), Maker(0)
    prompt = make.prompt(1, [], 0)
    with pytest.raises(InputError, match="two to be shared"):
        shared(backbone, [(prompt, [make.example(prompt)])])
