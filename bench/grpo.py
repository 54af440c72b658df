"""Whether GRPO works: the sampled reward rises, and greedy answers to held-out problems do not get worse.

``mirage bench grpo`` takes a model folder and a problems artifact's folder. It runs GRPO with several seeds and
compares each on the test problems with the model it started from: sampled answers at the temperature of the recipe's
GRPO, greedy ones by McNemar's test for each seed. Over all seeds the difference is taken of each problem's mean, so
that its 95 % interval is over problems: the seeds share the model they started from.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mirage_core.config import Settings
from mirage_core.distributed.job import Job
from mirage_core.distributed.launch import run_job
from mirage_core.errors import InputError
from mirage_core.evaluation.evaluate import evaluate
from mirage_core.evaluation.statistics import Z_95, PairedTest, mcnemar
from mirage_core.recipes import load
from mirage_core.reports.curves import Curves, read_curves
from mirage_core.store.records import load_predictions, load_problems
from mirage_core.training.grpo.rewards import make_reward
from mirage_core.types import Problem, Progress, Scored

SAMPLES = 4
CONFIG, RESULT, PLOT = "begun.json", "grpo.json", "grpo.png"
_SMOOTH = 50  # steps: each samples other problems, some easier than others
_TITLES = {
    "reward": f"reward of sampled answers, mean of {_SMOOTH} steps",
    "validation/accuracy": "greedy accuracy on the validation split",
    "kl": f"KL to the starting model, mean of {_SMOOTH} steps",
    "entropy": f"-log p of sampled tokens, mean of {_SMOOTH} steps",
}
SHOWN = tuple(_TITLES)
_TAIL = 0.1

ByProblem = Mapping[str, float]
Points = list[tuple[int, float]]
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """A mean over problems before and after, and the interval of the difference (95 %)."""

    before: float
    after: float
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seed:
    """One run: the reward in training (mean over the first and the last tenth of the steps), then held-out problems.

    ``p_value``: of McNemar's test that greedy answers are correct as often as before.
    """

    seed: int
    first_reward: float
    last_reward: float
    sampled_reward: Change
    sampled_accuracy: Change
    greedy_accuracy: Change
    greedy_only_before: int
    greedy_only_after: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Result:
    """The results of all seeds, the changes over all of them, and the settings."""

    problems: int
    samples: int
    grpo: dict[str, object]
    seeds: tuple[Seed, ...]
    sampled_reward: Change
    sampled_accuracy: Change
    greedy_accuracy: Change
    curves: dict[str, dict[str, list[tuple[int, float]]]]

    @property
    def reward_rose(self) -> bool:
        """Whether the sampled reward on held-out problems is higher, by more than chance explains."""
        return self.sampled_reward.interval[0] > 0

    @property
    def accuracy_fell(self) -> bool:
        """Whether greedy accuracy is lower, by more than chance explains."""
        return self.greedy_accuracy.interval[1] < 0


@dataclass(frozen=True, slots=True)
class _Answers:
    """A model's scores by problem: greedy (0 or 1), and the means over its samples."""

    greedy: ByProblem
    reward: ByProblem
    accuracy: ByProblem


def measure(
    model: Path,
    problems: Path,
    folder: Path,
    *,
    recipe: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    log: Log,
    progress: Progress,
) -> Result:
    """Train and evaluate; ``folder`` holds every run, grpo.json and grpo.png. Finished runs are not repeated.

    InputError if ``folder`` holds runs of another model, other problems or other settings.
    """
    settings = load(recipe, list(overrides))
    _claim(folder, {"model": str(model), "problems": str(problems), "settings": settings.model_dump(mode="json")})
    test = load_problems(problems, split="test")
    before = _answers(model, test, settings, folder / "before", progress)
    results: list[Seed] = []
    after: list[_Answers] = []
    curves: dict[str, Curves] = {}
    for seed in seeds:
        work = folder / f"seed-{seed}"
        _train(model, problems, settings, seed, work, progress)
        curves[str(seed)] = read_curves(work / "output")
        after.append(_answers(work / "output", test, settings, work / "answers", progress))
        results.append(_seed(seed, curves[str(seed)], before, after[-1]))
        log(_sentence(results[-1]))
    result = Result(
        problems=len(test),
        samples=SAMPLES,
        grpo=settings.grpo.model_dump(mode="json"),
        seeds=tuple(results),
        sampled_reward=_over_seeds(before.reward, [answers.reward for answers in after]),
        sampled_accuracy=_over_seeds(before.accuracy, [answers.accuracy for answers in after]),
        greedy_accuracy=_over_seeds(before.greedy, [answers.greedy for answers in after]),
        curves={seed: {name: points[name] for name in SHOWN if name in points} for seed, points in curves.items()},
    )
    (folder / RESULT).write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    (folder / PLOT).write_bytes(plot(result))
    return result


def _claim(folder: Path, configuration: Mapping[str, object]) -> None:
    """Record the configuration of a folder's runs, or check that it equals the recorded one."""
    text, file = json.dumps(configuration, indent=1, sort_keys=True), folder / CONFIG
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{folder} holds runs of another model, problems or settings (see {file}); take another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _train(model: Path, problems: Path, settings: Settings, seed: int, work: Path, progress: Progress) -> None:
    output = work / "output"
    if (output / "mirage.json").is_file():
        return
    job = Job(
        program="grpo",
        settings=settings,
        seed=seed,
        inputs={"model": model, "problems": problems},
        output=output,
        scratch=work / "scratch",
    )
    run_job(job, progress=progress, on_checkpoint=lambda _step, _folder: None)


def _answers(
    model: Path, problems: Sequence[Problem], settings: Settings, folder: Path, progress: Progress
) -> _Answers:
    """Answer all problems, greedily and by sampling."""
    greedy = _scored(model, problems, settings, {"temperature": 0.0, "samples": 1}, folder / "greedy", progress)
    sampling = {"temperature": settings.grpo.temperature, "top_p": settings.grpo.top_p, "samples": SAMPLES}
    sampled = _scored(model, problems, settings, sampling, folder / "sampled", progress)
    rewards = [
        (prediction.problem_id, _reward(prediction.output, score.correct, settings)) for prediction, score in sampled
    ]
    return _Answers(
        greedy=_means([(prediction.problem_id, float(score.correct)) for prediction, score in greedy]),
        reward=_means(rewards),
        accuracy=_means([(prediction.problem_id, float(score.correct)) for prediction, score in sampled]),
    )


def _scored(
    model: Path,
    problems: Sequence[Problem],
    settings: Settings,
    evaluation: Mapping[str, float],
    folder: Path,
    progress: Progress,
) -> list[Scored]:
    adjusted = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update=dict(evaluation))})
    if not (folder / "output" / "metrics.json").is_file():
        evaluate(
            model,
            problems,
            settings=adjusted,
            method="grpo",
            latents="on",
            output=folder / "output",
            scratch=folder / "scratch",
            progress=progress,
        )
    return load_predictions(folder / "output")


def _reward(output: str, correct: bool, settings: Settings) -> float:
    grpo = settings.grpo
    return make_reward(
        output,
        correct,
        settings.teacher.variant,
        accuracy_value=grpo.accuracy_reward,
        format_value=grpo.format_reward,
    ).total


def _seed(seed: int, curves: Curves, before: _Answers, after: _Answers) -> Seed:
    rewards = [value for _, value in curves["reward"]]
    tenth = max(1, round(len(rewards) * _TAIL))
    test = _mcnemar(before.greedy, after.greedy)
    return Seed(
        seed=seed,
        first_reward=statistics.fmean(rewards[:tenth]),
        last_reward=statistics.fmean(rewards[-tenth:]),
        sampled_reward=_over_seeds(before.reward, [after.reward]),
        sampled_accuracy=_over_seeds(before.accuracy, [after.accuracy]),
        greedy_accuracy=_change(before.greedy, after.greedy, test.interval),
        greedy_only_before=test.only_second,
        greedy_only_after=test.only_first,
        p_value=test.p_value,
    )


def _mcnemar(before: ByProblem, after: ByProblem) -> PairedTest:
    right = [{name: value > 0.5 for name, value in answers.items()} for answers in (after, before)]
    return mcnemar("after", right[0], "before", right[1])


def _over_seeds(before: ByProblem, after: Sequence[ByProblem]) -> Change:
    """Return the change of each problem's mean over the seeds; the interval is over problems."""
    means = {name: statistics.fmean(values[name] for values in after) for name in before}
    differences = [means[name] - before[name] for name in before]
    half = Z_95 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    middle = statistics.fmean(differences)
    return _change(before, means, (middle - half, middle + half))


def _change(before: ByProblem, after: ByProblem, interval: tuple[float, float]) -> Change:
    first, last = statistics.fmean(before.values()), statistics.fmean(after.values())
    return Change(first, last, last - first, interval)


def _means(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return the mean over each problem's answers."""
    by_name: dict[str, list[float]] = {}
    for name, value in pairs:
        by_name.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in by_name.items()}


def _sentence(seed: Seed) -> str:
    sampled, greedy = seed.sampled_reward, seed.greedy_accuracy
    return (
        f"seed {seed.seed}: reward in training {seed.first_reward:.3f} to {seed.last_reward:.3f}; on held-out problems "
        f"sampled reward {sampled.before:.3f} to {sampled.after:.3f}, greedy accuracy {greedy.before:.3f} to "
        f"{greedy.after:.3f} (p {seed.p_value:.2f})"
    )


def plot(result: Result) -> bytes:
    """Plot the curves of all seeds and the changes on held-out problems, as PNG."""
    from io import BytesIO

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 7.8), layout="constrained")
    axes = list(figure.subplots(3, 2).flat)
    for name, panel in zip(SHOWN, axes, strict=False):
        _plot_curves(panel, name, result.curves)
    _plot_changes(axes[4], "sampled reward, held out", [seed.sampled_reward for seed in result.seeds], result)
    _plot_changes(axes[5], "greedy accuracy, held out", [seed.greedy_accuracy for seed in result.seeds], result)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()


def _plot_curves(axes: Any, name: str, curves: Mapping[str, Mapping[str, Points]]) -> None:
    """Plot a figure over the steps, one colour for each seed: the moving mean solid, the values faint."""
    for at, (seed, of_seed) in enumerate(curves.items()):
        points = of_seed.get(name, [])
        if not points:
            continue
        width = 1 if name.startswith("validation/") else _SMOOTH
        axes.plot(*zip(*points, strict=True), alpha=0.15 if width > 1 else 0.0, color=f"C{at}")
        axes.plot(*_smooth(points, width), color=f"C{at}", label=f"seed {seed}")
    axes.set_title(_TITLES[name], loc="left", fontsize=9)
    axes.set_xlabel("optimizer step", fontsize=8)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _plot_changes(axes: Any, title: str, changes: Sequence[Change], result: Result) -> None:
    """Plot the difference (after minus before) of every seed with its interval."""
    for at, change in enumerate(changes):
        low, high = change.interval
        bars = [[change.difference - low], [high - change.difference]]
        axes.errorbar([at], [change.difference], yerr=bars, fmt="o", color=f"C{at}", capsize=4)
    axes.axhline(0.0, color="0.6", linewidth=1)
    axes.set_xticks(range(len(changes)), [f"seed {seed.seed}" for seed in result.seeds])
    axes.set_title(f"{title}: change from {changes[0].before:.3f}", loc="left", fontsize=9)


def _smooth(points: Points, width: int) -> tuple[list[int], list[float]]:
    """Return the mean of the last ``width`` values at every step that has that many."""
    values = [value for _, value in points]
    first = min(width, len(values)) - 1
    means = [statistics.fmean(values[at - first : at + 1]) for at in range(first, len(values))]
    return [step for step, _ in points[first:]], means
