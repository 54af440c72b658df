"""What a store holds beside a pipeline's artifacts and run records, written once so that the flips damage it, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mirage_core.errors import MirageError
from mirage_core.llm_client.response_cache import ANSWERS, Answer, StoredResponseCache
from mirage_core.pipeline.shards import SHARD
from mirage_core.pipeline.trend import Comparison, TrendPoint, folder, load_points, reference_to, save_point
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact

ANSWER, NIGHT = "teacher's answer", "night of the trend"
SERIES, MODEL, REQUEST = "soaked", "a-model", "a" * 64


def put_beside(store: Store, model: Artifact) -> Artifact:
    """A teacher's answer, a night of the trend, and a shard, which is given."""
    answer = Answer(
        request=REQUEST, problem="p", template="t@1", attempt=1, model=MODEL, served="m", text="RIGHT, DOWN " * 40,
        finish="stop", prompt_tokens=9, completion_tokens=80,
    )  # fmt: skip
    StoredResponseCache(store, MODEL).save(answer)
    save_point(store, _night(model))
    return _shard(store)


def _night(model: Artifact) -> TrendPoint:
    there = reference_to(model)
    return TrendPoint(
        night="n", time="2026-01-02T02:00:00+00:00", pointer=SERIES, method="stage-2", model=there, problems=there,
        test_problems="c" * 64, rules={"vsp-planning": "mirage"}, evaluation=there, cached=False, use={}, scores=(),
        comparison=Comparison(outcome="first night", said="the first night"),
    )  # fmt: skip


def _shard(store: Store) -> Artifact:
    """The problems once more, as a share of a stage: shards are dropped when their stage is done."""
    source: Path = store.fetch(store.list("problems")[0])
    about = {"stage": "problems"}
    return store.publish(SHARD, fingerprint(SHARD, 1, "soaked", {}), source, summary={"of": "d" * 64}, about=about)


def keys(store: Store) -> dict[str, list[tuple[str, str]]]:
    """By kind, of every file put there: what the product calls it, and its key."""
    (answer,) = store.names(ANSWERS)
    (night,) = store.names(f"{folder(SERIES)}/nights")
    return {ANSWER: [(answer, answer)], NIGHT: [(night, night)]}


def read_answer(store: Store, _: Artifact) -> str | None:
    """What the product says of the answer; None where it takes it for good."""
    return "asked again" if StoredResponseCache(store, MODEL).find(REQUEST) is None else None


def read_night(store: Store, _: Artifact) -> str | None:
    """The same of the night."""
    return _said_by(lambda: load_points(store, SERIES))


READ: dict[str, Callable[[Store, Artifact], str | None]] = {
    ANSWER: read_answer,
    NIGHT: read_night,
}


def _said_by(work: Callable[[], object]) -> str | None:
    try:
        work()
    except MirageError as error:
        return str(error)
    return None
