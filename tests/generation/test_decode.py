"""Decoding with a latent mode for every row."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, Step, Trajectory, decode, sampling_rules
from mirage_core.generation.sampling import sample_tokens
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.features import with_features
from mirage_core.model.forward.forward import relaxation_forward, replay_forward
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.types import LatentSpan
from tests.latent.tiny import IDS, TEXT_IDS, Maker, tiny_backbone

# Few tokens are allowed, so that spans, their ends and end_of_turn come up often in a random model.
RARE = tuple(range(14, TEXT_IDS))
BASE = DecodeSettings(max_new_tokens=14, num_latents=3, max_spans=2, banned=RARE)
SAMPLED = replace(BASE, temperature=1.0, samples=6)


def prompts(*, started: bool = False) -> list[EncodedPrompt]:
    make = Maker(11)
    made = [make.prompt(), make.prompt(9, [(3, 2), (2, 2)], 7), make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]
    if not started:
        return made
    begun = torch.tensor([IDS.latent_start])
    return [replace(one, ids=torch.cat([one.ids, begun])) if row % 2 else one for row, one in enumerate(made)]


def sampled(
    settings: DecodeSettings, *, started: bool = False, seed: int = 0
) -> list[tuple[EncodedPrompt, Trajectory]]:
    asked = prompts(started=started)
    found = decode(tiny_backbone(), asked, IDS, settings, torch.Generator().manual_seed(seed))
    return [(prompt, one) for prompt, group in zip(asked, found, strict=True) for one in group]


def check_form(prompt: EncodedPrompt, trajectory: Trajectory, settings: DecodeSettings) -> None:
    """Spans stand behind latent_start, hold their latents and are closed; nothing banned comes."""
    tokens = trajectory.token_ids
    assert len(tokens) <= settings.max_new_tokens
    assert len(trajectory.log_probs) == len(trajectory.sampled) == len(tokens)
    assert not {IDS.image_pad, IDS.video_pad, IDS.latent_pad} & set(tokens)
    assert trajectory.finished == (tokens[-1] in (IDS.end_of_turn, IDS.pad))
    assert not {IDS.end_of_turn, IDS.pad} & set(tokens[:-1])
    before = [prompt.ids[-1].item(), *tokens]
    for span, latents in zip(trajectory.spans, trajectory.latents, strict=True):
        assert before[span.position] == IDS.latent_start
        assert tokens[span.position] == IDS.latent_end
        assert latents.shape == (span.num_latents, tiny_backbone().hidden_size)
    ends = [at for at, token in enumerate(tokens) if token == IDS.latent_end]
    assert ends == [span.position for span in trajectory.spans]


@pytest.mark.parametrize("end", ["exact", "free"])
def test_training_latents_and_log_probs_equal_decoding_ones(end: str) -> None:
    backbone = tiny_backbone()
    settings = replace(SAMPLED, end=end, max_latents=5, temperature=1.3)  # type: ignore[arg-type]
    drawn = sampled(settings, started=True)
    assert sum(len(one.spans) for _, one in drawn) > 10
    assert any(len(one.spans) > 1 for _, one in drawn)
    assert any(not one.spans for _, one in drawn)
    examples = [encode_rollout(p, one.token_ids, one.spans, one.sampled, IDS) for p, one in drawn]
    batch = collate(examples, IDS, backbone.position_ids)
    recorded = [latents for _, one in drawn for latents in one.latents]
    relaxed = relaxation_forward(backbone, batch)
    for latents, length, expected in zip(relaxed.latents, batch.span_lengths.tolist(), recorded, strict=True):
        torch.testing.assert_close(latents[:length], expected, atol=5e-5, rtol=0)
    rules = sampling_rules(IDS, settings)
    for hidden in (relaxed.hidden, replay_forward(backbone, batch, recorded)):
        log_probs = text_log_probs(backbone, batch, hidden, rules)
        for row, (_, one) in enumerate(drawn):
            expected_row = torch.tensor([p for p, chosen in zip(one.log_probs, one.sampled, strict=True) if chosen])
            torch.testing.assert_close(log_probs[row][batch.labels[row] != -100], expected_row, atol=1e-4, rtol=0)


FREE = replace(SAMPLED, end="free", max_latents=3, max_spans=1, samples=400, max_new_tokens=1)


def span_of(length: int, *, prompt: EncodedPrompt) -> EncodedExample:
    spans = [LatentSpan(position=0, num_latents=length)]
    return encode_rollout(prompt, [IDS.latent_end, IDS.end_of_turn], spans, [True, False], IDS)


def test_the_lengths_of_a_free_span_have_probabilities_that_add_up_to_one() -> None:
    backbone, prompt = tiny_backbone(), prompts(started=True)[1]
    batch = collate([span_of(length, prompt=prompt) for length in (1, 2, 3)], IDS, backbone.position_ids)
    hidden = relaxation_forward(backbone, batch).hidden
    found = text_log_probs(backbone, batch, hidden, sampling_rules(IDS, FREE)).sum(1).exp()
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert found.min() > 0.01
    # The same by enumeration: of the choices after one latent and after two, each to end or to go on.
    rules, last = sampling_rules(IDS, FREE), hidden[2, len(prompt.ids) : len(prompt.ids) + 2]
    scores = rules.scores(backbone.logits(last), torch.tensor([True, True]), torch.tensor([1, 1]))
    first, second = scores.softmax(-1)[:, IDS.latent_end].tolist()
    wanted = [first, (1 - first) * second, (1 - first) * (1 - second)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_free_spans_are_recorded_with_the_probability_they_are_drawn_with() -> None:
    drawn = decode(tiny_backbone(), prompts(started=True)[1:2], IDS, FREE, torch.Generator().manual_seed(0))[0]
    lengths = Counter(one.spans[0].num_latents for one in drawn)
    recorded = {one.spans[0].num_latents: math.exp(one.log_probs[0]) for one in drawn}
    assert len(recorded) == 3
    assert all(one.sampled[0] for one in drawn)
    assert sum(recorded.values()) == pytest.approx(1.0, abs=1e-5)
    for length, probability in recorded.items():
        assert lengths[length] / len(drawn) == pytest.approx(probability, abs=4 * math.sqrt(0.25 / len(drawn)))


def test_choosing_to_go_on_has_a_gradient() -> None:
    backbone, prompt = tiny_backbone(), prompts(started=True)[1]
    batch = collate([span_of(3, prompt=prompt)], IDS, backbone.position_ids)
    hidden = relaxation_forward(backbone, batch).hidden.detach().requires_grad_()
    text_log_probs(backbone, batch, hidden, sampling_rules(IDS, FREE)).sum().backward()
    assert hidden.grad is not None
    columns = hidden.grad[0].abs().sum(-1).nonzero()[:, 0].tolist()
    assert columns == [len(prompt.ids), len(prompt.ids) + 1]  # the end is forced: only the two choices count


def test_a_span_of_one_latent_at_most_has_no_choice() -> None:
    for one in decode(tiny_backbone(), prompts(started=True)[1:2], IDS, replace(FREE, max_latents=1, samples=3))[0]:
        assert (one.sampled[0], one.log_probs[0]) == (False, 0.0)


@pytest.mark.parametrize("end", ["exact", "free"])
@pytest.mark.parametrize("started", [False, True])
def test_trajectories_are_well_formed(end: str, started: bool) -> None:
    settings = replace(SAMPLED, end=end, max_latents=4)  # type: ignore[arg-type]
    drawn = sampled(settings, started=started)
    for prompt, trajectory in drawn:
        check_form(prompt, trajectory, settings)
    lengths = Counter(span.num_latents for _, one in drawn for span in one.spans)
    assert set(lengths) == {3} if end == "exact" else len(lengths) > 1 and max(lengths) <= 4
    assert any(one.finished for _, one in drawn)
    assert any(not one.finished for _, one in drawn)


def test_greedy_answers_do_not_depend_on_the_rest_of_the_batch() -> None:
    backbone, asked = tiny_backbone(), prompts(started=True)
    settings = replace(BASE, max_new_tokens=10)
    together = decode(backbone, asked, IDS, settings)
    alone = [decode(backbone, [prompt], IDS, settings)[0] for prompt in asked]
    for (found,), (expected,) in zip(together, alone, strict=True):
        assert found.token_ids == expected.token_ids
        assert found.spans == expected.spans
        for mine, its in zip(found.latents, expected.latents, strict=True):
            torch.testing.assert_close(mine, its, atol=5e-5, rtol=0)


def test_rows_that_end_early_leave_the_others_as_they_were() -> None:
    backbone = tiny_backbone()
    drawn = sampled(replace(SAMPLED, samples=8))
    assert len({len(one.token_ids) for _, one in drawn}) > 4
    for prompt, one in drawn[::3]:
        batch = collate(
            [encode_rollout(prompt, one.token_ids, one.spans, one.sampled, IDS)], IDS, backbone.position_ids
        )
        hidden = relaxation_forward(backbone, batch).hidden
        found = text_log_probs(backbone, batch, hidden, sampling_rules(IDS, SAMPLED))
        assert found.sum().item() == pytest.approx(sum(one.log_probs), abs=1e-3)


def test_eager_attention_decodes_alike() -> None:
    asked = prompts(started=True)
    found, expected = (decode(tiny_backbone(name), asked, IDS, BASE) for name in ("eager", "sdpa"))
    assert [one[0].token_ids for one in found] == [one[0].token_ids for one in expected]


def test_a_prompt_that_ends_in_latent_start_goes_on_with_latents() -> None:
    for prompt, trajectory in sampled(BASE, started=True):
        if prompt.ids[-1] == IDS.latent_start:
            assert trajectory.spans[0].position == 0
            assert trajectory.token_ids[0] == IDS.latent_end
            assert not trajectory.sampled[0]


def test_spans_stop_at_the_cap_and_can_be_switched_off() -> None:
    drawn = sampled(replace(SAMPLED, max_new_tokens=30))
    assert max(one.token_ids.count(IDS.latent_start) for _, one in drawn) == 2
    for _, one in sampled(replace(SAMPLED, latents="off")):
        assert IDS.latent_start not in one.token_ids
        assert not one.spans
    with pytest.raises(InputError, match="latents are off"):
        sampled(replace(BASE, latents="off"), started=True)


def test_a_prompt_is_encoded_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen = tiny_backbone(), Counter[str]()
    images, hidden = Backbone.image_features, Backbone.hidden

    def count_images(
        self: Backbone, pixel_values: torch.Tensor, *rest: torch.Tensor, **named: bool
    ) -> list[torch.Tensor]:
        seen["patches"] += len(pixel_values)
        return images(self, pixel_values, *rest, **named)

    def count_tokens(
        self: Backbone, embedded: torch.Tensor | InputEmbeddings, *rest: object, **named: object
    ) -> torch.Tensor:
        if embedded.shape[1] > 1:
            seen["prefilled"] += embedded.shape[0] * embedded.shape[1]
        return hidden(self, embedded, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "image_features", count_images)
    monkeypatch.setattr(Backbone, "hidden", count_tokens)
    asked = prompts()
    tokens = sum(len(prompt.ids) for prompt in asked)
    decode(backbone, asked, IDS, SAMPLED, torch.Generator().manual_seed(0))
    assert seen == {"patches": sum(len(prompt.pixel_values) for prompt in asked), "prefilled": tokens}
    ready = with_features(backbone, asked)
    seen.clear()
    decode(backbone, ready, IDS, SAMPLED, torch.Generator().manual_seed(0))
    assert seen == {"prefilled": tokens}


def test_the_same_generator_gives_the_same_answers() -> None:
    first, second, third = (sampled(SAMPLED, seed=seed) for seed in (3, 3, 4))
    assert [one.token_ids for _, one in first] == [one.token_ids for _, one in second]
    assert [one.token_ids for _, one in first] != [one.token_ids for _, one in third]


@pytest.mark.parametrize("end", ["exact", "free"])
def test_sampled_answers_decided_by_numbers_do_not_depend_on_the_rest_of_the_batch(end: str) -> None:
    backbone, asked = tiny_backbone(), prompts(started=True)
    settings = replace(SAMPLED, samples=3, top_p=0.95, end=end)  # type: ignore[arg-type]
    uniform = torch.rand(len(asked) * 3, settings.max_new_tokens, generator=torch.Generator().manual_seed(0))
    together = decode(backbone, asked, IDS, settings, uniform=uniform)
    for index, prompt in enumerate(asked):
        (alone,) = decode(backbone, [prompt], IDS, settings, uniform=uniform[3 * index : 3 * index + 3])
        assert [one.token_ids for one in alone] == [one.token_ids for one in together[index]]
    with pytest.raises(InputError, match=r"shape \(3, 14\)"):
        decode(backbone, asked, IDS, settings, uniform=uniform[:3])


def test_numbers_decide_as_often_as_the_probabilities_say() -> None:
    scores = torch.tensor([[0.5, 0.0, 0.3, 0.2, 0.0]]).log().repeat(1000, 1)
    chosen, _ = sample_tokens(scores, False, 1.0, uniform=torch.arange(1000) / 1000)
    assert chosen.bincount(minlength=5).tolist() == [500, 0, 300, 200, 0]


def test_an_observer_sees_every_row_until_it_ends() -> None:
    steps: list[Step] = []
    found = decode(tiny_backbone(), prompts(), IDS, SAMPLED, torch.Generator().manual_seed(0), steps.append)
    seen = Counter(row for step in steps for row in step.rows.tolist())
    flat = [one for group in found for one in group]
    for row, one in enumerate(flat):
        assert seen[row] == len(one.token_ids) + sum(span.num_latents for span in one.spans)
    assert all(step.logits is None or len(step.logits) == len(step.rows) for step in steps)


def test_latents_of_an_answer_can_be_trained_with_wherever_they_were_decoded() -> None:
    with torch.inference_mode():
        trajectory = sampled(BASE, started=True)[1][1]
    (trajectory.latents[0] * torch.ones((), requires_grad=True)).sum().backward()


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(400, 1)
    for top_p, kept in ((0.0, {0}), (0.5, {0}), (0.6, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        chosen, log_probs = sample_tokens(scores, False, top_p, torch.Generator().manual_seed(0))
        assert set(chosen.tolist()) == kept
        torch.testing.assert_close(log_probs, scores[0, chosen])  # before top-p


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 0},
        {"num_latents": 0},
        {"temperature": -1.0},
        {"top_p": 1.5},
        {"samples": 2},
        {"max_spans": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        decode(tiny_backbone(), prompts(), IDS, replace(BASE, **change))  # type: ignore[arg-type]


def test_ids_of_another_tokenizer_are_refused() -> None:
    foreign: TokenIds = replace(IDS, latent_start=151665)
    with pytest.raises(SettingsError, match=r"latent_start.*151665"):
        decode(tiny_backbone(), prompts(), foreign, BASE)


def test_no_prompt_gives_no_answer() -> None:
    assert decode(tiny_backbone(), [], IDS, BASE) == []
