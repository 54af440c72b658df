"""Add captions to whole data sets, by the oracle or the endpoint that wrote the chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from mirage_core.config import Settings
from mirage_core.store import Store
from mirage_core.teacher.captions import caption_faults, oracle_caption, rejection_of, with_caption
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import TeachResult
from mirage_core.types import Progress, ProgressEvent, TrainingExample

PART_SIZE = 256


def caption_examples(
    examples: Iterable[TrainingExample], settings: Settings, store: Store, progress: Progress
) -> Iterator[TeachResult]:
    """Yield the examples with captions in parts, each with its rejections, in order.

    The oracle's parts are small to bound memory; an endpoint is asked about all examples at once. A chain with marks
    has its caption from its data set; with an endpoint these come first.
    """
    if settings.teacher.kind == "oracle":
        yield from _by_oracle(examples, settings, progress)
    else:
        from mirage_core.teacher.endpoint_captions import captions_by_endpoint

        marked, unmarked = list[TrainingExample](), list[TrainingExample]()
        for example in examples:
            (marked if example.chain.marked else unmarked).append(example)
        yield from _by_oracle(marked, settings, progress)
        if unmarked:
            yield captions_by_endpoint(unmarked, settings, store, progress)


def _by_oracle(examples: Iterable[TrainingExample], settings: Settings, progress: Progress) -> Iterator[TeachResult]:
    remaining, done = iter(examples), 0
    while part := list(islice(remaining, PART_SIZE)):
        accepted, rejections = [], []
        for example in part:
            captioned = example
            if not example.chain.marked:
                captioned = with_caption(example, oracle_caption(example, settings.captions))
            faults = caption_faults(captioned, settings.captions)
            if faults:
                rejections.append(rejection_of(captioned, faults, OracleTeacher.name))
            else:
                accepted.append(captioned)
        done += len(part)
        progress(ProgressEvent(stage="captions", message=f"{done} chains captioned"))
        yield TeachResult(examples=accepted, rejections=rejections)
