"""docs/evaluation.md: its commands are commands, its recipe is one, and its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from mirage_core import benchmarks
from mirage_core.config import PUBLIC_SECTIONS
from mirage_core.recipes import load
from tests.docs.test_code import blocks

PAGE = "evaluation.md"
TEXT = (Path(__file__).parents[2] / "docs" / PAGE).read_text()


def test_the_recipe_is_a_recipe(tmp_path: Path) -> None:
    (text,) = blocks(PAGE, "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    problems = load(tmp_path / "mine.yaml").problems

    assert problems.vstar is not None and problems.vstar.source is None
    assert problems.hr_bench_8k is not None and problems.hr_bench_8k.test == 50


def test_every_benchmark_stands_in_the_tables_with_its_section_and_rules() -> None:
    lines = [line for line in TEXT.splitlines() if re.match(r"\| `[a-z-]+[0-9k]*` \|", line)]
    rows = {line.split("`")[1]: line for line in reversed(lines)}  # tablevqa is a rule too, further down

    described = TEXT.partition("| rule | how an answer is parsed |")[2]
    assert set(benchmarks.NAMES) <= set(rows)
    assert {name.replace("_", "-") for name in PUBLIC_SECTIONS} == set(benchmarks.PUBLIC)
    for name, benchmark in benchmarks.PUBLIC.items():
        assert f"`{name.replace('-', '_')}`" in rows[name] and str(benchmark.source) in rows[name]
        assert all(f"`{rule}`" in rows[name] for rule in benchmark.rules)
        assert all(f"`{rule}`" in described for rule in benchmark.rules)
