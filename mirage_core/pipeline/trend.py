"""The trend: a point a night, stored under trend/<pointer>/, each compared with the one before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.evaluation.compare import Change, compare_evaluations
from mirage_core.pipeline.run_record import ScoreLine
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact, Scored

logger = logging.getLogger(__name__)
TREND = "trend"
ALPHA = 0.05

ComparisonOutcome = Literal["first night", "new series", "same model", "compared", "not comparable"]


class Exchange(BaseModel):
    """Latents permuted between problems, the image in view: the change of accuracy with its interval."""

    model_config = ConfigDict(frozen=True)

    way: str = Field(description="vectors, or states: keys and values.")
    n: int
    change: float | None
    interval: tuple[float, float] | None
    follow: float | None = Field(description="Answers correct for the donor's problem.")
    follow_clean: float | None = Field(description="Clean answers that are.")

    @property
    def said(self) -> str:
        """The change with its interval and n."""
        if self.change is None or self.interval is None:
            return "–"
        low, high = self.interval
        return f"{100 * self.change:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), n = {self.n}"


class LatentsSummary(BaseModel):
    """The diagnosis of a night: verdict, exchanges, the page; or why there is none. It never makes a night fail."""

    model_config = ConfigDict(frozen=True)

    said: str
    exchanges: tuple[Exchange, ...] = ()
    page: str | None = Field(None, description="The diagnosis in the store.")


def latents_summary(store: Store, page: Artifact, figures: str) -> LatentsSummary:
    """Return the summary of a diagnosis; ``figures`` is the name of its JSON. ArtifactDamaged where it is not one."""
    try:
        diagnosis: Any = json.loads((store.fetch(page) / figures).read_text(encoding="utf-8"))
        runs = diagnosis["measures"].get("interventions", {}).get("runs", [])
        exchanges = tuple(_exchange(run) for run in runs if run["name"] == "permute" and run["seen"] == "present")
        headline = str(diagnosis["verdict"]["headline"])
    except (KeyError, TypeError, AttributeError, ValueError, FileNotFoundError) as error:
        raise ArtifactDamaged(f"{page.path}/{figures} is not a diagnosis ({error}): diagnose again") from error
    return LatentsSummary(said=headline, exchanges=exchanges, page=page.path)


def not_measured(error: Exception) -> LatentsSummary:
    """Return the summary of a night whose diagnosis failed."""
    return LatentsSummary(said=f"not measured: {error}")


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


class Reference(BaseModel):
    """An artifact by its path and digest."""

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
    """A night compared with the one before; ``said`` is the outcome in a sentence."""

    model_config = ConfigDict(frozen=True)

    outcome: ComparisonOutcome
    said: str
    alpha: float = ALPHA
    before: NightBefore | None = None
    changes: tuple[Change, ...] = ()

    @property
    def drops(self) -> tuple[Change, ...]:
        """The rows that are significantly worse now."""
        return tuple(change for change in self.changes if change.is_drop(self.alpha))


class TrendPoint(BaseModel):
    """One night. ``series`` identifies the test problems and the rules: nights of one series can be compared."""

    model_config = ConfigDict(frozen=True)

    night: str = Field(description="The id of the night's run: a night that is retried replaces its point.")
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
    latents: LatentsSummary | None = Field(None, description="The diagnosis of the night's model; never a drop.")

    @property
    def series(self) -> str:
        """A digest of what must be equal in two nights to compare them."""
        return fingerprint("trend", 1, {"problems": self.test_problems, "rules": self.rules}, {})[:12]


def reference_to(artifact: Artifact) -> Reference:
    """Return an artifact as points record it."""
    return Reference(path=artifact.path, digest=artifact.digest)


def folder(pointer: str) -> str:
    """Return the folder of a pointer's trend in the store."""
    return f"{TREND}/{pointer}"


def load_points(store: Store, pointer: str) -> list[TrendPoint]:
    """Return every night of a pointer, oldest first; ArtifactDamaged names a point that cannot be read."""
    names = [name for name in store.names(f"{folder(pointer)}/nights") if name.endswith(".json")]
    return [_load(store, name) for name in sorted(names)]


def save_point(store: Store, point: TrendPoint) -> list[TrendPoint]:
    """Save a night's point, replacing an earlier attempt of the same night; returns all nights.

    A record beside the folder names the last evaluation of every series, which the next night is compared with: so
    `mirage store gc` keeps it; of older nights only the figures stay.
    """
    stamp = point.time.replace(":", "").replace("+0000", "Z")
    store.write_json(f"{folder(point.pointer)}/nights/{stamp}-{point.night}.json", point.model_dump(mode="json"))
    points = load_points(store, point.pointer)
    last = {night.series: night.evaluation.model_dump(mode="json") for night in points}
    store.write_json(f"{folder(point.pointer)}.json", {"compared_with_next": last})
    return points


def now() -> str:
    """Return the current second, as points record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def with_comparison(store: Store, point: TrendPoint, points: Sequence[TrendPoint], alpha: float) -> TrendPoint:
    """Return the night with its comparison to the one before: on the same problems and rules, or none.

    A retried night is not compared with itself, and keeps its time.
    """
    earlier = next((other for other in points if other.night == point.night), None)
    time = earlier.time if earlier else point.time
    others = [other for other in points if other.night != point.night and other.time <= time]
    return point.model_copy(update={"comparison": _comparison(store, point, others, alpha), "time": time})


def _comparison(store: Store, point: TrendPoint, others: Sequence[TrendPoint], alpha: float) -> Comparison:
    series = [other for other in others if other.series == point.series]
    if not series:
        return _first_of_series(others, point, alpha)
    before = series[-1]
    reference = NightBefore(night=before.night, time=before.time, model=before.model, evaluation=before.evaluation)
    if (before.model.digest, before.evaluation.path) == (point.model.digest, point.evaluation.path):
        message = f"the same model as on {before.time}, its answers are known: nothing to compare"
        return Comparison(outcome="same model", said=message, alpha=alpha, before=reference)
    answers = _answers(store, point.evaluation)
    try:
        answers_before = _answers(store, before.evaluation)
    except (ArtifactMissing, ArtifactDamaged) as error:
        message = f"the evaluation of {before.time} cannot be read any more, so nothing was compared: {error}"
        logger.warning("%s", message)
        return Comparison(outcome="not comparable", said=message, alpha=alpha, before=reference)
    message = "; ".join([f"compared with the night of {before.time}", *_also_changed(before, point)])
    changes = tuple(compare_evaluations(answers_before, answers))
    return Comparison(outcome="compared", said=message, alpha=alpha, before=reference, changes=changes)


def drop_message(point: TrendPoint, page: str) -> str:
    """Return the error of a night with a significant drop: the figures, both digests, and the way out."""
    compared_with = point.comparison.before
    if compared_with is None or not point.comparison.drops:
        raise InputError(f"the night {point.night} has no significant drop, so there is no message about one")
    rows = "; ".join(describe_change(change) for change in point.comparison.drops)
    return (
        f"significant drop of {point.pointer} against the night of {compared_with.time}: {rows}. "
        f"Model now {point.model.path} (digest {point.model.digest}), before {compared_with.model.path} "
        f"(digest {compared_with.model.digest}); level {point.comparison.alpha:g} after Holm's correction. "
        f"Trend: {page}. To go back: mirage store point {point.pointer} {compared_with.model.path}"
    )


def describe_change(change: Change) -> str:
    """Return one row of a comparison as text: ``vsp-planning 83.0 % -> 61.0 % (...)``."""
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


def _first_of_series(others: Sequence[TrendPoint], point: TrendPoint, alpha: float) -> Comparison:
    if not others:
        return Comparison(outcome="first night", said="the first night: nothing to compare with yet", alpha=alpha)
    last = others[-1]
    changed = ["the test problems"] if last.test_problems != point.test_problems else []
    changed += ["the rule of judging"] if last.rules != point.rules else []
    message = f"{' and '.join(changed)} changed since {last.time}: a new series begins, nothing is compared"
    return Comparison(outcome="new series", said=message, alpha=alpha)


def _answers(store: Store, evaluation: Reference) -> list[Scored]:
    from mirage_core.store.records import load_predictions

    artifact = Artifact(kind="evaluation", path=evaluation.path, digest=evaluation.digest)
    return load_predictions(store.fetch(artifact))


def _also_changed(before: TrendPoint, point: TrendPoint) -> list[str]:
    """List what changed besides the model's weights: it may explain a difference too."""
    changes = ["the model is the same, its evaluation is not"] if before.model.digest == point.model.digest else []
    changes += [f"the method was {before.method}, now {point.method}"] if before.method != point.method else []
    names = _differing(before.use, point.use)
    changes += [f"the evaluation's settings differ in {', '.join(names)}"] if names else []
    return changes


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the leaves in which two nested mappings differ."""
    names: list[str] = []
    for name in sorted(first.keys() | second.keys()):
        old, new = first.get(name), second.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += _differing(old, new, f"{prefix}{name}.")
        elif old != new:
            names.append(f"{prefix}{name}")
    return names
