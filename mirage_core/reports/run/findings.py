"""What a run shows, in plain words, whatever it shows: every sentence follows from a figure and a fixed rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mirage_core.evaluation.metrics import ALL, AccuracyRow, paired, pooled_row
from mirage_core.evaluation.statistics import PairedTest
from mirage_core.reports.labels import benchmark_label, short_label
from mirage_core.reports.run.inputs import Sources
from mirage_core.reports.run.training_budget import budgets

SIGNIFICANT = 0.05
FOCUS_BENCHMARK = "vsp-planning"
FOCUS_GROUPS = ("level-3", "level-4")
COMPARISONS = (
    ("stage-2", "zero-shot"),
    ("stage-2", "stage-1"),
    ("stage-2", "direct-sft"),
    ("grpo", "stage-2"),
    ("grpo", "direct-sft"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """The problems the headline speaks of: one benchmark, some of its groups."""

    benchmark: str
    groups: tuple[str, ...]

    @property
    def words(self) -> str:
        """Name the problems: "VSP spatial planning, levels 3 and 4"."""
        levels = [group.removeprefix("level-") for group in self.groups]
        listed = " and ".join([", ".join(levels[:-1]), levels[-1]] if len(levels) > 1 else levels)
        kind = "level" if len(levels) == 1 else "levels"
        named = all(group.startswith("level-") for group in self.groups)
        return f"{benchmark_label(self.benchmark)}, {kind} {listed}" if named else benchmark_label(self.benchmark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired test with the words for its outcome."""

    benchmark: str
    test: PairedTest
    outcome: str


def focus(sources: Sources) -> Focus | None:
    """Choose the headline's problems: planning levels 3 and 4 where evaluated, else the first benchmark as a whole."""
    if not sources.rows:
        return None
    names = sources.benchmarks
    benchmark = FOCUS_BENCHMARK if FOCUS_BENCHMARK in names else names[0]
    present = sorted({row.group for row in sources.rows if row.benchmark == benchmark and row.group != ALL})
    chosen = [group for group in FOCUS_GROUPS if group in present]
    return Focus(benchmark=benchmark, groups=tuple(chosen or present))


def focus_rows(sources: Sources, chosen: Focus) -> list[AccuracyRow]:
    """One pooled row a method over the headline's problems, in the road's order."""
    rows = (pooled_row(sources.scored, chosen.benchmark, method, chosen.groups) for method in sources.methods)
    return [row for row in rows if row is not None]


def headline(sources: Sources) -> str:
    """Say in one sentence what stage 2 (else the last method) reached, and how that compares with direct SFT."""
    chosen = focus(sources)
    if chosen is None:
        return "Nothing has been evaluated yet."
    rows = {row.method: row for row in focus_rows(sources, chosen)}
    method = "stage-2" if "stage-2" in rows else list(rows)[-1]
    row = rows[method]
    subject = "Mirage after stage 2" if method == "stage-2" else short_label(method)
    start = f"{subject} solves {percent(row.accuracy)} of {row.n} held-out problems ({chosen.words})"
    if method != "stage-2" or "direct-sft" not in rows:
        return f"{start}."
    test = paired(sources.scored, chosen.benchmark, "stage-2", "direct-sft", chosen.groups)
    other = f"direct SFT solves {percent(rows['direct-sft'].accuracy)}"
    if test.difference == 0:
        return f"{start}; {other} too."
    if test.p_value >= SIGNIFICANT:
        return f"{start}; {other}, a difference this run cannot tell from chance."
    return f"{start}; {other}, which is {'less' if test.difference > 0 else 'more'} ({p_words(test.p_value)})."


def findings(sources: Sources) -> list[str]:
    """The headline's reasons: a sentence a comparison, then budgets, answers that could not be read, latents."""
    chosen = focus(sources)
    if chosen is None:
        return []
    rows = {row.method: row for row in focus_rows(sources, chosen)}
    told = [_against(rows, first, second, sources, chosen) for first, second in COMPARISONS[:4]]
    return [sentence for sentence in (*told, _budgets(sources), _unread(sources), _latents(rows)) if sentence]


def comparisons(sources: Sources) -> list[Comparison]:
    """Every paired test whose two methods were evaluated, a benchmark at a time."""
    present = {(row.benchmark, row.method) for row in sources.rows}
    return [
        Comparison(benchmark=benchmark, test=test, outcome=outcome(test))
        for benchmark in sources.benchmarks
        for first, second in COMPARISONS
        if (benchmark, first) in present and (benchmark, second) in present
        for test in (paired(sources.scored, benchmark, first, second),)
    ]


def outcome(test: PairedTest) -> str:
    """Say what a paired test allows to say."""
    if test.p_value >= SIGNIFICANT:
        return "no difference shown"
    return "first is better" if test.difference > 0 else "second is better"


def caveats(sources: Sources) -> list[str]:
    """What a reader must know before believing a figure of the page."""
    settings = sources.settings
    told = [_base_caveat(sources)]
    if settings.teacher.kind == "oracle":
        told.append(
            "The teacher is an oracle: the chains were written from the solver's own knowledge of each maze, not by a "
            "vision-language model. That is cleaner supervision than the paper's."
        )
    told += [
        "One training seed. The intervals and the tests cover the choice of test problems only; another seed of the "
        "training can move a method by several points.",
        f"Several tests stand on this page and none is corrected for the others: p just below {SIGNIFICANT} is a hint.",
        "An answer that used latents need not depend on them. This page shows where latents stood, not what they did.",
        "The paper's figures come from other models, data and budgets. They stand beside ours for orientation and are "
        "never a target that was met or missed.",
    ]
    return told


def percent(share: float) -> str:
    """Print a share as ``81.5 %``; the ends without decimals."""
    return f"{100 * share:.0f} %" if share in (0.0, 1.0) else f"{100 * share:.1f} %"


def p_words(p_value: float) -> str:
    """Print a p-value: three decimals, or a bound."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _against(rows: dict[str, AccuracyRow], first: str, second: str, sources: Sources, chosen: Focus) -> str | None:
    """One comparison of the headline's problems in a sentence."""
    if first not in rows or second not in rows:
        return None
    test = paired(sources.scored, chosen.benchmark, first, second, chosen.groups)
    names = {"zero-shot": "the base model as it is", "stage-1": "stage 1 alone", "direct-sft": "direct SFT",
             "stage-2": "stage 2", "grpo": "GRPO after stage 2"}  # fmt: skip
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


def _budgets(sources: Sources) -> str | None:
    """How much supervision stage 2 and direct SFT were given."""
    given = {budget.method: budget for budget in budgets(sources)}
    if "stage-2" not in given or "direct-sft" not in given:
        return None
    two_stages, direct = given["stage-2"], given["direct-sft"]
    return (
        f"Budgets: direct SFT had {direct.text_steps} text-supervised steps; Mirage had {two_stages.text_steps} in "
        f"stage 2, after {two_stages.grounding_steps} grounding steps ({two_stages.optimizer_steps} optimizer steps in "
        "all)."
    )


def _unread(sources: Sources) -> str:
    """Which methods gave answers that could not be read."""
    total: dict[str, list[int]] = {}
    for row in sources.rows:
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
    """How many answers of the Mirage models used latents."""
    shares: Iterable[str] = [
        f"{short_label(method)} {percent(rows[method].latent_share)}"
        for method in ("stage-1", "without-stage-1", "without-stage-1-grpo", "stage-2", "grpo")
        if method in rows
    ]
    listed = "; ".join(shares)
    return f"Share of answers that used latents: {listed}." if listed else None


def _base_caveat(sources: Sources) -> str:
    """What the base model is."""
    model = sources.settings.model
    if model.source != "from_scratch":
        return f"The base model is {model.source}, with vision {'trained' if model.train_vision else 'frozen'}."
    size = f" of {sources.parameters / 1e6:.1f} million parameters" if sources.parameters else ""
    return (
        f"The base model is a Qwen2.5-VL{size} made from scratch here and warmed up for {model.warmup.steps} steps on "
        "seeing such maps (no planning). It stands in for a pretrained model and knows nothing else: what it reaches "
        "says that the road works, not how good a large model would be."
    )
