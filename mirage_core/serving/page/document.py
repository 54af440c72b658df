"""The page as one document, put together from the files of this folder, and the headers that keep it to itself."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from mirage_core.reports.html import TEMPLATES, page_environment

_FOLDER = Path(__file__).parent
_SCRIPTS = ("stream.js", "board.js", "answer.js", "page.js")


@dataclass(frozen=True, slots=True)
class Document:
    """The HTML of the page, and its headers: nothing is loaded from anywhere, and only its own server is asked."""

    html: str
    headers: dict[str, str]


def document() -> Document:
    """Put the page together: its style is that of reports, and more."""
    style = (TEMPLATES / "report.css").read_text("utf-8") + (_FOLDER / "page.css").read_text("utf-8")
    inside = "".join((_FOLDER / name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{inside}}})();\n'
    html = page_environment(_FOLDER).get_template("page.html").render(style=Markup(style), script=Markup(script))
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return Document(html, headers)


def _hash(text: str) -> str:
    """The source expression that lets this text run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
