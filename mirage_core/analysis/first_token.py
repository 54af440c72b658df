r"""The distribution of the first token of an answer: what stands first inside the first ``\boxed{``.

Legend: n rows still going, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mirage_core.model.decode import Step

BOX = "\\boxed{"
_TAIL = len(BOX) + 8  # characters kept of what was written before


class FirstOfAnswer:
    r"""An observer of ``decode``: log-probabilities [V] of the token with which each row begins its answer.

    A tokenizer may write "{" and what follows as one token; then it is that token that begins the answer. Rows that
    never open a box have none. ``begun``: the answer begins at the first token (a prompt that ends in the box).
    """

    def __init__(self, tokenizer: Any, rows: int, *, begun: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pieces: dict[int, str] = {}
        self._tails = [BOX if begun else ""] * rows
        self.found: list[Tensor | None] = [None] * rows

    def __call__(self, step: Step) -> None:
        """Look at one step of decoding."""
        begins = [
            (place, row)
            for place, row in enumerate(step.rows.tolist())
            if not step.fed.latent[place] and self._begins(row, int(step.fed.tokens[place]))
        ]
        if begins and step.logits is not None:
            chosen = step.logits[torch.tensor([place for place, _ in begins], device=step.logits.device)]
            for (_, row), logits in zip(begins, chosen.float().log_softmax(-1).cpu(), strict=True):
                self.found[row] = logits

    def _begins(self, row: int, token: int) -> bool:
        """Whether this token is the first that reaches into the row's box; the row's text goes on with it."""
        if self.found[row] is not None:
            return False
        text = self._tails[row] + self._piece(token)
        self._tails[row] = text[-_TAIL:]
        inside = text.find(BOX)
        return inside >= 0 and len(text) > inside + len(BOX)

    def _piece(self, token: int) -> str:
        """The text of a token alone; of special tokens too, so that a row that ends in its box has begun an answer."""
        if token not in self._pieces:
            self._pieces[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._pieces[token]


def divergence(clean: Tensor, other: Tensor) -> float:
    """KL(clean || other) in nats, of log-probabilities [V]; tokens that ``clean`` never draws add nothing."""
    clean, other = clean.double(), other.double()
    terms = torch.where(clean > -torch.inf, clean.exp() * (clean - other), torch.zeros_like(clean))
    return float(terms.sum().clamp(min=0))
