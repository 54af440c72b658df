"""One question explained: a self-contained page, and the same in a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mirage_core.analysis.explain_question import CAN, CANNOT, Question, QuestionRun
from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.lens.results import ShownAnswer
from mirage_core.analysis.results import ImageAccess
from mirage_core.reports.diagnosis.environment import environment
from mirage_core.reports.diagnosis.lens_view import images_of, lens_entry
from mirage_core.reports.diagnosis.run_labels import access_label, intervention_label
from mirage_core.reports.film_strip import step_words
from mirage_core.types import Problem


def render_question(
    question: Question,
    problem: Problem,
    auxiliary: bytes | None,
    frames: Sequence[bytes] = (),
    codes: Image.Image | None = None,
) -> str:
    """The page; everything that came from a model or a file is escaped.

    ``frames``: the true film, where known; ``codes``: the patches of the codes that the answer wrote, if any.
    """
    shown = ShownAnswer(
        problem_id=problem.id, benchmark=problem.benchmark, group=problem.group, output=question.output,
        verdict=question.verdict, latents=question.latents, imagined=question.imagined,
    )  # fmt: skip
    entry = lens_entry(shown, images_of(problem, auxiliary), frames=frames)
    rows = [(row_label(run), access_label(run.seen), row_outcome(run), run) for run in question.runs]
    page = environment().get_template("question.html")
    return (
        page.render(
            question=question, entry=entry, rows=rows, can=CAN, cannot=CANNOT, headline=headline(question), codes=codes
        )
        + "\n"
    )


def headline(question: Question) -> str:
    """What happened to this answer, in a sentence that claims no more."""
    if not question.num_latents:
        return "This answer has no latents."
    patched = [run for run in question.runs if run.name == "permute"]
    if not patched:
        full = [run for run in question.runs if run.seen == ImageAccess.FULL]
        stays = sum(run.same == len(run.answers) for run in full)
        return (
            f"{question.read!r} stays in {stays} of {len(full)} changes of its latents; no other problem's latents "
            "were available."
        )
    total = sum(len(run.answers) for run in patched)
    same, followed = sum(run.same for run in patched), sum(run.donors for run in patched)
    return (
        f"With the latents of {question.others} other problems, exchanged in {len(patched)} ways, {question.read!r} "
        f"stays in {same} of {total} answers and becomes the other problem's answer in {followed}."
    )


def row_label(run: QuestionRun) -> str:
    """The label of the intervention."""
    return intervention_label(run.name, run.scale, run.way)


def row_outcome(run: QuestionRun) -> str:
    """What the answer becomes."""
    if len(run.answers) == 1:
        return "stays" if run.same else f"becomes {run.answers[0][:60]!r}"
    followed = f", the other problem's own in {run.donors}" if run.donors else ""
    return f"stays in {run.same} of {len(run.answers)}{followed}"


def question_lines(question: Question) -> list[str]:
    """The same for a terminal: the interventions, the lens on the latents, and what it does not show."""
    width = max((len(row_label(run)) for run in question.runs), default=0)
    lines = [headline(question)]
    for run in question.runs:
        kl = "" if run.kl is None else f"  KL {run.kl:.3f}"
        lines.append(f"  {row_label(run):{width}}  {access_label(run.seen)}: {row_outcome(run)}{kl}")
    lines += film_lines(question.imagined)
    for lens in question.latents:
        word = lens.words.head[0]
        own = "the average latent's word" if lens.words.matches_mean_latent else "not the average latent's word"
        maps = "; ".join(
            f"{image.picture}: r = {image.like_mean:.2f} with the average latent's map"
            for image in lens.pictures
            if image.like_mean is not None
        )
        lines.append(
            f"  latent {lens.index + 1}: head reads {word.text!r} ({word.score:.2f}, {own}){'; ' if maps else ''}{maps}"
        )
    return [*lines, CANNOT[0]]


def film_lines(film: Sequence[ImaginedStep]) -> list[str]:
    """The imagined film for a terminal, a line a latent."""
    marks = {True: "right  ", False: "WRONG  ", None: ""}
    return [f"  imagined {step.index + 1}  {marks[step.right]}{step_words(step)}" for step in film]
