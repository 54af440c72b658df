"""A Mirage checkpoint as a model of lmms-eval, with its own prompt ending, latents and decoding.

Checked against lmms-eval 0.7.3: a "simple" model, whose requests are (context, generation settings, images of a
document, document, task, split).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms
from PIL import Image

from flows.trained import Checkpoint, find_checkpoint
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.config import EvaluationSettings
from mirage_core.errors import DataError, InputError
from mirage_core.generation.generator import Generator
from mirage_core.image_files import to_rgb
from mirage_core.methods import get_method
from mirage_core.model.loading import load_model
from mirage_core.types import Problem
from tasks.paths import open_store

_IMAGE_MARK = "<image>"
_LATENTS = re.compile(r"<latents:\d+>|<\|visual_\w+\|>")


class Mirage(lmms):
    """Answers lmms-eval's requests with a trained model.

    ``pretrained``: a model folder or an artifact of the store; ``method``: how it answers (default: as trained).
    ``answer``: "final" returns the text in the box, or after the reasoning; "full" everything. The length limit is the
    checkpoint's, not the task's (often 16 tokens, too few for reasoning); ``max_new_tokens`` overrides it. Stop words
    of tasks apply to the final answer.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        method: str | None = None,
        answer: str = "final",
        max_new_tokens: int | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        store: str | None = None,
        max_batch_size: int | str | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown or answer not in ("final", "full"):
            raise InputError(
                f"got the model_args {sorted(unknown)} and answer={answer!r}, expected pretrained, method, answer "
                "(final or full), max_new_tokens, batch_size, device, store"
            )
        del max_batch_size  # of lmms-eval's automatic batch sizes
        self._full = answer == "full"
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 1
        self._device = torch.device(device) if device else local_device()
        checkpoint = find_checkpoint(str(pretrained), method, open_store(store))
        self._generator = _generator(checkpoint, max_new_tokens, self._device)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._device

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._generator.model.processor.tokenizer

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return an answer to every request, in order."""
        answers: list[str] = []
        for first in range(0, len(requests), self.batch_size):
            batch = [request.args for request in requests[first : first + self.batch_size]]
            problems = [self._problem(arguments, first + index) for index, arguments in enumerate(batch)]
            for arguments, samples in zip(batch, self._generator.predictions(problems), strict=True):
                text = self._response(samples[0].output, arguments[1])
                self.cache_hook.add_partial("generate_until", (arguments[0], arguments[1]), text)
                answers.append(text)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported: an answer with latents has no likelihood given a fixed text."""
        raise InputError(
            f"mirage only generates answers, got {len(requests)} requests of likelihoods: take a task with output_type "
            "generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported: a checkpoint is trained on single questions."""
        raise InputError(f"mirage only answers single questions, got {len(requests)} conversations")

    def _problem(self, arguments: Sequence[Any], number: int) -> Problem:
        """Return a request as a problem without an answer."""
        context, _, doc_to_visual, doc_id, task, split = arguments
        where = f"{task}, document {doc_id}"
        images = tuple(
            encode_png(image, where) for image in flatten(doc_to_visual(self.task_dict[task][split][doc_id]))
        )
        text = str(context)
        if text.count(_IMAGE_MARK) != len(images):
            text = _IMAGE_MARK * len(images) + "\n" * bool(images) + text.replace(_IMAGE_MARK, "").lstrip()
        return Problem(
            id=f"{task}-{split}-{doc_id}-{number}", benchmark="own", split="test", group=str(task), question=text,
            images=images, answer="",
        )  # fmt: skip

    def _response(self, output: str, generation: Mapping[str, Any]) -> str:
        """Return the part of an output that lmms-eval gets."""
        if self._full:
            return output
        box = boxed(output)
        text = box if box is not None else _LATENTS.sub("", output.rpartition("</think>")[2]).strip()
        until = generation.get("until") or ()
        for stop in (until,) if isinstance(until, str) else until:
            text = text.split(stop)[0] if stop and text.strip() != stop.strip() else text
        return text


def flatten(visuals: Any) -> Iterator[Any]:
    """Yield the images of a document, however deep lmms-eval nests them."""
    if visuals is None:
        return
    if isinstance(visuals, list | tuple):
        for visual in visuals:
            yield from flatten(visual)
    else:
        yield visuals


def encode_png(image: Any, where: str) -> bytes:
    """Return an image of lmms-eval as PNG bytes; DataError for videos and sounds."""
    if not isinstance(image, Image.Image):
        raise DataError(f"{where}: got {type(image).__name__}, expected an image: Mirage reads no video or sound")
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "PNG")
    return buffer.getvalue()


def local_device() -> torch.device:
    """Return the GPU of this process (LOCAL_RANK of accelerate or torchrun), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _generator(checkpoint: Checkpoint, max_new_tokens: int | None, device: torch.device) -> Generator:
    settings = checkpoint.settings
    overrides = {"samples": 1} | ({"max_new_tokens": int(max_new_tokens)} if max_new_tokens else {})
    evaluation = EvaluationSettings.model_validate({**settings.evaluation.model_dump(), **overrides})
    model = load_model(checkpoint.folder, dtype=settings.model.dtype, attention=settings.model.attention, device=device)
    return Generator.for_evaluation(
        model,
        settings.model_copy(update={"evaluation": evaluation}),
        method=checkpoint.method,
        latents=get_method(checkpoint.method).latents,
    )
