"""What mirage.json says of a model's latents and prompts, read without vLLM and without mirage_core.

A setting that is not known here, or that is not done here, is refused: answers would not be the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any, Literal

ABOUT_FILE = "mirage.json"
READOUT_FILE = "latent_readout.safetensors"
"""Holds what reads a latent off a hidden state, or the vector that ends a span, where a model has either."""

SpanEnd = Literal["exact", "open", "free"]

SPAN_TOKENS = (
    ("<|latent_start|>", "<|latent_pad|>", "<|latent_end|>"),
    ("<|lvr_start|>", "<|lvr|>", "<|lvr_end|>"),
    ("<abs_vis_token>", "<abs_vis_token_pad>", "</abs_vis_token>"),
)
"""How Mirage, LVR and Monet call the token before a span, a latent, and the token after a span."""
_BANNED = ("<|image_pad|>", "<|video_pad|>")
_QUERY = "<|latent_query_{}|>"
_END_OF_TURN = "<|im_end|>"

# Of stored settings: names and values that have changed since.
_NAMES = {"fed": "input"}
_VALUES = {"input": {"own": "hidden_state"}}

_DONE: Mapping[str, tuple[object, ...]] = {
    "end": ("exact", "open", "free", "near"),
    "input": ("hidden_state", "blank"),
    "feed_norm": ("own",),
    "bottleneck": ("none",),
}
"""The values that can be served, of settings that have others."""
_COUNTS = {"num_latents": 4, "max_latents": 8, "max_spans": 4}
_FIRST = {"end": "exact", "input": "hidden_state", "feed_norm": "own", "bottleneck": "none"}
_NEAR = 0.02
_OF_TRAINING = frozenset({"compression", "length"})
"""Settings that decide nothing here: what the targets of training are."""
_PROMPT = {"form": "benchmark", "image_scale": 1.0, "max_pixels": 1003520, "background": "white"}


class SettingsError(ValueError):
    """A model folder holds what cannot be served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSettings:
    """How a model's spans run.

    ``start``, ``pad``, ``end``, ``end_of_turn``: ids; ``banned``: further ids that are never sampled. A span has
    ``limit`` latents, and then ``end`` (exact) or any token (open), or at most so many, as the model ends it (free).
    ``near``: an open span also ends after a latent within this mean square of the folder's stop vector; None: it does
    not.
    ``max_spans``: of an answer; 0: the model never imagines. ``fed``: whether latents are hidden states; else the
    embedding of ``pad``.
    """

    start: int
    pad: int
    end: int
    end_of_turn: int
    banned: tuple[int, ...]
    kind: SpanEnd
    limit: int
    max_spans: int
    fed: bool
    near: float | None = None

    @property
    def reserved(self) -> frozenset[int]:
        """Ids that no prompt may hold: they would pass for latents of an answer."""
        return frozenset((self.start, self.pad, self.end))

    @property
    def most_latents(self) -> int:
        """The most latents of an answer, with those of a span that the prompt begins."""
        return (self.max_spans + 1) * self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSettings:
    """Pictures are resized to both sides times ``scale``, and then by the processor to at most ``max_pixels``."""

    scale: float
    max_pixels: int


def span_settings(about: Mapping[str, Any], vocabulary: Mapping[str, int]) -> SpanSettings:
    """Return the spans of the model of a mirage.json; one without latent settings never imagines.

    SettingsError for settings that are unknown or cannot be served, and for a vocabulary without the tokens of spans.
    """
    start, pad, end = _span_tokens(vocabulary)
    queries = takewhile(vocabulary.__contains__, map(_QUERY.format, count()))
    names = (*(name for name in _BANNED if name in vocabulary), *queries)
    latent = _latent(about)
    learned, near = latent["end"] in ("free", "near"), latent["end"] == "near"
    return SpanSettings(
        start=start,
        pad=pad,
        end=end,
        end_of_turn=_id(vocabulary, _END_OF_TURN),
        banned=tuple(vocabulary[name] for name in names),
        kind="open" if near else latent["end"],
        limit=latent["max_latents" if learned else "num_latents"],
        max_spans=latent["max_spans"] if "latent" in about else 0,
        fed=latent["input"] == "hidden_state",
        near=float(latent["near"]) if near else None,
    )


def picture_settings(about: Mapping[str, Any]) -> PictureSettings:
    """Return how the model of a mirage.json sees pictures. SettingsError as ``span_settings``."""
    prompt = {**_PROMPT, **_section(about, "prompt")}
    _refuse_unknown("prompt", prompt.keys() - _PROMPT.keys())
    if prompt["background"] != "white":
        raise SettingsError(
            f"{ABOUT_FILE} says prompt.background {prompt['background']!r}, and vLLM draws transparent pictures over "
            "white: serve the model with `mirage serve`"
        )
    scale, pixels = prompt["image_scale"], prompt["max_pixels"]
    if not isinstance(scale, (int, float)) or not 0 < scale <= 4 or not isinstance(pixels, int) or pixels < 1:
        raise SettingsError(
            f"{ABOUT_FILE} says prompt.image_scale {scale!r} and prompt.max_pixels {pixels!r}, expected a number in "
            "(0, 4] and a positive integer: take the folder as it was saved"
        )
    return PictureSettings(scale=float(scale), max_pixels=pixels)


def _latent(about: Mapping[str, Any]) -> dict[str, Any]:
    """The latent settings by their current names, all of them, each checked."""
    stored = dict(_current(_section(about, "latent")))
    _refuse_unknown("latent", stored.keys() - _COUNTS.keys() - _FIRST.keys() - _OF_TRAINING - {"near"})
    latent: dict[str, Any] = {**_COUNTS, **_FIRST, "near": _NEAR, **stored}
    for name, done in _DONE.items():
        if latent[name] not in done:
            raise SettingsError(
                f"{ABOUT_FILE} says latent.{name} {latent[name]!r}, and the vLLM plug-in does "
                f"{' and '.join(map(repr, done))} only: serve the model with `mirage serve`"
            )
    if latent["end"] == "near" and latent["input"] != "hidden_state":
        raise SettingsError(
            f"{ABOUT_FILE} says latent.end 'near' and latent.input {latent['input']!r}, and the vLLM plug-in ends only "
            "spans of hidden states so: serve the model with `mirage serve`"
        )
    for name in _COUNTS:
        if type(latent[name]) is not int or latent[name] < 1:
            raise SettingsError(
                f"{ABOUT_FILE} says latent.{name} {latent[name]!r}, expected a positive integer: take the folder as it "
                "was saved"
            )
    if not isinstance(latent["near"], (int, float)) or latent["near"] <= 0:
        raise SettingsError(
            f"{ABOUT_FILE} says latent.near {latent['near']!r}, expected a positive number: take the folder as it was "
            "saved"
        )
    return latent


def _current(stored: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by their current names and values."""
    for key, value in stored.items():
        name = _NAMES.get(key, key)
        known = _VALUES.get(name, {})
        yield name, known.get(value, value) if isinstance(value, str) else value


def _section(about: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = about.get(name, {})
    if not isinstance(section, Mapping):
        raise SettingsError(
            f"{ABOUT_FILE} holds a {type(section).__name__} as {name}, expected an object: take the folder as it was "
            "saved"
        )
    return section


def _refuse_unknown(section: str, names: set[str] | frozenset[str]) -> None:
    if names:
        raise SettingsError(
            f"{ABOUT_FILE} holds settings of {section} that this version of mirage-vllm does not know: "
            f"{', '.join(sorted(names))}. Install the version that belongs to the Mirage that trained the model"
        )


def _span_tokens(vocabulary: Mapping[str, int]) -> tuple[int, int, int]:
    """The ids before a span, of a latent, and after a span."""
    for names in SPAN_TOKENS:
        if all(name in vocabulary for name in names):
            start, pad, end = (vocabulary[name] for name in names)
            return start, pad, end
    raise SettingsError(
        f"the tokenizer lacks {', '.join(SPAN_TOKENS[0])}: take the folder with the tokenizer that was saved in it"
    )


def _id(vocabulary: Mapping[str, int], name: str) -> int:
    if name not in vocabulary:
        raise SettingsError(f"the tokenizer lacks {name}: take the folder with the tokenizer that was saved in it")
    return vocabulary[name]
