"""Decoding under a bottleneck, against its definition and against what training computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mirage_core.config import EvaluationSettings, LatentSettings
from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.generation.generator import evaluation_decoding
from mirage_core.generation.hf_generate import latent_generate
from mirage_core.latent.bottleneck import attention_table
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import relaxation_forward, replay_forward
from mirage_core.training.grpo.log_probs import text_log_probs
from tests.generation.by_definition import recomputed
from tests.generation.stock import stock_answer
from tests.latent.tiny import IDS, KINDS, TEXT_IDS, Maker, tiny_backbone

RARE = tuple(range(14, TEXT_IDS))
GREEDY = DecodeSettings(max_new_tokens=18, num_latents=3, max_latents=5, max_spans=2, banned=RARE)
SAMPLED = replace(GREEDY, temperature=1.0, samples=5)
BOTTLENECKS = ("none", "latent_kv", "latent_only", "image")
HIDING = BOTTLENECKS[1:]


def prompts() -> list[EncodedPrompt]:
    """Ragged; two of them end in latent_start."""
    make, begun = Maker(11), torch.tensor([IDS.latent_start])
    made = [make.prompt(), make.prompt(9, [(3, 2), (2, 2)], 7), make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]
    return [replace(one, ids=torch.cat([one.ids, begun])) if row % 2 else one for row, one in enumerate(made)]


def drawn(
    settings: DecodeSettings, attention: str = "sdpa", kind: str = "qwen2_5_vl"
) -> list[tuple[EncodedPrompt, Trajectory]]:
    asked = prompts()
    numbers = torch.rand(
        len(asked) * settings.samples, settings.max_new_tokens, generator=torch.Generator().manual_seed(5)
    )
    found = decode(tiny_backbone(attention, kind), asked, IDS, settings, uniform=numbers)
    return [(prompt, one) for prompt, group in zip(asked, found, strict=True) for one in group]


def scores(logits: Tensor, answer: Trajectory, settings: DecodeSettings) -> Iterator[Tensor]:
    """Log-probabilities [V] of each text token after the bans, from raw logits [n, V]."""
    rules = sampling_rules(IDS, settings)
    started = int(bool(answer.spans) and answer.spans[0].position == 0)
    ends = {span.position for span in answer.spans}
    for place, raw in enumerate(logits):
        inside = torch.tensor([place in ends])
        yield rules.scores(raw[None], inside, torch.tensor([started]))[0].log_softmax(-1)
        started += answer.token_ids[place] == IDS.latent_start


@pytest.mark.parametrize("end", ["exact", "free"])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_sampled_answers_are_those_of_the_definition(bottleneck: str, end: str) -> None:
    settings = replace(SAMPLED, bottleneck=bottleneck, end=end)  # type: ignore[arg-type]
    backbone, answers = tiny_backbone(), drawn(settings)
    spans = Counter(len(one.spans) for _, one in answers)
    assert set(spans) == {0, 1, 2}
    assert len({len(one.token_ids) for _, one in answers}) > 4  # rows leave the batch at different times
    if end == "free":
        assert len({span.num_latents for _, one in answers for span in one.spans}) > 2
    with torch.no_grad():
        for prompt, one in answers:
            latents, logits = recomputed(backbone, prompt, one, attention_table(bottleneck))  # type: ignore[arg-type]
            for mine, its in zip(one.latents, latents, strict=True):
                torch.testing.assert_close(mine, its, atol=2e-5, rtol=0)
            rows = scores(torch.stack(logits), one, settings)
            found = [float(row[token]) for row, token in zip(rows, one.token_ids, strict=True)]
            by_token = [
                own and (end == "exact" or token != IDS.latent_end)  # a free end is of a span's whole length
                for own, token in zip(one.sampled, one.token_ids, strict=True)
            ]
            expected = [mine if own else its for own, mine, its in zip(by_token, found, one.log_probs, strict=True)]
            torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bottleneck", HIDING)
def test_long_answers_with_many_spans_are_those_of_the_definition(bottleneck: str) -> None:
    """The cache outgrows its buffers, in steps of one column and of reserved ones."""
    endless = (*RARE, IDS.end_of_turn, IDS.pad)
    settings = replace(SAMPLED, max_new_tokens=80, max_spans=9, samples=1, end="free", banned=endless)
    answers = drawn(replace(settings, bottleneck=bottleneck))  # type: ignore[arg-type]
    assert max(len(one.spans) for _, one in answers) > 5
    with torch.no_grad():
        for prompt, one in answers:
            latents, _ = recomputed(tiny_backbone(), prompt, one, attention_table(bottleneck))  # type: ignore[arg-type]
            for mine, its in zip(one.latents, latents, strict=True):
                torch.testing.assert_close(mine, its, atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bottleneck", HIDING)
def test_greedy_answers_are_those_of_the_definition(bottleneck: str, attention: str) -> None:
    settings = replace(GREEDY, bottleneck=bottleneck)  # type: ignore[arg-type]
    with torch.no_grad():
        for prompt, one in drawn(settings, attention):
            _, logits = recomputed(tiny_backbone(attention), prompt, one, attention_table(bottleneck))  # type: ignore[arg-type]
            best = [int(row.argmax()) for row in scores(torch.stack(logits), one, settings)]
            for token, own, likeliest in zip(one.token_ids, one.sampled, best, strict=True):
                assert not own or token == likeliest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["exact", "free"])
@pytest.mark.parametrize("bottleneck", HIDING)
def test_training_computes_what_decoding_did(bottleneck: str, end: str, kind: str) -> None:
    settings = replace(SAMPLED, bottleneck=bottleneck, end=end, temperature=1.3)  # type: ignore[arg-type]
    backbone, answers = tiny_backbone(kind=kind), drawn(settings, kind=kind)
    examples = [encode_rollout(prompt, one.token_ids, one.spans, one.sampled, IDS) for prompt, one in answers]
    batch = collate(examples, IDS, backbone.position_ids, bottleneck=bottleneck)  # type: ignore[arg-type]
    recorded = [latents for _, one in answers for latents in one.latents]
    with torch.no_grad():
        relaxed = relaxation_forward(backbone, batch)
        replayed = replay_forward(backbone, batch, recorded)
        for latents, length, expected in zip(relaxed.latents, batch.span_lengths.tolist(), recorded, strict=True):
            torch.testing.assert_close(latents[:length], expected, atol=5e-5, rtol=0)
        for hidden in (relaxed.hidden, replayed):
            log_probs = text_log_probs(backbone, batch, hidden, sampling_rules(IDS, settings))
            for row, (_, answer) in enumerate(answers):
                sampled = [number for number, chosen in zip(answer.log_probs, answer.sampled, strict=True) if chosen]
                recomputed = log_probs[row][batch.labels[row] != -100]
                torch.testing.assert_close(recomputed, torch.tensor(sampled), atol=1e-4, rtol=0)


@pytest.mark.parametrize("end", ["exact", "free"])
@pytest.mark.parametrize("bottleneck", HIDING)
def test_a_row_means_the_same_alone(bottleneck: str, end: str) -> None:
    settings = replace(SAMPLED, samples=3, bottleneck=bottleneck, end=end)  # type: ignore[arg-type]
    numbers = torch.rand(12, settings.max_new_tokens, generator=torch.Generator().manual_seed(1))
    asked, backbone = prompts(), tiny_backbone()
    together = decode(backbone, asked, IDS, settings, uniform=numbers)
    for index, prompt in enumerate(asked):
        for sample in range(3):
            own = numbers[3 * index + sample, None]
            ((alone,),) = decode(backbone, [prompt], IDS, replace(settings, samples=1), uniform=own)
            assert alone.token_ids == together[index][sample].token_ids
            assert alone.spans == together[index][sample].spans


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_blank_tokens_stand_in_spans_as_a_control(bottleneck: str) -> None:
    settings = replace(SAMPLED, bottleneck=bottleneck, latent_input="blank")  # type: ignore[arg-type]
    backbone, answers = tiny_backbone(), drawn(settings)
    blank = backbone.embed_text(torch.tensor([IDS.latent_pad]))
    assert sum(len(one.spans) for _, one in answers) > 10
    with torch.no_grad():
        for prompt, one in answers:
            for latents in one.latents:
                assert torch.equal(latents, blank.expand_as(latents))
            _, logits = recomputed(backbone, prompt, one, attention_table(bottleneck), blank=True)  # type: ignore[arg-type]
            for token, row, expected in zip(
                one.token_ids, scores(torch.stack(logits), one, settings), one.log_probs, strict=True
            ):
                assert token == IDS.latent_end or float(row[token]) == pytest.approx(expected, abs=1e-5)


def test_without_a_bottleneck_nothing_is_masked_and_every_step_is_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, hidden = Counter[tuple[int, bool]](), Backbone.hidden

    def watched(self: Backbone, inputs: Tensor, rotary: Tensor, bias: Tensor | None, *rest: object, **named: object):  # type: ignore[no-untyped-def]
        seen[(inputs.shape[1], bias is None)] += 1
        return hidden(self, inputs, rotary, bias, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "hidden", watched)
    prompt = prompts()[1]
    decode(tiny_backbone(), [prompt], IDS, GREEDY, record_states=True)
    assert set(seen) == {(len(prompt.ids), True), (1, True)}
    seen.clear()
    decode(tiny_backbone(), [prompt], IDS, replace(GREEDY, bottleneck="latent_only"))
    assert {columns for columns, _ in seen} == {len(prompt.ids), 1, 1 + GREEDY.num_latents}  # no step more for reading


@pytest.mark.parametrize("latent_input", ["hidden_state", "blank"])
@pytest.mark.parametrize("bottleneck", HIDING)
def test_stock_generate_answers_alike(bottleneck: str, latent_input: str) -> None:
    settings = replace(GREEDY, bottleneck=bottleneck, latent_input=latent_input)  # type: ignore[arg-type]
    backbone, prompt = tiny_backbone(), prompts()[3]
    ((expected,),) = decode(backbone, [prompt], IDS, replace(settings, banned=()))
    made = latent_generate(backbone, IDS, num_latents=3, max_spans=2, bottleneck=bottleneck, latent_input=latent_input)  # type: ignore[arg-type]
    found, said = stock_answer(backbone, prompt, made, max_new_tokens=14)
    assert said == expected.token_ids[: len(said)]
    torch.testing.assert_close(found.latents[0][0], expected.latents[0], atol=1e-5, rtol=0)


def test_answers_are_drawn_as_the_model_was_trained() -> None:
    latent = LatentSettings(bottleneck="latent_only", input="blank")
    drawing = evaluation_decoding(EvaluationSettings(), latent, "on")
    assert (drawing.bottleneck, drawing.latent_input) == ("latent_only", "blank")
    before = evaluation_decoding(EvaluationSettings(), LatentSettings.model_validate({"num_latents": 4}), "on")
    assert (before.bottleneck, before.latent_input) == (
        "none",
        "hidden_state",
    )  # a folder made before these settings were there


def test_a_model_without_latents_sees_the_image_whatever_the_bottleneck_of_its_recipe() -> None:
    """Direct SFT, say: its recipe may hold the bottleneck of a rival."""
    prompt, without = prompts()[0], replace(GREEDY, latents="off")
    ((expected,),) = decode(tiny_backbone(), [prompt], IDS, without)
    ((found,),) = decode(tiny_backbone(), [prompt], IDS, replace(without, bottleneck="image"))
    ((blind,),) = decode(tiny_backbone(), [prompt], IDS, replace(GREEDY, bottleneck="image", max_spans=0))
    assert found.log_probs == expected.log_probs
    assert blind.log_probs[0] != expected.log_probs[0]


@pytest.mark.parametrize("change", [{"bottleneck": "latents"}, {"latent_input": "noise"}])
def test_settings_that_mean_nothing_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))} is one of"):
        decode(tiny_backbone(), prompts(), IDS, replace(GREEDY, **change))  # type: ignore[arg-type]
