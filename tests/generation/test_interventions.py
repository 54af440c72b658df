"""What a caller may change while answers are decoded, and that it changes this and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, Step, Trajectory, decode
from mirage_core.generation.interventions import Interventions, SpanStates, shift_states
from mirage_core.generation.latent_modes import Ints
from mirage_core.latent.bottleneck import attention_table
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.backbone import Backbone
from tests.generation.by_definition import recomputed
from tests.latent.tiny import IDS, KINDS, TEXT_IDS, Maker, tiny_backbone

RARE = tuple(range(14, TEXT_IDS))
GREEDY = DecodeSettings(max_new_tokens=14, num_latents=3, max_spans=2, banned=RARE)
SAMPLED = replace(GREEDY, temperature=1.0, samples=4)
BOTTLENECKS = ("none", "latent_kv", "latent_only")
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def prompts(seed: int = 3) -> list[EncodedPrompt]:
    """Ragged; all end in latent_start."""
    make, begun = Maker(seed), torch.tensor([IDS.latent_start])
    made = [make.prompt(), make.prompt(9, [(3, 2), (2, 2)], 7), make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]
    return [replace(one, ids=torch.cat([one.ids, begun])) for one in made]


def under(bottleneck: str, settings: DecodeSettings = GREEDY) -> DecodeSettings:
    return replace(settings, bottleneck=bottleneck)  # type: ignore[arg-type]


class Answers:
    """Answers of all rows, with the raw logits [V] of every draw of each row."""

    def __init__(
        self,
        asked: list[EncodedPrompt],
        settings: DecodeSettings,
        interventions: Interventions | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self.logits: list[list[Tensor]] = [[] for _ in range(len(asked) * settings.samples)]
        numbers = torch.rand(len(self.logits), settings.max_new_tokens, generator=torch.Generator().manual_seed(2))
        found = decode(
            backbone or tiny_backbone(),
            asked,
            IDS,
            settings,
            observe=self._see,
            uniform=numbers,
            interventions=interventions,
            record_states=True,
        )
        self.rows: list[Trajectory] = [one for group in found for one in group]

    def _see(self, step: Step) -> None:
        for place, row in enumerate(step.rows.tolist()):
            if step.logits is not None and not step.inputs.is_latent[place] and not step.inputs.forced[place]:
                self.logits[row].append(step.logits[place])

    @property
    def said(self) -> list[tuple[int, ...]]:
        return [row.token_ids for row in self.rows]


def given(answers: Answers, donors: list[int]) -> Callable[[Ints, Ints, Tensor], Tensor]:
    """Feed every row the latents of its donor."""
    own = [torch.cat(row.latents) for row in answers.rows]

    def replaced(rows: Ints, index: Ints, vectors: Tensor) -> Tensor:
        pairs = zip(rows.tolist(), index.tolist(), vectors, strict=True)
        return torch.stack([own[donors[r]][at] if at < len(own[donors[r]]) else mine for r, at, mine in pairs])

    return replaced


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_giving_a_row_what_it_had_changes_nothing(bottleneck: str) -> None:
    settings = under(bottleneck, SAMPLED)
    clean = Answers(prompts(), settings)
    assert any(len(row.spans) > 1 for row in clean.rows)
    assert len({len(row.token_ids) for row in clean.rows}) > 3  # rows leave the batch
    itself = list(range(len(clean.rows)))
    changes = [
        Interventions(),
        Interventions(latents=lambda rows, index, vectors: vectors),
        Interventions(latents=given(clean, itself)),
        Interventions(states=[row.span_states for row in clean.rows]),
        Interventions(states=[None] * len(clean.rows)),
    ]
    for change in changes:
        again = Answers(prompts(), settings, change)
        assert again.said == clean.said
        for mine, its in zip(again.logits, clean.logits, strict=True):
            assert torch.equal(torch.stack(mine), torch.stack(its))


def test_rows_and_latents_are_counted_over_samples_and_spans() -> None:
    seen: dict[int, list[int]] = {}

    def watch(rows: Ints, index: Ints, vectors: Tensor) -> Tensor:
        assert vectors.shape == (len(rows), tiny_backbone().hidden_size)
        for row, at in zip(rows.tolist(), index.tolist(), strict=True):
            seen.setdefault(row, []).append(at)
        return vectors

    found = Answers(prompts(), SAMPLED, Interventions(latents=watch))
    assert len(found.rows) == 16
    for row, answer in enumerate(found.rows):
        assert seen[row] == list(range(sum(span.num_latents for span in answer.spans)))


def test_a_row_is_intervened_in_without_the_others() -> None:
    clean = Answers(prompts(), GREEDY)

    def noise(rows: Ints, index: Ints, vectors: Tensor) -> Tensor:
        changed = vectors.clone()
        changed[torch.from_numpy(np.flatnonzero(rows == 1))] = 5.0
        return changed

    found = Answers(prompts(), GREEDY, Interventions(latents=noise))
    assert torch.equal(found.rows[1].latents[0], torch.full_like(found.rows[1].latents[0], 5.0))
    assert not torch.equal(found.logits[1][0], clean.logits[1][0])
    for row in (0, 2, 3):
        assert torch.equal(found.logits[row][0], clean.logits[row][0])


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_other_latents_do_what_the_definition_says(bottleneck: str) -> None:
    """The donor's latents stand where the row's own would, and under latent_only they are what is read."""
    asked, settings = prompts(), under(bottleneck)
    clean = Answers(asked, settings)
    donors = [1, 3, 0, 2]
    found = Answers(asked, settings, Interventions(latents=given(clean, donors)))
    with torch.no_grad():
        for row, one in enumerate(found.rows):
            assert torch.equal(one.latents[0], clean.rows[donors[row]].latents[0])
            _, logits = recomputed(tiny_backbone(), asked[row], one, attention_table(bottleneck), fed=one.latents)  # type: ignore[arg-type]
            for mine, its in zip(found.logits[row], own(one, logits), strict=True):
                torch.testing.assert_close(mine, its, **CLOSE)


def own(one: Trajectory, of_tokens: list[Tensor]) -> list[Tensor]:
    """What tells of the tokens that the row drew itself."""
    return [of_token for of_token, drawn in zip(of_tokens, one.sampled, strict=True) if drawn]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bottleneck", ["latent_kv", "latent_only"])
def test_with_all_that_a_span_left_behind_a_row_goes_on_as_its_donor(bottleneck: str, kind: str) -> None:
    """Text sees nothing else: the same logits, wherever the donor stood and whatever it saw."""
    settings, backbone = replace(under(bottleneck), max_spans=0), tiny_backbone(kind=kind)
    donors, asked = Answers(prompts(4)[::-1], settings, backbone=backbone), prompts(3)
    states = [row.span_states for row in donors.rows]
    clean = Answers(asked, settings, backbone=backbone)
    moved = [
        int(one.span_states[0].positions[0]) - int(its[0].positions[0])
        for one, its in zip(clean.rows, states, strict=True)
    ]
    assert min(moved) < 0 < max(moved)
    found = Answers(asked, settings, Interventions(states=states), backbone)
    for row, one in enumerate(found.rows):
        assert one.token_ids == donors.rows[row].token_ids
        assert torch.equal(one.latents[0], clean.rows[row].latents[0])  # what was fed stays recorded
        torch.testing.assert_close(torch.stack(found.logits[row]), torch.stack(donors.logits[row]), atol=1e-4, rtol=0)
        assert not torch.allclose(found.logits[row][0], clean.logits[row][0], atol=1e-2)


def test_vectors_alone_can_be_repaired_by_later_latents_but_keys_and_values_cannot() -> None:
    """Under latent_kv a donor's vectors are fed before the row's own picture, its keys and values are not."""
    settings, asked = replace(under("latent_kv"), max_spans=0), prompts()
    donor = Answers([asked[3]] * 4, settings)
    by_vectors = Answers(asked, settings, Interventions(latents=given(donor, [3, 3, 3, 3])))
    by_states = Answers(asked, settings, Interventions(states=[row.span_states for row in donor.rows]))
    torch.testing.assert_close(by_states.logits[0][0], donor.logits[0][0], atol=1e-4, rtol=0)
    assert not torch.allclose(by_vectors.logits[0][0], donor.logits[0][0], atol=1e-2)


def test_keys_are_turned_whatever_scale_the_rotation_has(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, backbone = Backbone.rotary, tiny_backbone()
    monkeypatch.setattr(Backbone, "rotary", lambda self, at: tuple(1.3 * part for part in plain(self, at)))  # YaRN's
    keys, at = torch.randn(2, 2, 3, 16), torch.tensor([7, 8, 9])

    def turned(positions: Tensor) -> Tensor:
        cos, sin = (part[0] for part in backbone.rotary(positions.expand(3, 1, 3)))
        first, second = keys.chunk(2, dim=-1)
        return keys * cos + torch.cat([-second, first], dim=-1) * sin

    donor = SpanStates(latents=torch.zeros(3, 64), keys=turned(at), values=keys, positions=at)
    for there in (at + 31, at - 5):
        torch.testing.assert_close(shift_states(backbone, donor, there).keys, turned(there), atol=1e-5, rtol=0)
    assert shift_states(backbone, donor, at).keys is donor.keys


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_hidden_latents_are_not_there_for_the_text_but_keep_their_positions(bottleneck: str) -> None:
    asked, settings = prompts(), replace(under(bottleneck), max_spans=0)
    found = Answers(asked, settings, Interventions(hide_latents=True))
    noisy = Answers(
        asked, settings, Interventions(hide_latents=True, latents=lambda rows, index, vectors: vectors * 0 + 7)
    )
    table = attention_table(bottleneck, hide_latents=True)  # type: ignore[arg-type]
    with torch.no_grad():
        for row, one in enumerate(found.rows):
            assert torch.equal(torch.stack(found.logits[row]), torch.stack(noisy.logits[row]))
            _, logits = recomputed(tiny_backbone(), asked[row], one, table)
            for mine, its in zip(found.logits[row], own(one, logits), strict=True):
                torch.testing.assert_close(mine, its, **CLOSE)


@pytest.mark.parametrize("bottleneck", ["latent_kv", "latent_only"])
def test_a_bottleneck_can_be_put_on_a_model_trained_without(bottleneck: str) -> None:
    expected = Answers(prompts(), under(bottleneck))
    found = Answers(prompts(), GREEDY, Interventions(bottleneck=bottleneck))  # type: ignore[arg-type]
    lifted = Answers(prompts(), under(bottleneck), Interventions(bottleneck="none"))
    assert found.said == expected.said
    assert torch.equal(found.logits[1][0], expected.logits[1][0])
    assert torch.equal(lifted.logits[1][0], Answers(prompts(), GREEDY).logits[1][0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_of_hidden_pictures_nothing_is_left_but_their_size(bottleneck: str, attention: str) -> None:
    asked, backbone, settings = prompts(), tiny_backbone(attention), under(bottleneck)
    others = [replace(one, pixel_values=torch.randn_like(one.pixel_values)) for one in asked]
    hidden = Interventions(image="hidden")
    found, same = (Answers(some, settings, hidden, backbone) for some in (asked, others))
    seen, other = (Answers(some, settings, None, backbone) for some in (asked, others))
    assert found.said == same.said
    for row in range(4):
        assert torch.equal(torch.stack(found.logits[row]), torch.stack(same.logits[row]))
        assert torch.equal(found.rows[row].latents[0], same.rows[row].latents[0])
        assert torch.equal(found.rows[row].span_states[0].positions, seen.rows[row].span_states[0].positions)
        if row != 2:  # which has no picture
            assert not torch.allclose(seen.rows[row].latents[0], other.rows[row].latents[0], atol=1e-3)
    torch.testing.assert_close(found.logits[2][0], seen.logits[2][0], **CLOSE)


def test_a_prompt_without_its_picture_means_the_same_alone() -> None:
    hidden = Interventions(image="hidden")
    together = Answers(prompts(), GREEDY, hidden)
    for row, prompt in enumerate(prompts()):
        assert Answers([prompt], GREEDY, hidden).said == [together.said[row]]


def test_states_are_recorded_only_where_they_are_asked_for() -> None:
    (answers,) = zip(*decode(tiny_backbone(), prompts(), IDS, GREEDY), strict=True)
    assert all(one.span_states == () and one.spans for one in answers)
    for one in Answers(prompts(), SAMPLED).rows:
        assert len(one.span_states) == len(one.spans)
        for states, latents in zip(one.span_states, one.latents, strict=True):
            assert torch.equal(states.latents, latents)
            assert states.keys.shape == states.values.shape == (3, 2, 3, 16)


def test_a_span_that_is_cut_at_the_length_limit_is_recorded_too() -> None:
    found = Answers(prompts(), replace(GREEDY, max_new_tokens=1))
    assert found.said == [(IDS.latent_end,)] * 4
    assert all(len(row.span_states) == 1 for row in found.rows)


def test_interventions_that_do_not_fit_are_refused() -> None:
    states = Answers(prompts(), GREEDY).rows[0].span_states
    with pytest.raises(InputError, match="1 entries for 4 rows"):
        Answers(prompts(), GREEDY, Interventions(states=[states]))
    with pytest.raises(InputError, match="a span of 3 latents for a span of 2"):
        Answers(prompts(), replace(GREEDY, num_latents=2), Interventions(states=[states] * 4))
    with pytest.raises(InputError, match="for latents of"):
        Answers(prompts(), GREEDY, Interventions(latents=lambda rows, index, vectors: vectors[:1]))
