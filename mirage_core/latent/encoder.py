"""Encode problems and training examples as token ids and pixels.

A target is text_before, a latent span in place of the auxiliary image (or its caption, or its codes), text_after, end
of turn, newline. As in the released code everything after "<|im_start|>assistant" is supervised, the newline,
latent_start and latent_end too, but no latent_pad. Legend: T tokens, P patches, N images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain as chain_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core import benchmarks
from mirage_core.benchmarks.regions import cropped
from mirage_core.config import LatentSettings, PromptSettings
from mirage_core.errors import DataError, InputError
from mirage_core.latent.compress import changed_patches
from mirage_core.latent.examples import (
    IGNORED,
    ChatMessage,
    EncodedExample,
    EncodedPrompt,
    no_grids,
    no_pixels,
    no_tokens,
)
from mirage_core.latent.images import image_size, open_image, patch_grid
from mirage_core.latent.regions import region_lengths, region_tokens
from mirage_core.latent.tokens import TokenIds, token_ids
from mirage_core.latent.visual_codes import codes_of
from mirage_core.types import AuxiliaryImage, LatentSpan, Problem, TrainingExample, Variant

IMAGE_MARK = "<image>"
_SPECIAL = re.compile(r"<\|\w+\|>")


class Encoder:
    """Encodes problems for one processor, with the prompt and latent settings of one recipe.

    SettingsError if the processor's tokenizer lacks the latent tokens.
    """

    def __init__(self, processor: Any, latent: LatentSettings, prompt: PromptSettings, variant: Variant) -> None:
        self._processor, self._latent, self._prompt, self._variant = processor, latent, prompt, variant
        self._ids = token_ids(processor.tokenizer)
        smallest = dict(processor.image_processor.size)["shortest_edge"]
        self._size = {"shortest_edge": smallest, "longest_edge": max(prompt.max_pixels, smallest)}

    def prompt(self, problem: Problem) -> EncodedPrompt:
        """Encode the chat prompt up to and including the newline after "<|im_start|>assistant".

        DataError for text that contains special tokens, and for images that are broken or do not match the text.
        """
        return self._encoded_prompt(
            self._chat(problem), *self.pixels(problem.images, f"an image of problem {problem.id}")
        )

    def parts(self, problem: Problem) -> list[dict[str, str]]:
        """Return the parts of the message that asks a problem. DataError where they do not match its images."""
        question = benchmarks.get(problem.benchmark).prompt(problem, self._prompt.form, self._variant)
        _refuse_special(question, f"the question of problem {problem.id}")
        pieces = question.split(IMAGE_MARK)
        if len(pieces) != len(problem.images) + 1:
            raise DataError(
                f"Problem {problem.id} has {len(problem.images)} images, but its question has {len(pieces) - 1} times "
                f"{IMAGE_MARK}; write one for each image."
            )
        marked = [({"type": "image"}, {"type": "text", "text": piece}) for piece in pieces]
        return [part for pair in marked for part in pair if part.get("text") != ""][1:]

    def conversation(self, messages: Sequence[ChatMessage], pixels: Tensor, grids: Tensor) -> EncodedPrompt:
        """Encode a conversation as ``prompt`` does a question: its words as they are.

        ``pixels`` [P, C] and ``grids`` [N, 3]: of its images in their order, as ``pixels`` returns them. DataError for
        text with special tokens, and for another number of images than it mentions.
        """
        parts = [part for message in messages for part in message["content"]]
        mentioned = sum(part["type"] == "image" for part in parts)
        if mentioned != len(grids):
            raise DataError(f"got {len(grids)} images, expected {mentioned}: one for each image part of the messages")
        borders = [self._ids.latent_start, self._ids.latent_pad, self._ids.latent_end]
        for part in parts:
            _refuse_special(part.get("text", ""), "a message", self._processor.tokenizer.convert_ids_to_tokens(borders))
        return self._encoded_prompt(self._rendered(messages), pixels, grids)

    def _encoded_prompt(self, rendered: str, pixels: Tensor, grids: Tensor) -> EncodedPrompt:
        """Encode a rendered chat, with as many tokens for each image as it has merged patches."""
        ids = np.array(self._tokenize(rendered))
        merged = self._processor.image_processor.merge_size**2
        repeats = np.ones_like(ids)
        repeats[ids == self._ids.image_pad] = (grids.prod(-1) // merged).numpy()
        return EncodedPrompt(ids=torch.from_numpy(ids.repeat(repeats)), pixel_values=pixels, grid_thw=grids)

    def example(
        self,
        example: TrainingExample,
        *,
        with_latents: bool,
        with_targets: bool | None = None,
        regions: RegionLayout | None = None,
    ) -> EncodedExample:
        """Encode the prompt and its chain, with a latent span in place of the auxiliary image, or without.

        ``with_targets``: encode the auxiliary image too (default: with latents; only grounding needs it).
        ``regions``: spans, one a region of the problem, take the place of the auxiliary image, which is not needed.
        DataError as for ``prompt``, and for a problem without regions; InputError if chain and prompt are of different
        variants.
        """
        chain, prompt = example.chain, self._checked_prompt(example)
        shown = None if regions is None else self._regions(example.problem, prompt, regions)
        answer, labels = self._answer(example, with_latents, shown)
        pixels, grids = no_pixels(), no_grids()
        patch_masks: tuple[Tensor, ...] = ()
        if shown is not None:
            pixels, grids = shown.pixels, shown.grids
        elif with_latents and with_targets is not False:
            pixels, grids = self.pixels((example.auxiliary_image.image,), auxiliary_name(chain.problem_id))
            patch_masks = self._patch_masks(pixels, grids, prompt)
        return EncodedExample(
            ids=torch.cat([prompt.ids, answer]),
            labels=torch.cat([self._prompt_labels(prompt), labels]),
            pixel_values=prompt.pixel_values,
            grid_thw=prompt.grid_thw,
            auxiliary_pixel_values=pixels,
            auxiliary_grid_thw=grids,
            auxiliary_patch_masks=patch_masks,
            region_tokens=no_tokens() if shown is None else shown.tokens,
        )

    def _regions(self, problem: Problem, prompt: EncodedPrompt, layout: RegionLayout) -> ShownRegions:
        """What the spans of a problem's regions are held to."""
        regions = benchmarks.get(problem.benchmark).regions(problem)
        merge = int(self._processor.image_processor.merge_size)
        if layout.crop:
            crops = [cropped(problem.images[0], region) for region in regions]
            pixels, grids = self.pixels(crops, f"a region of problem {problem.id}")
            lengths = [int(count) for count in grids.prod(-1) // merge**2]
            return ShownRegions(lengths, no_tokens(), pixels, grids, layout.stop_token)
        tokens = [region_tokens(region, prompt.grid_thw[0].tolist(), merge) for region in regions]
        return ShownRegions(list(map(len, tokens)), torch.cat(tokens), no_pixels(), no_grids(), layout.stop_token)

    def _region_lengths(self, problem: Problem, layout: RegionLayout) -> ShownRegions:
        """The lengths of what ``_regions`` returns, and nothing else of it."""
        grid = partial(self.token_grid, what=f"an image of problem {problem.id}")
        lengths = region_lengths(problem, grid, crop=layout.crop)
        return ShownRegions(lengths, no_tokens(), no_pixels(), no_grids(), layout.stop_token)

    def _checked_prompt(self, example: TrainingExample) -> EncodedPrompt:
        """Encode the prompt of an example whose chain is of its variant, and free of special tokens."""
        chain = example.chain
        if chain.variant != self._variant:
            raise InputError(f"The chain of {chain.problem_id} is {chain.variant!r}, the prompt {self._variant!r}.")
        prompt = self.prompt(example.problem)
        for text in (chain.text_before, chain.caption, chain.text_after):
            _refuse_special(text, f"the chain of problem {chain.problem_id}")
        return prompt

    def _prompt_labels(self, prompt: EncodedPrompt) -> Tensor:
        """Return the labels of a prompt: the newline that ends it."""
        labels = torch.full_like(prompt.ids, IGNORED)
        newline = len(self._tokenize("\n"))
        labels[-newline:] = prompt.ids[-newline:]
        return labels

    def _patch_masks(self, pixels: Tensor, grids: Tensor, prompt: EncodedPrompt) -> tuple[Tensor, ...]:
        """The mask of the auxiliary image's merged patches that targets average; empty: all of them."""
        if self._latent.compression != "changed_patches":
            return ()
        first = prompt.pixel_values[: int(prompt.grid_thw[0].prod())] if len(prompt.grid_thw) else no_pixels()
        same_size = len(prompt.grid_thw) > 0 and torch.equal(prompt.grid_thw[0], grids[0])
        merged = int(self._processor.image_processor.merge_size) ** 2
        return (changed_patches(pixels, first if same_size else no_pixels(), merged),)

    def length(self, example: TrainingExample, *, with_latents: bool, regions: RegionLayout | None = None) -> int:
        """The number of tokens of ``example``, without decoding an image (but for crops): sizes come from the headers.

        DataError as for ``example``.
        """
        shown = None if regions is None else self._region_lengths(example.problem, regions)
        return self._prompt_length(example.problem) + len(self._answer(example, with_latents, shown)[0])

    def _prompt_length(self, problem: Problem) -> int:
        text = len(self._tokenize(self._chat(problem))) - len(problem.images)  # each has one image_pad
        images = sum(self._image_tokens(data, f"an image of problem {problem.id}") for data in problem.images)
        return text + images

    def _answer(
        self, example: TrainingExample, with_latents: bool, shown: ShownRegions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids and labels of the target; latents replace the caption, and so do the codes of an image that has any."""
        chain, codes = example.chain, codes_of(example.auxiliary_image)
        if not with_latents and not codes:
            return self._target(chain.text_before + chain.words + chain.text_after)
        spans = self._spans(example.auxiliary_image, shown) if with_latents else [self._ids.visual_span(codes)]
        return self._target(chain.text_before, spans, chain.text_after)

    def _spans(self, image: AuxiliaryImage, shown: ShownRegions | None) -> list[tuple[int, ...]]:
        """Ids of the spans with their borders, latent_pad at the latents."""
        if shown is None:
            return [self._span(span_length(image, self._latent))]
        return [self._span(length, stop=shown.stop_token) for length in shown.lengths]

    def _span(self, num_latents: int, *, stop: bool = False) -> tuple[int, ...]:
        """Ids of a span; ``stop``: with a place for the learned stop vector."""
        ids = self._ids
        return (ids.latent_start, *[ids.latent_pad] * num_latents, *[ids.pad] * stop, ids.latent_end)

    def target(self, before: str, num_latents: int | None = None, after: str = "") -> tuple[Tensor, Tensor]:
        """Ids [T] and labels [T] of a target: text, a span of so many latents, text, end of turn; None: no span."""
        if num_latents is None:
            return self._target(before + after)
        return self._target(before, [self._span(num_latents)], after)

    def _target(self, before: str, spans: Sequence[Sequence[int]] = (), after: str = "") -> tuple[Tensor, Tensor]:
        """Ids [T] and labels [T] of text, spans and text: none at latents and at the places of stop vectors."""
        ids = self._ids
        tokens = [*self._tokenize(before), *chain_of.from_iterable(spans), *self._tokenize(after)]
        answer = torch.tensor([*tokens, ids.end_of_turn, *self._tokenize("\n")])
        silent = (answer == ids.latent_pad) | (answer == ids.pad)
        return answer, answer.masked_fill(silent, IGNORED)

    @property
    def latent_pad(self) -> int:
        """The id of a latent."""
        return self._ids.latent_pad

    def tokens_from(self, text: str, place: int) -> int:
        """Return how many tokens of a target that ends in ``text`` come after its letter ``place``, its token included.

        End of turn and newline are counted.
        """
        found = self._processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        after = sum(end > place for _, end in found["offset_mapping"])
        return after + 1 + len(self._tokenize("\n"))

    def _chat(self, problem: Problem) -> str:
        """Render the chat, with one image_pad for each image."""
        return self._rendered([{"role": "user", "content": self.parts(problem)}])

    def _rendered(self, messages: Sequence[ChatMessage]) -> str:
        """Render messages up to the begin of the assistant's next one."""
        rendered: str = self._processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return rendered

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _image_tokens(self, data: bytes, what: str) -> int:
        """The number of merged patches of an image file, by the processor's own rule."""
        rows, columns = self.token_grid(data, what)
        return rows * columns

    def token_grid(self, data: bytes, what: str) -> tuple[int, int]:
        """Rows and columns of the merged tokens of an image file, from its header. DataError, naming ``what``."""
        processor = self._processor.image_processor
        limits = {"min_pixels": self._size["shortest_edge"], "max_pixels": self._size["longest_edge"]}
        try:
            rows, columns = patch_grid(processor, image_size(data, self._prompt.image_scale, what), limits)
        except ValueError as error:
            raise DataError(f"{what}: {error}") from error
        merge = int(processor.merge_size)
        return rows // merge, columns // merge

    def pixels(self, images: Sequence[bytes], what: str) -> tuple[Tensor, Tensor]:
        """Patches [P, C] and grids [N, 3] of image files. DataError, naming ``what``, if one is broken."""
        if not images:
            return no_pixels(), no_grids()
        opened = [open_image(data, self._prompt.image_scale, what, self._prompt.background) for data in images]
        try:
            encoded = self._processor.image_processor(images=opened, size=self._size, return_tensors="pt")
        except ValueError as error:
            raise DataError(f"{what}: {error}") from error
        return encoded["pixel_values"], encoded["image_grid_thw"]


@dataclass(frozen=True, slots=True)
class RegionLayout:
    """How spans show regions: by the image's own tokens, or by a ``crop`` encoded anew; ``stop_token``: a token after
    the latents, an unlabelled pad, holds the learned stop vector."""

    crop: bool = False
    stop_token: bool = False


@dataclass(frozen=True, slots=True)
class ShownRegions:
    """The latents of each span, and the image tokens [n], or the crops' patches and grids, that they are held to."""

    lengths: Sequence[int]
    tokens: Tensor
    pixels: Tensor
    grids: Tensor
    stop_token: bool


def auxiliary_name(problem_id: str) -> str:
    """Return what errors call the auxiliary image of a problem."""
    return f"the auxiliary image of problem {problem_id}"


def span_length(image: AuxiliaryImage, latent: LatentSettings) -> int:
    """Return the latents of an example's span; DataError where it goes by frames and the image has no film."""
    if latent.length == "fixed":
        return latent.num_latents
    frames = int(image.details.get("frames", 0))
    if not frames:
        raise DataError(
            f"latent.length is frames, but the auxiliary image of problem {image.problem_id} has no film: set "
            "auxiliary_images.film to forward, or latent.length to fixed"
        )
    return min(frames, latent.max_latents)


def encode_rollout(
    prompt: EncodedPrompt,
    token_ids: Sequence[int],
    spans: Sequence[LatentSpan],
    sampled: Sequence[bool],
    ids: TokenIds,
) -> EncodedExample:
    """Encode a sampled answer as an example: latent_pad at its spans, labels at sampled tokens only (GRPO).

    ``token_ids``, ``spans``, ``sampled``: those of a Trajectory.
    """
    tokens = np.array(token_ids, dtype=np.int64)
    labels = np.where(np.array(sampled, dtype=bool), tokens, IGNORED)
    lengths = [span.num_latents for span in spans]
    insert_at = np.array([span.position for span in spans], dtype=np.int64).repeat(lengths)
    answer = torch.from_numpy(np.insert(tokens, insert_at, ids.latent_pad))
    return EncodedExample(
        ids=torch.cat([prompt.ids, answer]),
        labels=torch.cat(
            [torch.full_like(prompt.ids, IGNORED), torch.from_numpy(np.insert(labels, insert_at, IGNORED))]
        ),
        pixel_values=prompt.pixel_values,
        grid_thw=prompt.grid_thw,
        auxiliary_pixel_values=no_pixels(),
        auxiliary_grid_thw=no_grids(),
        image_features=prompt.image_features,
    )


def _refuse_special(text: str, what: str, others: Sequence[str] = ()) -> None:
    """DataError for text with special tokens, ``others`` among them, which would be read as structure."""
    match = _SPECIAL.search(text)
    found = match.group() if match else next((token for token in others if token in text), None)
    if found:
        raise DataError(f"{what} contains the special token {found}; remove it from the text.")
