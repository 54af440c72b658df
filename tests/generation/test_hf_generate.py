"""``model.generate`` with our loop: what users of stock models know, with latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode
from mirage_core.generation.hf_generate import LatentGenerateOutput, latent_generate
from mirage_core.latent.examples import EncodedPrompt
from tests.latent.tiny import IDS, KINDS, TEXT_IDS, Maker, tiny_backbone

RARE = tuple(range(14, TEXT_IDS))
SETTINGS = DecodeSettings(max_new_tokens=12, num_latents=3, max_spans=2, banned=RARE)


def prompts() -> list[EncodedPrompt]:
    """Rows of several lengths, with none to two images; the second begins a span."""
    make = Maker(11)
    begun = make.prompt(9, [(3, 2), (2, 2)], 7)
    ids = torch.cat([begun.ids, torch.tensor([IDS.latent_start])])
    begun = EncodedPrompt(ids=ids, pixel_values=begun.pixel_values, grid_thw=begun.grid_thw)
    return [make.prompt(), begun, make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]


def inputs_of(asked: list[EncodedPrompt]) -> dict[str, Tensor]:
    """As a stock processor gives them: padded on the left."""
    width = max(len(prompt.ids) for prompt in asked)
    ids = torch.stack([torch.nn.functional.pad(one.ids, (width - len(one.ids), 0), value=IDS.pad) for one in asked])
    lengths = torch.tensor([len(prompt.ids) for prompt in asked])
    shown = [prompt for prompt in asked if len(prompt.grid_thw)]
    images = {}
    if shown:
        images["pixel_values"] = torch.cat([prompt.pixel_values for prompt in shown])
        images["image_grid_thw"] = torch.cat([prompt.grid_thw for prompt in shown])
    mask = (torch.arange(width) >= width - lengths[:, None]).long()
    types = (ids == IDS.image_pad).long()
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, **images}


def generate(asked: list[EncodedPrompt], kind: str = "qwen2_5_vl", **named: Any) -> Any:
    backbone = tiny_backbone(kind=kind)
    named = {"suppress_tokens": list(RARE), "do_sample": False, "eos_token_id": [IDS.end_of_turn, IDS.pad]} | named
    made = latent_generate(backbone, IDS, num_latents=3, max_spans=2)
    return backbone.model.generate(**inputs_of(asked), custom_generate=made, pad_token_id=IDS.pad, **named)


def new_tokens(asked: list[EncodedPrompt], sequences: Tensor) -> list[list[int]]:
    width = max(len(prompt.ids) for prompt in asked)
    return sequences[:, width:].tolist()


def text_of(row: list[int]) -> tuple[int, ...]:
    """Without latents, up to the end of the turn."""
    kept = [token for token in row if token != IDS.latent_pad]
    ends = [at for at, token in enumerate(kept) if token in (IDS.end_of_turn, IDS.pad)]
    return tuple(kept[: ends[0] + 1] if ends else kept)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_and_latents_are_those_of_decode(kind: str) -> None:
    asked = prompts()
    expected: list[Trajectory] = [one for (one,) in decode(tiny_backbone(kind=kind), asked, IDS, SETTINGS)]
    found: LatentGenerateOutput = generate(asked, kind, max_new_tokens=18, return_dict_in_generate=True)
    assert found.latents is not None
    for row, one, latents in zip(new_tokens(asked, found.sequences), expected, found.latents, strict=True):
        said = text_of(row)
        assert said[: len(one.token_ids)] == one.token_ids[: len(said)]
        for mine, its in zip(latents, one.latents, strict=False):
            torch.testing.assert_close(mine, its[: len(mine)], atol=5e-5, rtol=0)
    assert len(found.latents[1][0]) == 3
    assert new_tokens(asked, found.sequences)[1][:4] == [IDS.latent_pad] * 3 + [IDS.latent_end]


def test_a_row_means_the_same_alone_and_without_a_mask() -> None:
    asked = prompts()
    together = new_tokens(asked, generate(asked, max_new_tokens=10))
    for prompt, row in zip(asked, together, strict=True):
        (alone,) = new_tokens([prompt], generate([prompt], max_new_tokens=10))
        assert text_of(alone) == text_of(row)


class Kept(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.put_in: list[Tensor] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.put_in.append(value)

    def end(self) -> None:
        self.ended = True


def test_a_streamer_receives_the_prompt_and_every_token() -> None:
    asked, streamer = prompts()[1:2], Kept()
    sequences = generate(asked, max_new_tokens=8, streamer=streamer)
    assert torch.equal(streamer.put_in[0], sequences[:, : len(asked[0].ids)])
    assert torch.cat(streamer.put_in[1:]).tolist() == new_tokens(asked, sequences)[0]
    assert streamer.ended


class StopAtLength(StoppingCriteria):
    """Stops every row at a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_a_stopping_criterion_stops() -> None:
    asked = prompts()[1:2]
    criteria = StoppingCriteriaList([StopAtLength(len(asked[0].ids) + 5)])
    assert len(new_tokens(asked, generate(asked, max_new_tokens=30, stopping_criteria=criteria))[0]) == 5


class Only(LogitsProcessor):
    """Lets one token come."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, float("-inf")).index_fill(1, torch.tensor([self.token]), 0.0)


def test_a_logits_processor_decides_the_text_and_not_the_latents() -> None:
    asked = prompts()[1:3]
    found = new_tokens(asked, generate(asked, max_new_tokens=6, logits_processor=LogitsProcessorList([Only(7)])))
    assert found == [[IDS.latent_pad] * 3 + [IDS.latent_end, 7, 7], [7] * 6]


def test_the_generation_config_is_honoured() -> None:
    asked = prompts()[:1]
    config = GenerationConfig(max_new_tokens=7, min_new_tokens=7, do_sample=False, eos_token_id=IDS.end_of_turn)
    assert len(new_tokens(asked, generate(asked, generation_config=config))[0]) == 7
    both = generate(asked, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True)
    assert len(both.scores) == len(both.logits) == both.sequences.shape[1] - len(asked[0].ids)
    assert both.scores[0].argmax(-1).tolist() == [new_tokens(asked, both.sequences)[0][0]]


def test_temperature_and_top_p_draw_by_the_seed() -> None:
    asked = prompts()

    def drawn(seed: int, **named: float) -> list[list[int]]:
        torch.manual_seed(seed)
        return new_tokens(asked, generate(asked, do_sample=True, max_new_tokens=12, **named))

    assert drawn(3, temperature=1.5) == drawn(3, temperature=1.5)
    assert drawn(3, temperature=1.5) != drawn(4, temperature=1.5)
    greedy = new_tokens(asked, generate(asked, max_new_tokens=12))
    assert drawn(3, top_p=1e-6) == greedy
    assert drawn(3, temperature=1e-6) == greedy


def test_several_answers_a_prompt_encode_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen = prompts()[:2], []
    backbone = type(tiny_backbone())
    images = backbone.image_features

    def count_images(self: object, pixels: torch.Tensor, *rest: object, **named: object) -> object:
        seen.append(len(pixels))
        return images(self, pixels, *rest, **named)

    monkeypatch.setattr(backbone, "image_features", count_images)
    torch.manual_seed(0)
    found = generate(asked, do_sample=True, num_return_sequences=3, max_new_tokens=9)
    assert seen == [sum(len(prompt.pixel_values) for prompt in asked)]
    rows = new_tokens(asked, found)
    assert len(rows) == 6
    assert all(row[0] == IDS.latent_pad for row in rows[3:])
    assert len({tuple(row) for row in rows}) > 2


@pytest.mark.parametrize("name", ["some/repository", Path("folder")])
def test_a_name_or_a_folder_is_refused(name: str | Path) -> None:
    with pytest.raises(SettingsError, match="would run code from there"):
        tiny_backbone().model.generate(input_ids=torch.tensor([[1]]), custom_generate=name, trust_remote_code=True)
    with pytest.raises(SettingsError, match="is never run"):
        latent_generate(name, IDS, num_latents=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"num_beams": 2}, "greedy or sampled, got beam_search"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"inputs_embeds": torch.zeros(1, 2, 64)}, "inputs_embeds"),
        ({"return_dict_in_generate": True, "output_attentions": True}, "output_attentions"),
    ],
)
def test_what_latents_cannot_follow_is_refused(named: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(prompts()[2:3], max_new_tokens=2, **named)


def test_images_that_do_not_fit_the_text_are_refused() -> None:
    inputs = inputs_of(prompts()[:1]) | {"image_grid_thw": torch.tensor([[1, 4, 4]])}
    made = latent_generate(tiny_backbone(), IDS, num_latents=3)
    with pytest.raises(InputError, match=r"6 image_pad tokens, the next images are of \[4\]"):
        tiny_backbone().model.generate(**inputs, custom_generate=made, max_new_tokens=2)


def test_the_callable_of_another_model_is_refused() -> None:
    made = latent_generate(tiny_backbone("eager"), IDS, num_latents=3)
    with pytest.raises(SettingsError, match="another model"):
        tiny_backbone().model.generate(**inputs_of(prompts()[2:3]), custom_generate=made, max_new_tokens=2)


def test_stock_generate_without_latents_is_as_it_was() -> None:
    asked = prompts()[:1]
    found = tiny_backbone().model.generate(**inputs_of(asked), max_new_tokens=3, do_sample=False)
    assert found.shape[1] <= len(asked[0].ids) + 3
