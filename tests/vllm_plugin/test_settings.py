"""What the plug-in reads in mirage.json, held to what mirage_core writes there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, get_args

import pytest
from mirage_vllm.settings import SPAN_TOKENS as PLUGIN_TOKENS
from mirage_vllm.settings import SettingsError, picture_settings, span_settings

from mirage_core.config import FeedNorm, LatentInput, LatentSettings, PromptSettings, SpanEnd, as_recipe, identity
from mirage_core.generation.decode import DecodeSettings, sampling_rules
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.span_tokens import SPAN_TOKENS
from tests.latent.tiny import IDS

VOCABULARY = {
    "<|latent_start|>": IDS.latent_start, "<|latent_pad|>": IDS.latent_pad, "<|latent_end|>": IDS.latent_end,
    "<|image_pad|>": IDS.image_pad, "<|video_pad|>": IDS.video_pad, "<|im_end|>": IDS.end_of_turn,
}  # fmt: skip
PACKAGE = Path(__file__).parents[2] / "mirage-vllm" / "mirage_vllm"

SERVED = [
    LatentSettings(),
    LatentSettings(num_latents=9, max_spans=1),
    LatentSettings(end="open", max_latents=3),
    LatentSettings(end="free", max_latents=5, length="frames"),
    LatentSettings(end="near", max_latents=5, near=0.3),
    LatentSettings(input="blank", compression="changed_patches"),
]


@pytest.mark.parametrize("form", [identity, as_recipe])
@pytest.mark.parametrize("latent", SERVED)
def test_spans_are_those_of_the_decoder(latent: LatentSettings, form: Any) -> None:
    spans = span_settings({"latent": form(latent)}, VOCABULARY)
    decoding = DecodeSettings.of(latent, max_new_tokens=9)
    rules = sampling_rules(IDS, decoding)
    assert (spans.start, spans.pad, spans.end) == (IDS.latent_start, IDS.latent_pad, IDS.latent_end)
    kind, near = ("open", latent.near) if latent.end == "near" else (latent.end, None)
    assert (spans.kind, spans.near, spans.limit) == (kind, near, latent.span_limit)
    assert spans.max_spans == rules.max_spans
    assert {spans.pad, *spans.banned} == set(rules.banned)
    assert spans.fed == latent.rolls_out
    assert spans.end_of_turn == IDS.end_of_turn


def test_query_tokens_are_never_sampled() -> None:
    queries = {"<|latent_query_0|>": 500, "<|latent_query_1|>": 499}
    assert {500, 499} <= set(span_settings({"latent": {}}, {**VOCABULARY, **queries}).banned)


def test_what_a_mirage_json_leaves_out_is_what_the_core_takes_for_it() -> None:
    assert span_settings({"latent": {}}, VOCABULARY) == span_settings(
        {"latent": as_recipe(LatentSettings())}, VOCABULARY
    )
    assert picture_settings({}) == picture_settings({"prompt": as_recipe(PromptSettings())})


def test_a_model_without_latent_settings_never_imagines() -> None:
    assert span_settings({"prompt": {}}, VOCABULARY).max_spans == 0


def test_pictures_are_scaled_as_the_prompt_says() -> None:
    settings = picture_settings({"prompt": identity(PromptSettings(image_scale=0.5, max_pixels=9000))})
    assert (settings.scale, settings.max_pixels) == (0.5, 9000)


VALUES = {"end": SpanEnd, "input": LatentInput, "feed_norm": FeedNorm, "bottleneck": Bottleneck}
DONE = {
    "end": {"exact", "open", "free", "near"},
    "input": {"hidden_state", "blank"},
    "feed_norm": {"own"},
    "bottleneck": {"none"},
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, kind in VALUES.items() for value in get_args(kind)]
)
def test_a_setting_that_is_not_done_is_refused_by_name(name: str, value: str) -> None:
    about = {"latent": {**as_recipe(LatentSettings()), name: value}}
    if value in DONE[name]:
        span_settings(about, VOCABULARY)
        return
    with pytest.raises(SettingsError, match=rf"latent\.{name} '{value}'.*mirage serve"):
        span_settings(about, VOCABULARY)


def test_every_setting_of_the_core_is_known() -> None:
    span_settings({"latent": as_recipe(LatentSettings())}, VOCABULARY)
    picture_settings({"prompt": as_recipe(PromptSettings())})


@pytest.mark.parametrize("section", ["latent", "prompt"])
def test_a_setting_that_nobody_knows_is_refused(section: str) -> None:
    with pytest.raises(SettingsError, match=f"settings of {section} .*colour"):
        (span_settings if section == "latent" else lambda about, _: picture_settings(about))(
            {section: {"colour": 1}}, VOCABULARY
        )


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"latent": {"num_latents": 0}}, "num_latents 0, expected a positive integer"),
        ({"latent": {"max_spans": True}}, "max_spans True, expected a positive integer"),
        ({"latent": {"near": 0}}, "near 0, expected a positive number"),
        ({"latent": {"end": "near", "input": "blank"}}, "ends only spans of hidden states so"),
        ({"latent": [4]}, "holds a list as latent, expected an object"),
    ],
)
def test_damaged_latent_settings_are_named(about: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        span_settings(about, VOCABULARY)


@pytest.mark.parametrize(
    ("prompt", "word"), [({"background": "black"}, "background 'black'"), ({"image_scale": 0}, "image_scale 0")]
)
def test_pictures_that_cannot_be_prepared_are_refused(prompt: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        picture_settings({"prompt": prompt})


@pytest.mark.parametrize("missing", ["<|latent_pad|>", "<|im_end|>"])
def test_a_tokenizer_without_the_tokens_is_refused(missing: str) -> None:
    with pytest.raises(SettingsError, match="tokenizer lacks"):
        span_settings({"latent": {}}, {name: token for name, token in VOCABULARY.items() if name != missing})


def test_the_tokens_of_all_families_are_known() -> None:
    assert {(each["latent_start"], each["latent_pad"], each["latent_end"]) for each in SPAN_TOKENS.values()} == set(
        PLUGIN_TOKENS
    )


def test_the_distribution_imports_nothing_of_this_project() -> None:
    """vLLM wants another transformers than mirage_core, and lives in another environment."""
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("mirage_core", "flows", "tasks")], file
