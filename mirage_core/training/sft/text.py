"""The loss of text.

Legend: B rows, T columns, D hidden.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy as token_cross_entropy

from mirage_core.latent.examples import IGNORED
from mirage_core.model.backbone import Backbone


def cross_entropy(backbone: Backbone, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the (shifted) labels [B, T], with logits only there; 0 without labels."""
    labelled = labels != IGNORED
    targets = labels[labelled]
    if not len(targets):
        return hidden.sum() * 0.0
    return token_cross_entropy(backbone.logits(hidden[labelled]).float(), targets)
