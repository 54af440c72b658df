"""The trend: a point a night, kept in the store under trend/<pointer>/, and each compared with the one before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.evaluation.regression import Change, compare
from mirage_core.pipeline.run_record import ScoreLine
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact, Scored


class Exchange(BaseModel):
    """Latents permuted between problems, the picture in view: the change of accuracy with its interval."""

    model_config = ConfigDict(frozen=True)

    way: str = Field(description="vectors, or states: keys and values.")
    n: int
    change: float | None
    interval: tuple[float, float] | None
    follow: float | None = Field(description="Answers right for the lender's problem.")
    follow_clean: float | None = Field(description="Clean answers that are.")

    @property
    def said(self) -> str:
        """The figures in words."""
        if self.change is None or self.interval is None:
            return "–"
        low, high = self.interval
        return f"{100 * self.change:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), n = {self.n}"


class LatentsLine(BaseModel):
    """The line of a night: verdicts, exchanges, the page; or why there are none. It never makes a night fail."""

    model_config = ConfigDict(frozen=True)

    said: str
    exchanges: tuple[Exchange, ...] = ()
    page: str | None = Field(None, description="The diagnosis in the store.")


def latents_line(store: Store, page: Artifact, figures: str) -> LatentsLine:
    """Read the line from a diagnosis; ``figures`` is the name of its JSON. ArtifactDamaged where that is none."""
    try:
        told: Any = json.loads((store.fetch(page) / figures).read_text(encoding="utf-8"))
        runs = told["measures"].get("interventions", {}).get("runs", [])
        exchanges = tuple(_exchange(run) for run in runs if run["name"] == "permute" and run["seen"] == "present")
        said = str(told["verdict"]["headline"])
    except (KeyError, TypeError, AttributeError, ValueError, FileNotFoundError) as error:
        raise ArtifactDamaged(f"{page.path}/{figures} is not a diagnosis ({error}): diagnose again") from error
    return LatentsLine(said=said, exchanges=exchanges, page=page.path)


def not_measured(problem: Exception) -> LatentsLine:
    """The line of a night whose diagnosis failed."""
    return LatentsLine(said=f"not measured: {problem}")


def _exchange(run: dict[str, Any]) -> Exchange:
    change, follow, clean = run["change"], run["follow"] or {}, run["follow_clean"] or {}
    ends = (change["low"], change["high"])
    return Exchange(
        way=str(run["way"]),
        n=run["n"],
        change=change["value"],
        interval=None if None in ends else ends,
        follow=follow.get("value"),
        follow_clean=clean.get("value"),
    )


logger = logging.getLogger(__name__)
TREND = "trend"
ALPHA = 0.05

Outcome = Literal["first night", "new series", "same model", "compared", "not comparable"]


class Reference(BaseModel):
    """An artifact by its place and content."""

    model_config = ConfigDict(frozen=True)

    path: str
    digest: str


class NightBefore(BaseModel):
    """The night a night is compared with."""

    model_config = ConfigDict(frozen=True)

    night: str
    time: str
    model: Reference
    evaluation: Reference


class Comparison(BaseModel):
    """How a night went against the one before; ``said`` is the outcome in a sentence."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    said: str
    alpha: float = ALPHA
    before: NightBefore | None = None
    changes: tuple[Change, ...] = ()

    @property
    def drops(self) -> tuple[Change, ...]:
        """The rows that are significantly worse now."""
        return tuple(change for change in self.changes if change.is_drop(self.alpha))


class TrendPoint(BaseModel):
    """One night. ``series`` is one word for the test problems and the rules: nights of one series can be compared."""

    model_config = ConfigDict(frozen=True)

    night: str = Field(description="The id of the night's run: a night that is tried again replaces its point.")
    time: str = Field(description="UTC, ISO 8601.")
    pointer: str
    method: str
    model: Reference
    problems: Reference
    test_problems: str = Field(description="Digest of the test problems alone.")
    rules: dict[str, str] = Field(description="How each benchmark's answers were judged.")
    evaluation: Reference
    cached: bool
    use: dict[str, Any] = Field(description="The evaluation's version and settings.")
    scores: tuple[ScoreLine, ...]
    comparison: Comparison
    latents: LatentsLine | None = Field(None, description="What a diagnosis of the night's model says; no drop of it.")

    @property
    def series(self) -> str:
        """What has to be equal for two nights to be compared."""
        return fingerprint("trend", 1, {"problems": self.test_problems, "rules": self.rules}, {})[:12]


def reference_to(artifact: Artifact) -> Reference:
    """An artifact as points tell it."""
    return Reference(path=artifact.path, digest=artifact.digest)


def folder(pointer: str) -> str:
    """Where the trend of a pointer is kept in the store."""
    return f"{TREND}/{pointer}"


def load_points(store: Store, pointer: str) -> list[TrendPoint]:
    """Every night of a pointer, oldest first; ArtifactDamaged names a point that cannot be read."""
    names = [name for name in store.names(f"{folder(pointer)}/nights") if name.endswith(".json")]
    return [_load(store, name) for name in sorted(names)]


def save_point(store: Store, point: TrendPoint) -> list[TrendPoint]:
    """Keep a night's point, in the place of an earlier attempt of the same night; returns every night there is now.

    A record beside the folder names the last evaluation of every series: the next night is compared with it, so
    `mirage store gc` must not take it; of older nights only the figures stay.
    """
    stamp = point.time.replace(":", "").replace("+0000", "Z")
    store.write_json(f"{folder(point.pointer)}/nights/{stamp}-{point.night}.json", point.model_dump(mode="json"))
    points = load_points(store, point.pointer)
    last = {each.series: each.evaluation.model_dump(mode="json") for each in points}
    store.write_json(f"{folder(point.pointer)}.json", {"compared_with_next": last})
    return points


def now() -> str:
    """This second, as points tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def compared(store: Store, point: TrendPoint, points: Sequence[TrendPoint], alpha: float) -> TrendPoint:
    """The night compared with the one before: on the same problems and by the same rules, or not at all.

    A night that is tried again is not compared with itself, and keeps its time.
    """
    earlier = next((other for other in points if other.night == point.night), None)
    time = earlier.time if earlier else point.time
    others = [other for other in points if other.night != point.night and other.time <= time]
    return point.model_copy(update={"comparison": _comparison(store, point, others, alpha), "time": time})


def _comparison(store: Store, point: TrendPoint, others: Sequence[TrendPoint], alpha: float) -> Comparison:
    alike = [other for other in others if other.series == point.series]
    if not alike:
        return _not_comparable_yet(others, point, alpha)
    before = alike[-1]
    told = NightBefore(night=before.night, time=before.time, model=before.model, evaluation=before.evaluation)
    if (before.model.digest, before.evaluation.path) == (point.model.digest, point.evaluation.path):
        said = f"the same model as on {before.time}, its answers are known: nothing to compare"
        return Comparison(outcome="same model", said=said, alpha=alpha, before=told)
    answers = _answers(store, point.evaluation)
    try:
        answers_before = _answers(store, before.evaluation)
    except (ArtifactMissing, ArtifactDamaged) as error:
        said = f"the evaluation of {before.time} cannot be read any more, so nothing was compared: {error}"
        logger.warning("%s", said)
        return Comparison(outcome="not comparable", said=said, alpha=alpha, before=told)
    said = "; ".join([f"compared with the night of {before.time}", *_also_changed(before, point)])
    changes = tuple(compare(answers_before, answers))
    return Comparison(outcome="compared", said=said, alpha=alpha, before=told, changes=changes)


def drop_message(point: TrendPoint, page: str) -> str:
    """What a night with a significant drop fails with: the figures, both digests, and the way out."""
    compared_with = point.comparison.before
    if compared_with is None or not point.comparison.drops:
        raise InputError(f"the night {point.night} has no significant drop, so there is nothing to say of one")
    rows = "; ".join(in_words(change) for change in point.comparison.drops)
    return (
        f"significant drop of {point.pointer} against the night of {compared_with.time}: {rows}. "
        f"Model now {point.model.path} (digest {point.model.digest}), before {compared_with.model.path} "
        f"(digest {compared_with.model.digest}); level {point.comparison.alpha:g} after Holm's correction. "
        f"Trend: {page}. To go back: mirage store point {point.pointer} {compared_with.model.path}"
    )


def in_words(change: Change) -> str:
    """One row of a comparison: ``vsp-planning 83.0 % -> 61.0 % (...)``."""
    low, high = change.interval
    return (
        f"{change.benchmark} {change.before:.1%} -> {change.now:.1%} ({100 * change.difference:+.1f} points, 95 % "
        f"interval {100 * low:+.1f} to {100 * high:+.1f}, n = {change.n}, right then wrong {change.right_then_wrong}, "
        f"wrong then right {change.wrong_then_right}, p = {change.p_corrected:.2g})"
    )


def _load(store: Store, name: str) -> TrendPoint:
    try:
        return TrendPoint.model_validate(store.read_json(name))
    except ValidationError as error:
        raise ArtifactDamaged(
            f"{name} in {store.url} is not a night of the trend ({error.errors()[0]['msg']}): remove it"
        ) from error


def _not_comparable_yet(others: Sequence[TrendPoint], point: TrendPoint, alpha: float) -> Comparison:
    if not others:
        return Comparison(outcome="first night", said="the first night: nothing to compare with yet", alpha=alpha)
    last = others[-1]
    changed = ["the test problems"] if last.test_problems != point.test_problems else []
    changed += ["the rule of judging"] if last.rules != point.rules else []
    said = f"{' and '.join(changed)} changed since {last.time}: a new series begins, nothing is compared"
    return Comparison(outcome="new series", said=said, alpha=alpha)


def _answers(store: Store, evaluation: Reference) -> list[Scored]:
    from mirage_core.store.records import load_predictions

    artifact = Artifact(kind="evaluation", path=evaluation.path, digest=evaluation.digest)
    return load_predictions(store.fetch(artifact))


def _also_changed(before: TrendPoint, point: TrendPoint) -> list[str]:
    """What besides the model's weights is not as it was: it may explain a difference too."""
    said = ["the model is the same, its evaluation is not"] if before.model.digest == point.model.digest else []
    said += [f"the method was {before.method}, now {point.method}"] if before.method != point.method else []
    names = _differing(before.use, point.use)
    said += [f"the evaluation's settings differ in {', '.join(names)}"] if names else []
    return said


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the leaves in which two nested mappings differ."""
    found: list[str] = []
    for name in sorted(one.keys() | other.keys()):
        old, new = one.get(name), other.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differing(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}")
    return found
