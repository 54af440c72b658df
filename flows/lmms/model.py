"""A Mirage checkpoint as a model of lmms-eval, with its own prompt ending, latents and decoding.

Checked against lmms-eval 0.7.3: a "simple" model, whose requests are (context, generation settings, pictures of a
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

from flows.trained import Checkpoint, checkpoint
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.config import EvaluationSettings
from mirage_core.errors import DataError, InputError
from mirage_core.generation.generator import Answerer
from mirage_core.model.loading import load_model
from mirage_core.pipeline.stages.evaluate import latents_of
from mirage_core.types import Problem
from tasks.paths import open_store

_MARK = "<image>"
_LATENTS = re.compile(r"<latents:\d+>")


class Mirage(lmms):
    """Answers lmms-eval's requests with a trained model.

    ``pretrained``: a model folder or an artifact of the store; ``method``: how it answers (default: as it
    was trained). ``answer``: "final" hands over the box's text, or what follows the thought; "full" everything. The
    longest answer is the checkpoint's own, not the task's: tasks ask for 16 tokens, and a thought needs more;
    ``max_new_tokens`` overrules it. Tasks' stop words apply to the final answer.
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
        self._device = torch.device(device) if device else own_device()
        chosen = checkpoint(str(pretrained), method, open_store(store))
        self._answerer = _answerer(chosen, max_new_tokens, self._device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self._answerer.loaded.processor.tokenizer

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to every request, in their order."""
        answers: list[str] = []
        for first in range(0, len(requests), self.batch_size):
            batch = [request.args for request in requests[first : first + self.batch_size]]
            problems = [self._problem(arguments, first + at) for at, arguments in enumerate(batch)]
            for arguments, samples in zip(batch, self._answerer.batch(problems), strict=True):
                text = self._said(samples[0].prediction.output, arguments[1])
                self.cache_hook.add_partial("generate_until", (arguments[0], arguments[1]), text)
                answers.append(text)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: an answer that thinks in latents has no likelihood under a fixed text."""
        raise InputError(
            f"mirage answers in its own words: {len(requests)} likelihoods were asked for; take a task with "
            "output_type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: a checkpoint is trained on single questions."""
        raise InputError(f"mirage answers single questions: {len(requests)} conversations were asked for")

    def _problem(self, arguments: Sequence[Any], number: int) -> Problem:
        """A request as a problem without an answer."""
        context, _, doc_to_visual, doc_id, task, split = arguments
        where = f"{task}, document {doc_id}"
        images = tuple(encoded(picture, where) for picture in flat(doc_to_visual(self.task_dict[task][split][doc_id])))
        text = str(context)
        if text.count(_MARK) != len(images):
            text = _MARK * len(images) + "\n" * bool(images) + text.replace(_MARK, "").lstrip()
        return Problem(
            id=f"{task}-{split}-{doc_id}-{number}", benchmark="own", split="test", group=str(task), question=text,
            images=images, answer="",
        )  # fmt: skip

    def _said(self, output: str, generation: Mapping[str, Any]) -> str:
        """What is handed over of an output."""
        if self._full:
            return output
        box = boxed(output)
        text = box if box is not None else _LATENTS.sub("", output.rpartition("</think>")[2]).strip()
        until = generation.get("until") or ()
        for stop in (until,) if isinstance(until, str) else until:
            text = text.split(stop)[0] if stop and text.strip() != stop.strip() else text
        return text


def flat(visuals: Any) -> Iterator[Any]:
    """The pictures of a document, however deep lmms-eval nests them; none where it has none."""
    if visuals is None:
        return
    if isinstance(visuals, list | tuple):
        for visual in visuals:
            yield from flat(visual)
    else:
        yield visuals


def encoded(picture: Any, where: str) -> bytes:
    """A picture of lmms-eval as PNG bytes; DataError for videos and sounds."""
    if not isinstance(picture, Image.Image):
        raise DataError(f"{where}: got {type(picture).__name__}, expected a picture: Mirage reads no video or sound")
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def own_device() -> torch.device:
    """The GPU of this process among those that accelerate or torchrun started on this machine, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _answerer(chosen: Checkpoint, max_new_tokens: int | None, device: torch.device) -> Answerer:
    settings = chosen.settings
    asked = {"samples": 1} | ({"max_new_tokens": int(max_new_tokens)} if max_new_tokens else {})
    evaluation = EvaluationSettings.model_validate({**settings.evaluation.model_dump(), **asked})
    loaded = load_model(chosen.folder, dtype=settings.model.dtype, attention=settings.model.attention, device=device)
    return Answerer(
        loaded,
        settings.model_copy(update={"evaluation": evaluation}),
        method=chosen.method,
        latents=latents_of(chosen.method),
    )
