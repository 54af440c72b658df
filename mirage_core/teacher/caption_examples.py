"""Captions for whole data sets, by the oracle or the endpoint that writes the chains; every loss is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from mirage_core.config import Settings
from mirage_core.store import Store
from mirage_core.teacher.captions import caption_faults, oracle_caption, rejected, with_caption
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import Taught
from mirage_core.types import Progress, ProgressEvent, TrainingExample

WINDOW = 256


def captioned(
    examples: Iterable[TrainingExample], settings: Settings, store: Store, progress: Progress
) -> Iterator[Taught]:
    """The examples with captions, part by part, and what was left out of each part, in order.

    The oracle's parts are small, so that memory does not grow; an endpoint is asked about everything at once.
    """
    if settings.teacher.kind == "oracle":
        yield from _by_oracle(examples, settings, progress)
    else:
        from mirage_core.teacher.endpoint_captions import captions_by_endpoint

        yield captions_by_endpoint(list(examples), settings, store, progress)


def _by_oracle(examples: Iterable[TrainingExample], settings: Settings, progress: Progress) -> Iterator[Taught]:
    waiting, done = iter(examples), 0
    while window := list(islice(waiting, WINDOW)):
        kept, left_out = [], []
        for example in window:
            made = with_caption(example, oracle_caption(example))
            faults = caption_faults(made, settings.captions)
            if faults:
                left_out.append(rejected(made, faults, OracleTeacher.name))
            else:
                kept.append(made)
        done += len(window)
        progress(ProgressEvent(stage="captions", message=f"{done} chains captioned"))
        yield Taught(examples=kept, rejections=left_out)
