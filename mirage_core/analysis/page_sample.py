"""The looks at one answer's latents as a piece of another page: a report puts it under the answer's card."""

from __future__ import annotations

from markupsafe import Markup

from mirage_core.analysis.looks import shows_nothing
from mirage_core.analysis.looks_pictures import heat_rows
from mirage_core.analysis.looks_result import ShownAnswer
from mirage_core.analysis.page import TEMPLATES, environment, pictures_of
from mirage_core.types import Problem

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
