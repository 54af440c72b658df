"""The three latent tokens, and the ids of all tokens with a special role."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mirage_core.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LATENT_START = "<|latent_start|>"
LATENT_PAD = "<|latent_pad|>"
LATENT_END = "<|latent_end|>"
LATENT_TOKENS = (LATENT_PAD, LATENT_START, LATENT_END)

_TOKENS = {
    "latent_start": LATENT_START,
    "latent_pad": LATENT_PAD,
    "latent_end": LATENT_END,
    "image_pad": "<|image_pad|>",
    "video_pad": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "end_of_turn": "<|im_end|>",
    "pad": "<|endoftext|>",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Ids of the special tokens of one tokenizer."""

    latent_start: int
    latent_pad: int
    latent_end: int
    image_pad: int
    video_pad: int
    vision_start: int
    vision_end: int
    end_of_turn: int
    pad: int

    def check(self, vocab_size: int) -> None:
        """SettingsError for ids outside ``vocab_size``, and for ids used twice."""
        named = {field.name: int(getattr(self, field.name)) for field in fields(self)}
        outside = {name: value for name, value in named.items() if not 0 <= value < vocab_size}
        if outside:
            raise SettingsError(
                f"Token ids outside the model's vocabulary of {vocab_size}: {outside}. "
                "Use the tokenizer saved with the model, or add_latent_tokens(tokenizer, model)."
            )
        if len(set(named.values())) != len(named):
            raise SettingsError(f"Two special tokens share an id: {named}. Use another tokenizer.")


def token_ids(tokenizer: Any) -> TokenIds:
    """Return the special ids of ``tokenizer``; SettingsError names the tokens it lacks."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in _TOKENS.values() if token not in vocabulary]
    if missing:
        raise SettingsError(
            f"The tokenizer lacks {', '.join(missing)}. A model must be prepared with "
            "add_latent_tokens(tokenizer, model), or loaded from a Mirage model folder."
        )
    return TokenIds(**{name: vocabulary[token] for name, token in _TOKENS.items()})


def add_latent_tokens(tokenizer: Any, model: PreTrainedModel) -> TokenIds:
    """Add the latent tokens, extend the embeddings if needed, and return the ids.

    A padded vocabulary is never shrunk (the released code does). New rows are the mean of the old ones, so that the
    result does not depend on a random generator.
    """
    tokenizer.add_tokens(list(LATENT_TOKENS), special_tokens=True)
    needed, present = len(tokenizer), model.get_input_embeddings().weight.shape[0]
    if needed > present:
        _extend_embeddings(model, present, needed)
    ids = token_ids(tokenizer)
    ids.check(model.get_input_embeddings().weight.shape[0])
    return ids


def name_latent_tokens(tokenizer: Any) -> TokenIds:
    """Add the latent tokens to a tokenizer without a model (to inspect data), and return the ids."""
    tokenizer.add_tokens(list(LATENT_TOKENS), special_tokens=True)
    return token_ids(tokenizer)


def _extend_embeddings(model: PreTrainedModel, present: int, needed: int) -> None:
    """Extend input and output embeddings to ``needed`` rows; new rows are the mean of the old."""
    model.resize_token_embeddings(needed, mean_resizing=False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = table.weight.data
        weight[present:] = weight[:present].mean(0)
