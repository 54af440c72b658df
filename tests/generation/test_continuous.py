"""Rows that join and leave a decoding in progress answer as they do alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mirage_core.analysis.intervened_generation import replace_latents
from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.continuous import ContinuousDecoder, RowSettings, RowStep
from mirage_core.generation.decode import DecodeSettings, Step, Trajectory, decode
from mirage_core.generation.interventions import Interventions
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from mirage_core.model.readout import new_readout
from tests.latent.tiny import HIDDEN, IDS, KINDS, TEXT_IDS, Maker, tiny_backbone

RARE = tuple(range(14, TEXT_IDS))
BASE = DecodeSettings(max_new_tokens=14, num_latents=3, max_latents=4, max_spans=2, banned=RARE)
MODELS = {
    "exact": BASE,
    "free": replace(BASE, end="free"),
    "open": replace(BASE, end="open"),
    "blank": replace(BASE, latent_input="blank"),
    "image norm": replace(BASE, feed_norm="image"),
    "latent_kv": replace(BASE, bottleneck="latent_kv", end="free"),
    "image": replace(BASE, bottleneck="image"),
}
"""What models differ in."""


def prompts() -> list[EncodedPrompt]:
    """Eight of different lengths; every other one ends in latent_start."""
    make, begun = Maker(11), torch.tensor([IDS.latent_start])
    sizes = [(5, [(2, 2)], 3), (9, [(3, 2), (2, 2)], 7), (2, [(2, 2)], 1), (4, [(4, 4)], 2)]
    made = [make.prompt(*size) for size in sizes * 2]
    return [replace(one, ids=torch.cat([one.ids, begun])) if row % 2 else one for row, one in enumerate(made)]


def rows() -> list[RowSettings]:
    """The settings of each prompt's row: lengths, temperatures and top-p that differ."""
    numbers = torch.Generator().manual_seed(3)
    kinds = [(0.0, 1.0, 14), (1.0, 0.9, 9), (1.0, 1.0, 14), (0.7, 1.0, 3), (0.0, 1.0, 20), (2.0, 0.8, 11)]
    chosen = [kinds[index % len(kinds)] for index in range(8)]
    return [
        RowSettings(
            max_new_tokens=length,
            temperature=temperature,
            top_p=top_p,
            uniform=torch.rand(length, dtype=torch.float64, generator=numbers) if temperature else None,
        )
        for temperature, top_p, length in chosen
    ]


def alone(
    settings: DecodeSettings,
    prompt: EncodedPrompt,
    row: RowSettings,
    *,
    backbone: Backbone | None = None,
    readout: nn.Module | None = None,
) -> Trajectory:
    """What ``decode`` gives for one prompt."""
    own = replace(settings, max_new_tokens=row.max_new_tokens, temperature=row.temperature, top_p=row.top_p)
    uniform = None if row.uniform is None else row.uniform[None]
    return decode(backbone or tiny_backbone(), [prompt], IDS, own, uniform=uniform, readout=readout)[0][0]


def run(decoder: ContinuousDecoder, arrivals: Sequence[int], *, leave: Sequence[int] = ()) -> dict[int, Trajectory]:
    """Decode: prompt i joins before step ``arrivals[i]``; those of ``leave`` go two steps later."""
    asked, settings, answers, numbers = prompts(), rows(), dict[int, Trajectory](), dict[int, int]()
    for step in range(400):
        for index in [index for index, at in enumerate(arrivals) if at == step]:
            ((number,),) = decoder.join([asked[index]], [[settings[index]]])
            numbers[number] = index
        decoder.leave([number for number, index in numbers.items() if index in leave and step == arrivals[index] + 2])
        for each in decoder.step():
            assert numbers[each.row] not in leave or step < arrivals[numbers[each.row]] + 2
            if each.answer is not None:
                answers[numbers[each.row]] = each.answer
        if step > max(arrivals) and not decoder.running:
            return answers
    raise AssertionError("rows do not end")


def check_same(found: Trajectory, expected: Trajectory) -> None:
    assert found.token_ids == expected.token_ids
    assert found.spans == expected.spans
    assert (found.finished, found.sampled) == (expected.finished, expected.sampled)
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
    for mine, its in zip(found.latents, expected.latents, strict=True):
        torch.testing.assert_close(mine, its, atol=5e-5, rtol=0)


@pytest.mark.parametrize("arrivals", [[0] * 8, list(range(0, 16, 2)), [0, 3, 3, 4, 9, 9, 40, 60]])
@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_each_prompt_alone_whenever_it_joins(kind: str, arrivals: Sequence[int]) -> None:
    settings = MODELS[kind]
    found = run(ContinuousDecoder(tiny_backbone(), IDS, settings), arrivals)
    assert len(found) == 8
    assert sum(len(one.spans) for one in found.values()) >= 5
    for index, (prompt, row) in enumerate(zip(prompts(), rows(), strict=True)):
        check_same(found[index], alone(settings, prompt, row))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_and_attention_answers_alike(kind: str, attention: str) -> None:
    backbone = tiny_backbone(attention, kind)
    found = run(ContinuousDecoder(backbone, IDS, BASE), [0, 3, 3, 4, 9, 9, 40, 60])
    for index, (prompt, row) in enumerate(zip(prompts(), rows(), strict=True)):
        check_same(found[index], alone(BASE, prompt, row, backbone=backbone))


@pytest.mark.parametrize("end", ["exact", "near"])
def test_a_model_with_a_head_and_a_stop_vector_answers_alike(end: str) -> None:
    settings = replace(BASE, end=end, max_latents=5, near=0.9625)  # type: ignore[arg-type]
    backbone = tiny_backbone()
    readout = new_readout(backbone.hidden_size, 16, "glu", stops=True, seed=2, dtype=torch.float32)
    found = run(ContinuousDecoder(backbone, IDS, settings, readout=readout), [0, 3, 3, 4, 9, 9, 40, 60])
    for index, (prompt, row) in enumerate(zip(prompts(), rows(), strict=True)):
        check_same(found[index], alone(settings, prompt, row, readout=readout))
    lengths = {span.num_latents for one in found.values() for span in one.spans}
    assert lengths == {3} if end == "exact" else len(lengths) > 1


def test_rows_that_run_long_after_others_have_ended_answer_alike() -> None:
    settings = replace(BASE, banned=(*RARE, IDS.end_of_turn, IDS.pad), max_spans=1)
    decoder = ContinuousDecoder(tiny_backbone(), IDS, settings)
    asked = [Maker(5).prompt(60, [], 1), *prompts()[1:]]  # the positions of the first end where the others' do
    lengths = [2, *[50] * 7]
    own = [RowSettings(max_new_tokens=length) for length in lengths]
    numbers = [decoder.join([prompt], [[row]])[0][0] for prompt, row in zip(asked, own, strict=True)]
    found = {}
    while decoder.running:
        found |= {each.row: each.answer for each in decoder.step() if each.answer is not None}
    for number, prompt, row in zip(numbers, asked, own, strict=True):
        check_same(found[number], alone(settings, prompt, row))


@pytest.mark.parametrize("kind", ["free", "latent_kv"])
def test_rows_that_leave_change_no_other_answer(kind: str) -> None:
    settings = MODELS[kind]
    found = run(ContinuousDecoder(tiny_backbone(), IDS, settings), [0, 0, 1, 2, 3, 5, 5, 6], leave=(0, 1, 4))
    assert sorted(found) == [2, 3, 5, 6, 7]
    for index, answer in found.items():
        check_same(answer, alone(settings, prompts()[index], rows()[index]))


@pytest.mark.parametrize("kind", ["exact", "latent_kv"])
def test_samples_share_one_prefill_and_prompts_join_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, backbone = MODELS[kind], tiny_backbone()
    drawn = replace(settings, temperature=1.0, samples=3)
    asked = prompts()[:3]
    uniform = torch.rand(9, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    own = [RowSettings(max_new_tokens=14, temperature=1.0, uniform=numbers) for numbers in uniform]
    decoder = ContinuousDecoder(backbone, IDS, settings)
    numbers = decoder.join(asked, [own[:3], own[3:6], own[6:]])
    found = {}
    while decoder.running:
        found |= {each.row: each.answer for each in decoder.step() if each.answer is not None}
    expected = decode(backbone, asked, IDS, drawn, uniform=uniform)
    for group, answers in zip(numbers, expected, strict=True):
        for number, answer in zip(group, answers, strict=True):
            check_same(found[number], answer)


def test_the_cache_holds_no_column_of_rows_that_have_left() -> None:
    for kind in ("exact", "latent_kv"):
        decoder, settings = ContinuousDecoder(tiny_backbone(), IDS, MODELS[kind]), rows()[0]
        lengths = []
        for at in range(60):  # a row joins every fourth step, and each runs for at most 14 tokens and 9 latents
            if at % 4 == 0:
                decoder.join([prompts()[0]], [[settings]])
            decoder.step()
            assert decoder._running is not None
            lengths.append(decoder._running[0]._cache.length)
        assert max(lengths[30:]) <= len(prompts()[0].ids) + 14 + 9 + 4


def all_steps(decoder: ContinuousDecoder, own: Sequence[RowSettings]) -> dict[int, list[RowStep]]:
    """The steps of each prompt's row; every one joins a step after the one before."""
    numbers: dict[int, int] = {}
    found: dict[int, list[RowStep]] = {index: [] for index in range(len(own))}
    for index, row in enumerate(own):
        ((number,),) = decoder.join([prompts()[index]], [[row]])
        numbers[number] = index
        for step in decoder.step():
            found[numbers[step.row]].append(step)
    while decoder.running:
        for step in decoder.step():
            found[numbers[step.row]].append(step)
    return found


@pytest.mark.parametrize("kind", ["exact", "free", "latent_kv", "image norm"])
def test_rows_are_fed_the_latents_that_they_are_given(kind: str) -> None:
    """As the interventions of analysis feed them: the first of a row, over all spans; the others are its own."""
    settings = MODELS[kind]
    given = torch.randn(8, 4, HIDDEN, generator=torch.Generator().manual_seed(4))
    own = [replace(row, latents=None if index % 4 == 3 else given[index]) for index, row in enumerate(rows())]
    steps = all_steps(ContinuousDecoder(tiny_backbone(), IDS, settings), own)
    changed = 0
    for index, (prompt, row) in enumerate(zip(prompts(), own, strict=True)):
        expected = alone(settings, prompt, row)
        if row.latents is not None:
            unchanged, expected = expected, exchanged(settings, prompt, row, given, index)
            changed += unchanged.token_ids != expected.token_ids
        answer = steps[index][-1].answer
        assert answer is not None
        check_same(answer, expected)
        fed = [step.latent for step in steps[index] if step.latent is not None]
        for mine, its in zip(fed, [one for span in expected.latents for one in span], strict=True):
            torch.testing.assert_close(mine, its, atol=5e-5, rtol=0)
    assert changed >= 2


def exchanged(
    settings: DecodeSettings, prompt: EncodedPrompt, row: RowSettings, given: torch.Tensor, index: int
) -> Trajectory:
    """What ``decode`` gives where analysis feeds the latents of instance ``index``."""
    own = replace(settings, max_new_tokens=row.max_new_tokens, temperature=row.temperature, top_p=row.top_p)
    uniform = None if row.uniform is None else row.uniform[None]
    changes = Interventions(latents=replace_latents(given, np.array([index])))
    return decode(tiny_backbone(), [prompt], IDS, own, uniform=uniform, interventions=changes)[0][0]


@pytest.mark.parametrize("kind", ["exact", "free"])
def test_the_likeliest_tokens_are_told_before_top_p_and_without_the_banned(kind: str) -> None:
    settings = MODELS[kind]
    own = [replace(row, top=index % 4) for index, row in enumerate(rows())]
    steps = all_steps(ContinuousDecoder(tiny_backbone(), IDS, settings), own)
    for index, (prompt, row) in enumerate(zip(prompts(), own, strict=True)):
        expected = likeliest(settings, prompt, row)
        tokens = [step for step in steps[index] if not step.is_latent]
        assert len(tokens) == len(expected)
        for step, best in zip(tokens, expected, strict=True):
            if best is None:
                assert step.top == ()
                continue
            assert [token for token, _ in step.top] == [token for token, _ in best]
            assert [value for _, value in step.top] == pytest.approx([value for _, value in best], abs=1e-4)
            same = [value for token, value in step.top if token == step.token]
            assert settings.end == "free" or not same or same == [step.log_prob]
        if row.top and not row.temperature:
            assert all(step.top[0][0] == step.token for step in tokens if step.top)


def likeliest(
    settings: DecodeSettings, prompt: EncodedPrompt, row: RowSettings
) -> list[tuple[tuple[int, float], ...] | None]:
    """The likeliest allowed tokens at each text token of a row, by the raw logits of ``decode``; None: forced."""
    found: list[tuple[tuple[int, float], ...] | None] = []
    starts = int((prompt.ids == IDS.latent_start).sum())
    state = {"starts": starts, "inside": bool(prompt.ids[-1] == IDS.latent_start)}
    banned = (IDS.image_pad, IDS.video_pad, IDS.latent_pad, *IDS.latent_queries, *settings.banned)

    def observe(step: Step) -> None:
        if step.inputs.is_latent[0]:
            return
        token = int(step.inputs.tokens[0])
        if step.inputs.forced[0] or step.logits is None:
            found.append(None)
        else:
            scores = step.logits[0].double() / (row.temperature or 1.0)
            scores[list(banned)] = float("-inf")
            if state["starts"] >= settings.max_spans:
                scores[IDS.latent_start] = float("-inf")
            if not state["inside"]:
                scores[IDS.latent_end] = float("-inf")
            best = scores.log_softmax(-1).topk(row.top)
            found.append(tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        state["inside"] = token == IDS.latent_start
        state["starts"] += state["inside"]

    own = replace(settings, max_new_tokens=row.max_new_tokens, temperature=row.temperature, top_p=row.top_p)
    uniform: Any = None if row.uniform is None else row.uniform[None]
    decode(tiny_backbone(), [prompt], IDS, own, observe=observe, uniform=uniform)
    return found


def test_an_empty_decoder_does_nothing_and_takes_rows_again() -> None:
    decoder = ContinuousDecoder(tiny_backbone(), IDS, BASE)
    assert decoder.step() == []
    first = run(decoder, [0] * 8)
    assert decoder.running == 0 and decoder.step() == []
    again = run(decoder, [1] * 8)
    assert [first[index].token_ids for index in range(8)] == [again[index].token_ids for index in range(8)]


def test_what_cannot_be_exact_is_refused() -> None:
    with pytest.raises(SettingsError, match="latent_only"):
        ContinuousDecoder(tiny_backbone(), IDS, replace(BASE, bottleneck="latent_only"))
    decoder = ContinuousDecoder(tiny_backbone(), IDS, BASE)
    with pytest.raises(InputError, match="uniform numbers"):
        decoder.join(prompts()[:1], [[RowSettings(max_new_tokens=4, temperature=1.0)]])
    with pytest.raises(InputError, match="max_new_tokens"):
        decoder.join(prompts()[:1], [[RowSettings(max_new_tokens=0)]])
    with pytest.raises(InputError, match=r"shape \(2, 7\), expected \(number, 64\)"):
        decoder.join(prompts()[:1], [[RowSettings(max_new_tokens=4, latents=torch.zeros(2, 7))]])
    with pytest.raises(InputError, match="give each as many"):
        decoder.join(prompts()[:2], [[RowSettings(max_new_tokens=4)]])
    assert decoder.running == 0
