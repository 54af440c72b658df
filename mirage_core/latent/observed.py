"""Encode chains whose caption stays in words, observed ones among them, with auxiliary images and spans (Monet).

Of each auxiliary image: the image itself, a span of latents, and the words up to the next one. As in the released code
neither images, latent_pad nor latent_end have a label; the tags around observed words are no tokens here.
Legend: T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from mirage_core.errors import DataError
from mirage_core.latent.encoder import Encoder, auxiliary_name, span_length
from mirage_core.latent.examples import IGNORED, EncodedExample, no_grids, no_pixels
from mirage_core.types import IMAGE_PLACE, OBSERVED, ReasoningChain, TrainingExample

_TAGGED = re.compile("{}(.*?){}".format(*map(re.escape, OBSERVED)), re.DOTALL)


class Part(NamedTuple):
    """Tokens of an answer, whether they have labels, and whether they count as observed."""

    tokens: list[int]
    labelled: bool = True
    observed: bool = False


class ObservedEncoder(Encoder):
    """Encodes examples of programs whose observed words count."""

    def observed(self, example: TrainingExample, *, with_latents: bool, with_image: bool) -> EncodedExample:
        """Encode the prompt and its chain: text before, then each auxiliary image, its span and its words, text after.

        Without tags in the caption all of its words are observed. DataError and InputError as for ``example``;
        DataError without a caption, and without the images that it has places for.
        """
        chain, prompt = example.chain, self._checked_prompt(example)
        if not chain.caption:
            raise DataError(f"The chain of problem {chain.problem_id} has no caption: read the examples of captions.")
        pixels, grids = no_pixels(), no_grids()
        if with_image:
            pixels, grids = self.pixels(_images(example), auxiliary_name(chain.problem_id))
        merged = int(self._processor.image_processor.merge_size) ** 2
        tokens = [int(grid.prod()) // merged for grid in grids] if with_image else None
        parts = [*self._parts(example, tokens, with_latents=with_latents)]
        answer = torch.tensor([token for part in parts for token in part.tokens])
        labelled, observed = (
            torch.tensor([getattr(part, kind) for part in parts for _ in part.tokens])
            for kind in ("labelled", "observed")
        )
        return EncodedExample(
            ids=torch.cat([prompt.ids, answer]),
            labels=torch.cat([self._prompt_labels(prompt), answer.masked_fill(~labelled, IGNORED)]),
            pixel_values=torch.cat([part for part in (prompt.pixel_values, pixels) if len(part)] or [no_pixels()]),
            grid_thw=torch.cat([prompt.grid_thw, grids]),
            auxiliary_pixel_values=no_pixels(),
            auxiliary_grid_thw=no_grids(),
            observed=torch.cat([torch.zeros(len(prompt.ids), dtype=torch.bool), observed]),
        )

    def observed_length(self, example: TrainingExample, *, with_latents: bool, with_image: bool) -> int:
        """The number of tokens of what ``observed`` returns, without decoding an image. DataError as for ``prompt``."""
        name, tokens = auxiliary_name(example.chain.problem_id), None
        if with_image:
            tokens = [self._image_tokens(image, name) for image in _images(example)]
        parts = self._parts(example, tokens, with_latents=with_latents)
        return self._prompt_length(example.problem) + sum(len(part.tokens) for part in parts)

    def _parts(
        self, example: TrainingExample, image_tokens: Sequence[int] | None, *, with_latents: bool
    ) -> Iterator[Part]:
        """Yield the parts of an answer; ``image_tokens``: of each auxiliary image, None where none is shown."""
        ids, chain = self._ids, example.chain
        length = self._span_length(example) if with_latents else 0
        yield Part(self._tokenize(chain.text_before))
        for number, words in enumerate(_words(chain)):
            if image_tokens is not None:
                image = [ids.image_pad] * image_tokens[number]
                yield Part([ids.vision_start, *image, ids.vision_end], labelled=False)
            if with_latents:
                yield Part([ids.latent_start])
                yield Part([*[ids.latent_pad] * length, ids.latent_end], labelled=False)
            yield from (Part(self._tokenize(text), observed=observed) for text, observed in words)
        yield Part([*self._tokenize(chain.text_after), ids.end_of_turn, *self._tokenize("\n")])

    def _span_length(self, example: TrainingExample) -> int:
        """The latents of each span of an example; DataError where it goes by frames, and these are several images."""
        if self._latent.length != "fixed" and example.chain.marked:
            raise DataError(
                f"latent.length is {self._latent.length}, but the chain of problem {example.chain.problem_id} has "
                "images of its own, not a film: set it to fixed"
            )
        return span_length(example.auxiliary_image, self._latent)


def _words(chain: ReasoningChain) -> list[list[tuple[str, bool]]]:
    """Return the texts after each auxiliary image up to the next one, and whether they are observed."""
    if not chain.marked:
        return [[(chain.caption, True)]]
    pieces = [_TAGGED.split(piece) for piece in chain.caption.split(IMAGE_PLACE)]
    return [[(text, at % 2 == 1) for at, text in enumerate(piece) if text] for piece in pieces]


def _images(example: TrainingExample) -> tuple[bytes, ...]:
    """The auxiliary images of a chain; DataError for another number than its caption has places for."""
    image, places = example.auxiliary_image, 1 + example.chain.caption.count(IMAGE_PLACE)
    images = (image.image,) if places == 1 else image.frames
    if len(images) != places:
        raise DataError(
            f"The chain of problem {image.problem_id} has {places} places of auxiliary images, but {len(images)} "
            "images are at hand: read the examples with their frames."
        )
    return images
