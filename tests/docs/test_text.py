"""README.md and docs/ are written for people: short sentences, what one can do first, words of the field."""

from __future__ import annotations

import re

import pytest

from tests.docs.commands import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))
LONGEST_SENTENCE = 25
LONGEST_GLOSSARY = 25


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings or targets of links."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=[-*|#] )", text)
    prose = [" ".join(block.split()) for block in blocks if not block.lstrip().startswith(("|", "#"))]
    return [part for block in prose for part in re.split(r"(?<=[.:!?])\**\s+", block) if part]


def test_the_readme_has_no_long_sentence() -> None:
    assert [part for part in sentences(README) if len(part.split()) > LONGEST_SENTENCE] == []


def test_the_readme_names_no_commit_and_no_machine() -> None:
    words = re.sub(r"\]\([^)]*\)|`[^`]*`", " ", README)
    assert re.findall(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b", words) == []
    assert re.findall(r"\bAMD|EPYC|Xeon\b", words) == []


def test_the_readme_s_table_names_the_page_that_says_how_it_was_measured() -> None:
    intro = README.partition("## What `make run` gives")[2].partition("| method |")[0]
    section = (ROOT / "docs/measurements.md").read_text(encoding="utf-8").partition("## The table of the README")[2]
    assert "docs/measurements.md" in intro
    assert re.search(r"seed \d+, commit [0-9a-f]{7}", section)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_begins_with_what_its_reader_can_do_and_then_the_commands(page) -> None:
    title, first, rest = page.read_text(encoding="utf-8").split("\n\n", 2)
    assert title.startswith("# ")
    assert first.startswith("After reading this page you")
    commands, prose = rest.find("```bash"), rest.find("\n## ")
    assert commands >= 0 and (prose < 0 or commands < prose or page.name == "from-laptop-to-cluster.md")


def test_the_glossary_is_short() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Glossary")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| word")]
    assert 10 <= len(rows) <= LONGEST_GLOSSARY


def test_every_link_between_pages_leads_to_a_file() -> None:
    for page in [ROOT / "README.md", *DOCS]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_ci_runs_the_tests_by_the_command_of_the_readme() -> None:
    assert "exec make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "make test" in README
