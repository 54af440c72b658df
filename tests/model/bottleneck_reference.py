"""A row under a bottleneck, slowly and by the definition: every latent a pass of the stock model over all before it.

Nothing of the layout, the passes or the table of segments is used: what each token may see is said here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.latent.examples import EncodedExample
from mirage_core.model.backbone import Backbone
from tests.latent.tiny import IDS


@dataclass(frozen=True)
class Slot:
    """A token of the sequence that the stock model sees: ``kind`` before, image, start, latent, read or after."""

    kind: str
    token: int
    """Its index in the row."""


@dataclass(frozen=True)
class Reference:
    """hidden [T, D] of the row's own tokens, latents [k, D] as they were rolled out."""

    hidden: Tensor
    latents: Tensor


def slots_of(example: EncodedExample, bottleneck: str) -> list[Slot]:
    """The row's tokens, with each span once more behind itself where only the vectors are seen."""
    pads = [int(token) == IDS.latent_pad for token in example.ids]
    slots: list[Slot] = []
    span: list[int] = []
    begun = False
    for token, pad in enumerate(pads):
        if pad:
            slots.append(Slot("latent", token))
            span.append(token)
            begun = True
        else:
            slots.append(Slot(_kind_of_text(int(example.ids[token]), begun, bottleneck), token))
        if span and (token + 1 == len(pads) or not pads[token + 1]):
            slots += [Slot("read", latent) for latent in span] if bottleneck == "latent_only" else []
            span = []
    return slots


def _kind_of_text(token: int, begun: bool, bottleneck: str) -> str:
    if bottleneck == "image" and token in (IDS.image_pad, IDS.latent_start):
        return "image" if token == IDS.image_pad else "start"
    return "after" if begun else "before"


def sees(asking: Slot, other: Slot, bottleneck: str) -> bool:
    """The definition, for ``other`` at or before ``asking``."""
    if bottleneck == "image":
        return other.kind != "image" or asking.kind in ("image", "start", "latent")
    if asking.kind in ("before", "latent"):
        return other.kind != "read"
    return {
        "none": True,
        "latent_kv": other.kind != "before",
        "latent_only": other.kind in ("read", "after"),
    }[bottleneck]


def reference(
    backbone: Backbone,
    example: EncodedExample,
    bottleneck: str,
    given: Sequence[Tensor] | None = None,
    disturbed: Callable[[int, Tensor], Tensor] = lambda _, latent: latent,
) -> Reference:
    """The row alone; its latents rolled out under gradient and fed as ``disturbed``, or ``given`` [k, D] a span."""
    embedded, deep = _embedded(backbone, example)
    slots = slots_of(example, bottleneck)
    constants = None if given is None else list(torch.cat(list(given)))
    vectors: dict[int, Tensor] = {}
    rolled: list[Tensor] = []
    inputs: list[Tensor] = []
    for count, slot in enumerate(slots):
        if slot.kind == "latent":
            if constants is None:
                rolled.append(_stock(backbone, example, slots[:count], inputs, deep, bottleneck)[-1])
                vectors[slot.token] = disturbed(len(rolled) - 1, rolled[-1])
            else:
                vectors[slot.token] = constants[len(vectors)]
        inputs.append(vectors.get(slot.token, embedded[slot.token]))
    hidden = _stock(backbone, example, slots, inputs, deep, bottleneck)
    own = [at for at, slot in enumerate(slots) if slot.kind != "read"]
    return Reference(hidden[own], torch.stack(rolled) if rolled else hidden[:0])


def _embedded(backbone: Backbone, example: EncodedExample) -> tuple[Tensor, Tensor]:
    """Inputs [T, D], and what images add to the first layers [L, image tokens, D]."""
    model, image = backbone.model.model, example.ids == IDS.image_pad
    embedded, deep = model.language_model.embed_tokens(example.ids), torch.zeros(0)
    if len(example.grid_thw):
        images = model.get_image_features(example.pixel_values, example.grid_thw)
        embedded = embedded.index_put((image.nonzero()[:, 0],), torch.cat(images.pooler_output))
        layers = [torch.cat(layer) for layer in getattr(images, "deepstack_features", [])]
        deep = torch.stack(layers) if layers else deep
    return embedded, deep


def _stock(
    backbone: Backbone, example: EncodedExample, slots: list[Slot], inputs: list[Tensor], deep: Tensor, bottleneck: str
) -> Tensor:
    """Hidden states of the slots so far, in one pass of the stock language model with an explicit mask."""
    tokens = torch.tensor([slot.token for slot in slots])
    positions = backbone.position_ids(example.ids, torch.tensor([len(example.ids)]), example.grid_thw)[:, tokens]
    allowed = torch.tensor(
        [[k <= q and sees(one, other, bottleneck) for k, other in enumerate(slots)] for q, one in enumerate(slots)]
    )
    mask = torch.zeros(allowed.shape, dtype=inputs[0].dtype).masked_fill(~allowed, torch.finfo(inputs[0].dtype).min)
    visual = {}
    shown = example.ids[tokens] == IDS.image_pad
    if len(deep):
        visual = {"visual_pos_masks": shown[None], "deepstack_visual_embeds": deep[:, : int(shown.sum())]}
    result = backbone.model.model.language_model(
        inputs_embeds=torch.stack(inputs)[None],
        position_ids=positions[:, None],
        attention_mask=mask[None, None],
        use_cache=False,
        **visual,
    )
    hidden: Tensor = result.last_hidden_state[0]
    return hidden
