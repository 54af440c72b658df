"""The latent tokens of a tokenizer, and the embeddings they need."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import add_latent_tokens, add_query_tokens, token_ids
from tests.latent.tiny import IDS, tiny_config

QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip


def tokenizer(words: int) -> Qwen2Tokenizer:
    """A tokenizer without latent tokens: ``words`` single letters and Qwen's special tokens."""
    vocab = {chr(0x4E00 + index): index for index in range(words)}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], unk_token=None)
    made.add_tokens(list(QWEN), special_tokens=True)
    return made


def model() -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(tiny_config())


def test_a_tokenizer_without_the_latent_tokens_is_refused_by_their_names() -> None:
    with pytest.raises(SettingsError, match=r"lacks <\|latent_start\|>, <\|latent_pad\|>, <\|latent_end\|>"):
        token_ids(tokenizer(400))


def test_latent_tokens_that_fit_leave_a_padded_vocabulary_as_it_is() -> None:
    target, words = model(), tokenizer(400)
    before = target.lm_head.weight.clone()
    ids = add_latent_tokens(words, target)
    assert torch.equal(target.lm_head.weight, before)
    assert ids == token_ids(words)
    assert words.convert_tokens_to_ids("<|latent_end|>") == ids.latent_end


def test_latent_tokens_that_do_not_fit_grow_the_embeddings_the_same_way_every_time() -> None:
    words, targets = tokenizer(505), []
    for seed in (0, 1):
        torch.manual_seed(0)
        target = model()
        torch.manual_seed(seed)
        add_latent_tokens(words, target)
        targets.append(target)
    assert len(targets[0].lm_head.weight) == len(words) > 512
    assert torch.equal(targets[0].lm_head.weight, targets[1].lm_head.weight)
    assert torch.equal(targets[0].get_input_embeddings().weight, targets[1].get_input_embeddings().weight)
    assert targets[0].config.text_config.vocab_size == len(words)


def test_adding_twice_changes_nothing() -> None:
    target, words = model(), tokenizer(400)
    assert add_latent_tokens(words, target) == add_latent_tokens(words, target)


def test_ids_used_twice_are_refused() -> None:
    with pytest.raises(SettingsError, match="share an id"):
        replace(IDS, latent_end=IDS.latent_pad).check(512)
    with pytest.raises(SettingsError, match="share an id"):
        replace(IDS, latent_queries=(510, IDS.latent_pad)).check(512)
    with pytest.raises(SettingsError, match=r"outside the model's vocabulary of 512: \{'latent_queries\[1\]': 512\}"):
        replace(IDS, latent_queries=(510, 512)).check(512)
    assert max(value for value in asdict(IDS).values() if isinstance(value, int)) < 512
    IDS.check(512)


def test_query_tokens_are_added_once_each_with_an_embedding_of_its_own() -> None:
    target, words = model(), tokenizer(400)
    first = add_query_tokens(words, target, 2)
    table = target.get_input_embeddings().weight.detach().clone()
    more = add_query_tokens(words, target, 4)
    assert more.latent_queries[:2] == first.latent_queries and len(set(more.latent_queries)) == 4
    grown = target.get_input_embeddings().weight.detach()
    assert torch.equal(grown[list(first.latent_queries)], table[list(first.latent_queries)])
    rows = grown[list(more.latent_queries)]
    assert (torch.pdist(rows) > 0.5 * table.std() * rows.shape[1] ** 0.5).all()
    assert add_query_tokens(words, target, 3) == more == token_ids(words)
    assert more.in_span("query", 3) == more.latent_queries[:3]
    assert more.in_span("blank", 2) == (more.latent_pad,) * 2 and more.in_span("code", 2) == ()
