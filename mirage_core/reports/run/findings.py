"""The headline, findings and caveats of a run as sentences, each derived from a number by a fixed rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirage_core.evaluation.metrics import ALL, AccuracyRow, paired, pooled_row
from mirage_core.evaluation.statistics import PairedTest
from mirage_core.methods import METHODS
from mirage_core.reports.labels import benchmark_label, blind_label, short_label
from mirage_core.reports.run.inputs import RunReportInputs
from mirage_core.reports.run.training_budget import budgets
from mirage_core.reports.run.training_noise import training_noise

SIGNIFICANT = 0.05
FOCUS_BENCHMARK = "vsp-planning"
FOCUS_GROUPS = ("level-3", "level-4")
COMPARISONS = (
    ("stage-2", "zero-shot"),
    ("stage-2", "stage-1"),
    ("stage-2", "direct-sft"),
    ("grpo", "stage-2"),
    ("grpo", "direct-sft"),
    ("film", "direct-sft"),
    ("film-grpo", "film"),
)
_UNSAID = ("grpo", "direct-sft")  # what follows from two others is in the table of tests alone
_SUBJECTS = {"stage-2": "Mirage after stage 2", "film": "Mirage with the film"}
"""The methods that the headline is about, and compares with direct SFT: the first that was evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """The problems of the headline: one benchmark, some of its groups."""

    benchmark: str
    groups: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name the problems: "VSP spatial planning, levels 3 and 4"."""
        levels = [group.removeprefix("level-") for group in self.groups]
        numbers = " and ".join([", ".join(levels[:-1]), levels[-1]] if len(levels) > 1 else levels)
        kind = "level" if len(levels) == 1 else "levels"
        all_levels = all(group.startswith("level-") for group in self.groups)
        return f"{benchmark_label(self.benchmark)}, {kind} {numbers}" if all_levels else benchmark_label(self.benchmark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired test with its outcome in words."""

    benchmark: str
    test: PairedTest
    outcome: str


def focus(inputs: RunReportInputs) -> Focus | None:
    """Choose the headline's problems: planning levels 3 and 4 where evaluated, else the first benchmark as a whole."""
    if not inputs.rows:
        return None
    names = inputs.benchmarks
    benchmark = FOCUS_BENCHMARK if FOCUS_BENCHMARK in names else names[0]
    present = sorted({row.group for row in inputs.rows if row.benchmark == benchmark and row.group != ALL})
    groups = [group for group in FOCUS_GROUPS if group in present]
    return Focus(benchmark=benchmark, groups=tuple(groups or present))


def focus_rows(inputs: RunReportInputs, selection: Focus) -> list[AccuracyRow]:
    """One pooled row a method over the headline's problems, in the pipeline's order."""
    rows = (pooled_row(inputs.scored, selection.benchmark, method, selection.groups) for method in inputs.methods)
    return [row for row in rows if row is not None]


def blind_row(inputs: RunReportInputs, selection: Focus) -> AccuracyRow | None:
    """Return the best accuracy without the picture on the headline's problems; None where none was measured."""
    methods = dict.fromkeys(row.method for row in inputs.blind_rows)
    rows = (pooled_row(inputs.blind, selection.benchmark, method, selection.groups) for method in methods)
    return max((row for row in rows if row is not None), key=lambda row: row.accuracy, default=None)


def headline(inputs: RunReportInputs) -> str:
    """Say what stage 2 (else the film, else the last method) reached, and how that compares with direct SFT.

    One run is never said to win where the training noise of a committed study allows the contrary.
    """
    selection = focus(inputs)
    if selection is None:
        return "Nothing has been evaluated yet."
    rows = {row.method: row for row in focus_rows(inputs, selection)}
    method = next((name for name in _SUBJECTS if name in rows), list(rows)[-1])
    row = rows[method]
    subject = _SUBJECTS.get(method, short_label(method))
    blind = blind_row(inputs, selection)
    against = "" if blind is None else f", against {percent(blind.accuracy)} from the text alone"
    start = (
        f"One run: {subject} solves {percent(row.accuracy)} of {row.n} held-out problems ({selection.label}){against}"
    )
    if method not in _SUBJECTS or "direct-sft" not in rows:
        return f"{start}."
    test = paired(inputs.scored, selection.benchmark, method, "direct-sft", selection.groups)
    other = f"direct SFT solves {percent(rows['direct-sft'].accuracy)}"
    if test.difference == 0:
        return f"{start}; {other} too."
    more = "less" if test.difference > 0 else "more"
    noise = training_noise(inputs.settings, selection.benchmark, selection.groups, method, "direct-sft")
    if noise is None:
        outcome = f"which is {more} ({p_words(test.p_value)} over the problems; training noise is not known)"
    else:
        low, high = test.difference - noise.half_width, test.difference + noise.half_width
        outcome = (
            f"which is {more}: {100 * test.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f} with the "
            f"noise of training, from {noise.seeds} seeds of the study {noise.study})"
        )
    if test.p_value >= SIGNIFICANT or (noise is not None and abs(test.difference) <= noise.half_width):
        return f"{start}; {other}, {outcome}: a difference that one run cannot tell from chance."
    return f"{start}; {other}, {outcome}."


def findings(inputs: RunReportInputs) -> list[str]:
    """Return sentences on comparisons, budgets, unparsed answers and latents."""
    selection = focus(inputs)
    if selection is None:
        return []
    rows = {row.method: row for row in focus_rows(inputs, selection)}
    said = [pair for pair in COMPARISONS if pair != _UNSAID]
    compared = [_compare(rows, first, second, inputs, selection) for first, second in said]
    seeing = _seeing(inputs)
    return [
        sentence for sentence in (*compared, *seeing, _budgets(inputs), _unread(inputs), _latents(rows)) if sentence
    ]


def comparisons(inputs: RunReportInputs) -> list[Comparison]:
    """Every paired test whose two methods were evaluated, a benchmark at a time."""
    present = {(row.benchmark, row.method) for row in inputs.rows}
    return [
        Comparison(benchmark=benchmark, test=test, outcome=outcome(test))
        for benchmark in inputs.benchmarks
        for first, second in COMPARISONS
        if (benchmark, first) in present and (benchmark, second) in present
        for test in (paired(inputs.scored, benchmark, first, second),)
    ]


def outcome(test: PairedTest) -> str:
    """Return the outcome of a paired test in words."""
    if test.p_value >= SIGNIFICANT:
        return "no difference shown"
    return "first is better" if test.difference > 0 else "second is better"


def caveats(inputs: RunReportInputs) -> list[str]:
    """List what a reader must know before trusting a number of the page."""
    settings = inputs.settings
    sentences = [_base_caveat(inputs)]
    if settings.teacher.kind == "oracle":
        sentences.append(
            "The teacher is an oracle: the chains were written from the solver's knowledge of each maze, not by a "
            "vision-language model. That is cleaner supervision than the paper's."
        )
    sentences += [
        "One training seed. The intervals and the tests cover the choice of test problems only; another seed of the "
        "training can move a method by several points.",
        f"This page has several tests, none corrected for the others: p just below {SIGNIFICANT} is a hint.",
        "An answer that used latents need not depend on them: this page shows where latents are used, not their "
        "effect.",
        "The paper's numbers come from other models, data and budgets. They are shown for orientation and are not "
        "targets.",
    ]
    return sentences


def percent(share: float) -> str:
    """Print a share as ``81.5 %``; the ends without decimals."""
    return f"{100 * share:.0f} %" if share in (0.0, 1.0) else f"{100 * share:.1f} %"


def p_words(p_value: float) -> str:
    """Print a p-value: three decimals, or a bound."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _compare(
    rows: dict[str, AccuracyRow], first: str, second: str, inputs: RunReportInputs, selection: Focus
) -> str | None:
    """Describe one comparison on the headline's problems."""
    if first not in rows or second not in rows:
        return None
    test = paired(inputs.scored, selection.benchmark, first, second, selection.groups)
    names = {"zero-shot": "the base model as it is", "stage-1": "stage 1 alone", "direct-sft": "direct SFT",
             "stage-2": "stage 2", "grpo": "GRPO after stage 2", "film": "the film",
             "film-grpo": "GRPO after the film"}  # fmt: skip
    verdict = "does not differ measurably from"
    if test.p_value < SIGNIFICANT:
        verdict = "beats" if test.difference > 0 else "is worse than"
    subject = names[first][0].upper() + names[first][1:]
    return (
        f"{subject} {verdict} {names[second]}: {percent(rows[first].accuracy)} against "
        f"{percent(rows[second].accuracy)} ({_counts(test)}, {p_words(test.p_value)})."
    )


def _counts(test: PairedTest) -> str:
    return f"{test.only_first} problems right only with the first, {test.only_second} only with the second"


def _seeing(inputs: RunReportInputs) -> list[str]:
    """Say for every benchmark which methods are above the best answers without the picture.

    By the paired test on the same problems, not corrected for their number.
    """
    sentences = []
    for benchmark in inputs.benchmarks:
        rows = [row for row in inputs.blind_rows if (row.benchmark, row.group) == (benchmark, ALL)]
        if not rows:
            continue
        best = max(rows, key=lambda row: row.accuracy)
        above = [short_label(method) for method in inputs.methods if _is_above(inputs, benchmark, method, best.method)]
        seen = f"above it are {', '.join(above)}" if above else "no method is measurably above it"
        sentences.append(
            f"{benchmark_label(benchmark)}: {percent(best.accuracy)} are right without the picture "
            f"({blind_label(best.method)}); {seen}."
        )
    return sentences


def _is_above(inputs: RunReportInputs, benchmark: str, method: str, blind: str) -> bool:
    if inputs.row(benchmark, method, ALL) is None:
        return False
    test = paired([*inputs.scored, *inputs.blind], benchmark, method, blind)
    return test.difference > 0 and test.p_value < SIGNIFICANT


def _budgets(inputs: RunReportInputs) -> str | None:
    """Describe the supervision of stage 2 and direct SFT."""
    by_method = {budget.method: budget for budget in budgets(inputs)}
    if "stage-2" not in by_method or "direct-sft" not in by_method:
        return None
    two_stages, direct = by_method["stage-2"], by_method["direct-sft"]
    return (
        f"Budgets: direct SFT had {direct.text_steps} text-supervised steps; Mirage had {two_stages.text_steps} in "
        f"stage 2, after {two_stages.grounding_steps} grounding steps ({two_stages.optimizer_steps} optimizer steps in "
        "all)."
    )


def _unread(inputs: RunReportInputs) -> str:
    """List the methods with unparsed answers."""
    total: dict[str, list[int]] = {}
    for row in inputs.rows:
        if row.group == ALL:
            count = total.setdefault(row.method, [0, 0])
            count[0] += row.unparsed
            count[1] += row.answers
    unread = [(method, bad, count) for method, (bad, count) in total.items() if bad]
    if not unread:
        return "Every answer of every method could be read."
    unread.sort(key=lambda entry: -entry[1])
    listed = "; ".join(f"{short_label(method)} {bad} of {count}" for method, bad, count in unread)
    return f"Answers that could not be read (they count as wrong): {listed}."


def _latents(rows: dict[str, AccuracyRow]) -> str | None:
    """List the shares of answers of the Mirage models that used latents."""
    shares: Iterable[str] = [
        f"{short_label(method)} {percent(rows[method].latent_share)}"
        for method in METHODS
        if METHODS[method].latents == "on" and method in rows
    ]
    listed = "; ".join(shares)
    return f"Share of answers that used latents: {listed}." if listed else None


def _base_caveat(inputs: RunReportInputs) -> str:
    """Describe the base model."""
    model = inputs.settings.model
    if model.source != "from_scratch":
        return f"The base model is {model.source}, with vision {'trained' if model.train_vision else 'frozen'}."
    size = f" of {inputs.parameters / 1e6:.1f} million parameters" if inputs.parameters else ""
    return (
        f"The base model is a Qwen2.5-VL{size} trained from scratch here and warmed up for {model.warmup.steps} steps "
        "on perception of such maps (no planning). It replaces a pretrained model and knows nothing else: its scores "
        "show that the pipeline works, not how good a large model would be."
    )
