"""What every data set has beside its examples: a card and a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_core.stages.stage import StageContext
from mirage_core.types import Problem, Rejection

if TYPE_CHECKING:
    from mirage_core.synthesis.tally import Tally

CARD_FILE, CARD_PAGE = "card.json", "card.md"
SHEET_FILE, SHEET_PAGE = "contact-sheet.png", "contact-sheet.html"


def write_card(
    context: StageContext,
    tally: Tally,
    rejections: Sequence[Rejection],
    settings: Mapping[str, Any],
    tests: Iterable[Problem],
) -> None:
    """Write the card and the contact sheet into the output folder; ``tests`` are looked through for duplicates."""
    from mirage_core.synthesis.card import card_markdown, data_card
    from mirage_core.synthesis.contact_sheet import contact_page, contact_sheet
    from mirage_core.synthesis.duplicates import trace_of

    inputs = {name: artifact.digest for name, artifact in sorted(context.inputs.items())}
    card = data_card(tally, rejections, [trace_of(problem) for problem in tests], settings, inputs)
    write_json(context.output / CARD_FILE, card)
    (context.output / CARD_PAGE).write_text(card_markdown(card), encoding="utf-8")
    (context.output / SHEET_FILE).write_bytes(contact_sheet(tally.sample()))
    page = contact_page(tally.sample(), f"A sample of {tally.total} examples")
    (context.output / SHEET_PAGE).write_text(page, encoding="utf-8")


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whose bytes depend on its content only."""
    file.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
