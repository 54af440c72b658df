"""One question explained: a page that needs nothing else, and the same in a few lines for a terminal."""

from __future__ import annotations

from markupsafe import Markup

from mirage_core.analysis.explain_question import CAN, CANNOT, Question, QuestionRun
from mirage_core.analysis.lens.lens import shows_nothing
from mirage_core.analysis.lens.results import ShownAnswer
from mirage_core.analysis.number_format import run_name, seen_words
from mirage_core.reports.diagnosis.heatmaps import heat_rows
from mirage_core.reports.diagnosis.page import environment, pictures_of
from mirage_core.reports.html import TEMPLATES
from mirage_core.reports.trajectories import pieces
from mirage_core.types import Problem


def render_question(question: Question, problem: Problem, auxiliary: bytes | None) -> str:
    """The page; everything that came from a model or a file is escaped."""
    pictures = pictures_of(problem, auxiliary)
    shown = ShownAnswer(
        problem_id=problem.id, benchmark=problem.benchmark, group=problem.group, output=question.output,
        verdict=question.verdict, latents=question.latents,
    )  # fmt: skip
    entry = {
        "answer": shown,
        "pieces": pieces(question.output),
        "pictures": pictures,
        "latents": [{"look": look, "heat": heat_rows(look, pictures)} for look in question.latents],
        "nothing": bool(question.latents) and shows_nothing(question.latents),
    }
    page = environment().get_template("question.html")
    rows = [(row_name(run), seen_words(run.seen), row_outcome(run), run) for run in question.runs]
    return (
        page.render(question=question, entry=entry, rows=rows, can=CAN, cannot=CANNOT, headline=headline(question))
        + "\n"
    )


def headline(question: Question) -> str:
    """What happened to this answer, in a sentence that claims no more."""
    if not question.num_latents:
        return "This answer has no latents."
    lent = [run for run in question.runs if run.name == "permute"]
    if not lent:
        still = sum(run.same == len(run.answers) for run in question.runs if run.seen == "present")
        of = sum(run.seen == "present" for run in question.runs)
        return f"{question.read!r} stays in {still} of {of} changes of its latents; nobody else's latents were at hand."
    total = sum(len(run.answers) for run in lent)
    same, followed = sum(run.same for run in lent), sum(run.donors for run in lent)
    return (
        f"With the latents of {question.others} other problems, exchanged in {len(lent)} ways, {question.read!r} stays "
        f"in {same} of {total} answers and becomes the other problem's answer in {followed}."
    )


def row_name(run: QuestionRun) -> str:
    """What was changed, for people."""
    return run_name(run.name, run.scale, run.way)


def row_outcome(run: QuestionRun) -> str:
    """What became of the answer."""
    if len(run.answers) == 1:
        return "stays" if run.same else f"becomes {run.answers[0][:60]!r}"
    followed = f", the other problem's own in {run.donors}" if run.donors else ""
    return f"stays in {run.same} of {len(run.answers)}{followed}"


def question_lines(question: Question) -> list[str]:
    """The same for a terminal: changes, then what the latents look like, then what it does not show."""
    width = max((len(row_name(run)) for run in question.runs), default=0)
    lines = [headline(question)]
    for run in question.runs:
        kl = "" if run.kl is None else f"  KL {run.kl:.3f}"
        lines.append(f"  {row_name(run):{width}}  {seen_words(run.seen)}: {row_outcome(run)}{kl}")
    for look in question.latents:
        word = look.words.head[0]
        own = "the average latent's word" if look.words.shows_nothing else "not the average latent's word"
        maps = "; ".join(
            f"{over.picture}: r = {over.like_mean:.2f} with the average latent's map"
            for over in look.pictures
            if over.like_mean is not None
        )
        lines.append(
            f"  latent {look.index + 1}: head reads {word.text!r} ({word.score:.2f}, {own}){'; ' if maps else ''}{maps}"
        )
    return [*lines, CANNOT[0]]


SIDE = 96


def sample_looks(shown: ShownAnswer, problem: Problem, auxiliary: bytes | None) -> Markup:
    """The piece as HTML; everything that came from a model or a file is escaped in it."""
    pictures = pictures_of(problem, auxiliary)
    entry = {
        "latents": [{"look": look, "heat": heat_rows(look, pictures, SIDE)} for look in shown.latents],
        "nothing": shows_nothing(shown.latents),
    }
    return Markup(environment().get_template("latents.html").render(entry=entry))


def looks_css() -> Markup:
    """The rules that the piece needs on its page."""
    return Markup((TEMPLATES / "looks.css").read_text(encoding="utf-8"))
