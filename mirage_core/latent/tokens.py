"""The latent tokens, and the ids of all tokens with a special role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import torch

from mirage_core.config import LatentInput
from mirage_core.errors import SettingsError
from mirage_core.latent.span_tokens import LATENT_END, LATENT_PAD, LATENT_START, SPAN_TOKENS, span_family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LATENT_TOKENS = (LATENT_PAD, LATENT_START, LATENT_END)
LATENT_QUERY = "<|latent_query_{}|>"
"""The learned token of each number in a span (``latent.input: query``)."""
_QUERY_SEED = 23
VISUAL_START = "<|visual_start|>"
VISUAL_END = "<|visual_end|>"
VISUAL_CODE = "<|visual_{}|>"
"""The word of each code of a picture, written as text between the two borders above (explicit visual tokens)."""
_VISUAL_SEED = 37

_TOKENS = {
    "image_pad": "<|image_pad|>",
    "video_pad": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "end_of_turn": "<|im_end|>",
    "pad": "<|endoftext|>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Ids of the special tokens of one tokenizer.

    ``latent_queries``: by number in a span; ``visual_codes``: by code, and ``visual_borders``, the tokens before and
    after them; empty in most models.
    """

    latent_start: int
    latent_pad: int
    latent_end: int
    image_pad: int
    video_pad: int
    vision_start: int
    vision_end: int
    end_of_turn: int
    pad: int
    latent_queries: tuple[int, ...] = ()
    visual_codes: tuple[int, ...] = ()
    visual_borders: tuple[int, ...] = ()

    def check(self, vocab_size: int) -> None:
        """SettingsError for ids outside ``vocab_size``, and for ids used twice."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        named: dict[str, int] = {name: value for name, value in values.items() if isinstance(value, int)}
        for name, numbered in values.items():
            if name not in named:
                named |= {f"{name}[{number}]": value for number, value in enumerate(numbered)}
        outside = {name: value for name, value in named.items() if not 0 <= value < vocab_size}
        if outside:
            raise SettingsError(
                f"Token ids outside the model's vocabulary of {vocab_size}: {outside}. "
                "Use the tokenizer saved with the model, or add_latent_tokens(tokenizer, model)."
            )
        if len(set(named.values())) != len(named):
            raise SettingsError(f"Two special tokens share an id: {named}. Use another tokenizer.")

    def in_span(self, latent_input: LatentInput, num_latents: int) -> tuple[int, ...]:
        """Return the tokens whose embeddings a span holds, by number; none where it holds other vectors.

        SettingsError for more query tokens than the model has.
        """
        if latent_input == "blank":
            return (self.latent_pad,) * num_latents
        if latent_input != "query":
            return ()
        if len(self.latent_queries) < num_latents:
            raise SettingsError(
                f"latent.input is query, and the model has {len(self.latent_queries)} query tokens for spans of "
                f"{num_latents}: train it with latent.input query, or answer with the k that it was trained with"
            )
        return self.latent_queries[:num_latents]

    def visual_span(self, codes: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a picture's codes between their borders; SettingsError for a code without a token."""
        unknown = [code for code in codes if not 0 <= code < len(self.visual_codes)]
        if unknown or not self.visual_borders:
            raise SettingsError(
                f"an example holds the codes {list(codes)}, and the model has {len(self.visual_codes)} visual tokens: "
                "train on such examples by the stage visual-tokens, which adds one for each code of their codebook"
            )
        start, end = self.visual_borders
        return (start, *(self.visual_codes[code] for code in codes), end)


def token_ids(tokenizer: Any) -> TokenIds:
    """Return the special ids of ``tokenizer``; SettingsError names the tokens it lacks."""
    vocabulary = tokenizer.get_vocab()
    tokens = {**SPAN_TOKENS[span_family(vocabulary) or "mirage"], **_TOKENS}
    missing = [token for token in tokens.values() if token not in vocabulary]
    if missing:
        raise SettingsError(
            f"The tokenizer lacks {', '.join(missing)}. A model must be prepared with "
            "add_latent_tokens(tokenizer, model), or loaded from a Mirage model folder."
        )
    borders = (VISUAL_START, VISUAL_END)
    return TokenIds(
        latent_queries=_numbered(vocabulary, LATENT_QUERY),
        visual_codes=_numbered(vocabulary, VISUAL_CODE),
        visual_borders=tuple(vocabulary[name] for name in borders if name in vocabulary),
        **{name: vocabulary[token] for name, token in tokens.items()},
    )


def _numbered(vocabulary: Mapping[str, int], name: str) -> tuple[int, ...]:
    """Return the ids of the tokens that ``name`` gives with the numbers from 0 on, up to the first that is missing."""
    names = takewhile(vocabulary.__contains__, map(name.format, count()))
    return tuple(vocabulary[each] for each in names)


def add_latent_tokens(tokenizer: Any, model: PreTrainedModel, more: Sequence[str] = ()) -> TokenIds:
    """Add the latent tokens, and ``more``, extend the embeddings if needed, and return the ids.

    A vocabulary that has tokens for spans under other authors' names keeps to these. A padded vocabulary is never
    shrunk (the released code does). New rows are the mean of the old ones, so that the result does not depend on a
    random generator.
    """
    own = LATENT_TOKENS if span_family(tokenizer.get_vocab()) is None else ()
    tokenizer.add_tokens([*own, *more], special_tokens=True)
    needed, present = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if needed > present:
        _extend_embeddings(model, present, needed)
    ids = token_ids(tokenizer)
    ids.check(model.get_input_embeddings().weight.shape[0])
    return ids


def add_query_tokens(tokenizer: Any, model: PreTrainedModel, num_latents: int) -> TokenIds:
    """Add the query tokens that the tokenizer lacks, up to ``num_latents``, and return the ids.

    Their input embeddings are drawn with the mean and the deviation of the table's, so that they differ from the first
    step on; the numbers are the same in every process.
    """
    return _add_drawn(tokenizer, model, [LATENT_QUERY.format(number) for number in range(num_latents)], _QUERY_SEED)


def add_visual_tokens(tokenizer: Any, model: PreTrainedModel, size: int) -> TokenIds:
    """Add the tokens of ``size`` codes and their borders that the tokenizer lacks (none for 0), and return the ids.

    Their input embeddings are drawn as those of query tokens; a code means nothing before it is trained.
    """
    codes = [VISUAL_CODE.format(code) for code in range(size)]
    return _add_drawn(tokenizer, model, [VISUAL_START, VISUAL_END, *codes] if size else [], _VISUAL_SEED)


def _add_drawn(tokenizer: Any, model: PreTrainedModel, names: Sequence[str], seed: int) -> TokenIds:
    """Add the tokens that the tokenizer lacks, each with an input embedding of its own."""
    vocabulary = tokenizer.get_vocab()
    new = [name for name in names if name not in vocabulary]
    ids = add_latent_tokens(tokenizer, model, new)
    if new:
        table = model.get_input_embeddings().weight.data
        floats = table.float()
        noise = torch.randn(len(names), table.shape[1], generator=torch.Generator().manual_seed(seed))
        drawn = floats.mean(0) + floats.std(0) * noise[-len(new) :].to(table.device)
        table[tokenizer.convert_tokens_to_ids(new)] = drawn.to(table.dtype)
    return ids


def name_latent_tokens(tokenizer: Any) -> TokenIds:
    """Add the latent tokens to a tokenizer without a model (to inspect data), and return the ids."""
    own = LATENT_TOKENS if span_family(tokenizer.get_vocab()) is None else ()
    tokenizer.add_tokens(list(own), special_tokens=True)
    return token_ids(tokenizer)


def _extend_embeddings(model: PreTrainedModel, present: int, needed: int) -> None:
    """Extend input and output embeddings to ``needed`` rows; new rows are the mean of the old."""
    model.resize_token_embeddings(needed, mean_resizing=False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = table.weight.data
        weight[present:] = weight[:present].mean(0)
