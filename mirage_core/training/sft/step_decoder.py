"""SIM-CoT's step decoder: it must write each reasoning step from the latents in its place (InternLM/SIM-CoT, f3ae967).

A small transformer beside the model, with a vocabulary of its own: the tokens of the training examples' steps. Gradient
flows into the latents, and so through the rollout; nothing else of the model is touched. It is saved for resuming
alone. Legend: S spans, K latents of the longest, n groups of c latents, L tokens of the longest step, D hidden,
W width, V tokens that the decoder knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from mirage_core.config import StepDecoderSettings
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import IGNORED
from mirage_core.model.backbone import Backbone
from mirage_core.training.sft.pooler import HEAD_SIZE, places

END, UNKNOWN = 0, 1
"""The decoder's own numbers of a step's end, and of tokens that no training example has; the others come after them."""


class _Layer(nn.Module):
    """A causal transformer layer, normed before attention and before the perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_SIZE if width % HEAD_SIZE == 0 else 1
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the next states of tokens [n, ., W]."""
        parts = self.joint(self.attention_norm(tokens)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        read = scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.output(read.transpose(1, 2).flatten(2))
        found: Tensor = tokens + self.down(gelu(self.up(self.norm(tokens))))
        return found


class StepDecoder(nn.Module):
    """Reads the latents of a step, then its tokens, each by what stands before it."""

    def __init__(self, hidden_size: int, known: int, settings: StepDecoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.latents, self.tokens = nn.Linear(hidden_size, width), nn.Embedding(known, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(settings.layers))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, known)

    def forward(self, latents: Tensor, steps: Tensor) -> Tensor:
        """Return logits [n, L, V] of each token of ``steps`` [n, L], from latents [n, c, D] and the tokens before it.

        ``steps``: the decoder's own numbers, the end included.
        """
        states = torch.cat([self.latents(latents), self.tokens(steps[:, :-1])], dim=1)
        states = states + places(1, states.shape[1], states.shape[2]).to(states)
        for layer in self.layers:
            states = layer(states)
        logits: Tensor = self.output(self.norm(states[:, latents.shape[1] - 1 :]))
        return logits


@dataclass(frozen=True, slots=True)
class Explanations:
    """The groups of latents of a micro-batch with the steps they must say.

    ``spans``, ``first`` [n]: the span of each group in the batch, and the number of its first latent in it; ``size``:
    c. ``steps`` [n, L]: the tokens of its step with their end, in the decoder's numbers; IGNORED after it.
    """

    decoder: StepDecoder
    weight: float
    size: int
    spans: Tensor
    first: Tensor
    steps: Tensor

    def to(self, device: torch.device) -> Explanations:
        """The same on ``device``."""
        return replace(self, spans=self.spans.to(device), first=self.first.to(device), steps=self.steps.to(device))

    @property
    def count(self) -> float:
        """The steps, which "explain" is a mean over."""
        return float(len(self.spans))

    def parts(self, latents: Tensor) -> dict[str, Tensor]:
        """Return "explain", the cross-entropy of the steps' tokens, and "explain_accuracy", from latents [S, K, D].

        Both are means over steps of the mean over a step's tokens; tokens that the decoder does not know do not count.
        """
        steps = self.steps
        if len(steps):
            numbers = self.first[:, None] + torch.arange(self.size, device=latents.device)
            groups = latents[self.spans[:, None], numbers]
        else:  # processes that shard weights run the same modules, whatever rows they have
            groups = latents.new_zeros(1, self.size, self.decoder.latents.in_features)
            steps = torch.full((1, 1), IGNORED, device=latents.device)
        logits = self.decoder(groups, steps.clamp_min(END)).float()
        wanted = steps.masked_fill(steps == UNKNOWN, IGNORED)
        counted = wanted != IGNORED
        losses = cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
        right = (logits.detach().argmax(-1) == wanted).float()
        tokens = counted.sum(1).clamp_min(1)
        return {"explain": (losses.sum(1) / tokens).mean(), "explain_accuracy": (right.sum(1) / tokens).mean()}


@dataclass(frozen=True)
class StepDecoding:
    """A decoder, and the tokens it knows: ``words``, from the number UNKNOWN + 1 on."""

    decoder: StepDecoder
    settings: StepDecoderSettings
    tokenizer: Any
    words: dict[int, int]

    def lay_out(self, batch: LatentBatch, texts: Sequence[Sequence[str]], size: int) -> Explanations:
        """Return what the spans of the first rows must say: ``texts`` of a row, one for each ``size`` latents."""
        spans, first, steps = list[int](), list[int](), list[Tensor]()
        for span, row in enumerate(batch.span_rows.tolist()):
            for group, text in enumerate(texts[row] if row < len(texts) else ()):
                spans.append(span)
                first.append(group * size)
                steps.append(self._numbers(text))
        return Explanations(
            decoder=self.decoder,
            weight=self.settings.weight,
            size=size,
            spans=torch.tensor(spans, dtype=torch.long),
            first=torch.tensor(first, dtype=torch.long),
            steps=pad_sequence(steps, batch_first=True, padding_value=IGNORED) if steps else torch.empty(0, 1).long(),
        )

    def _numbers(self, text: str) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return torch.tensor([*(self.words.get(token, UNKNOWN) for token in ids), END])


def step_texts(steps: Sequence[str], answer: str, groups: int, *, rest: bool) -> list[str]:
    """Return what each of ``groups`` of latents must say: its step; the answer where a chain has fewer steps.

    ``rest``: where it has more, the last group says all that remain.
    """
    texts = [*steps, *[answer] * max(0, groups - len(steps))][:groups]
    if rest and groups and len(steps) > groups:
        texts[-1] = "".join(steps[groups - 1 :])
    return [text.strip() for text in texts]


def make_step_decoding(
    backbone: Backbone, settings: StepDecoderSettings, tokenizer: Any, texts: set[str], seed: int
) -> StepDecoding:
    """Return a decoder that knows the tokens of ``texts``, with weights that depend on the seed alone."""
    found = tokenizer(sorted(texts), add_special_tokens=False).input_ids
    words = {token: UNKNOWN + 1 + number for number, token in enumerate(sorted(set().union(*found)))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = StepDecoder(backbone.hidden_size, UNKNOWN + 1 + len(words), settings)
    return StepDecoding(decoder.to(backbone.dtype), settings, tokenizer, words)
