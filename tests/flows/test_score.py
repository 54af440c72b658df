"""``mirage score``: the answers of any system, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app
from mirage_core.errors import DataError
from mirage_core.store.records import load_predictions
from tests.benchmarks.data_sets import picture
from tests.benchmarks.public_data import hr_bench_folder, vstar_folder


def arguments(folder: Path, benchmark: str, data: Path, outputs: list[str]) -> list[str]:
    file = folder / "system-x.jsonl"
    file.write_text("".join(json.dumps({"row": at, "output": text}) + "\n" for at, text in enumerate(outputs)))
    command = ["score", "--benchmark", benchmark, "--data", str(data), "--predictions", str(file)]
    return [*command, "--store", str(folder / "store")]


def test_scores_are_printed_as_json_with_what_is_published(tmp_path: Path) -> None:
    command = arguments(tmp_path, "vstar", vstar_folder(tmp_path / "data"), ["A", "A", "A", "none"])
    done = CliRunner().invoke(app, [*command, "--json", "--save", str(tmp_path / "judged.parquet")])

    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert (result["accuracy"], result["n"], result["unparsed"], result["missing"]) == (0.5, 4, 1, 0)
    assert (result["method"], result["rule"]) == ("system-x", "option-letter")
    assert {"label": "Qwen2.5-VL-7B", "accuracy": 0.764, "source": "CapImagine, arXiv 2602.22766"} in result[
        "published"
    ]
    saved = load_predictions(tmp_path / "judged.parquet")
    assert [score.correct for _, score in saved] == [True, False, True, False]


def test_a_table_shows_the_groups_and_the_protocol(tmp_path: Path) -> None:
    command = arguments(tmp_path, "hr-bench-8k", hr_bench_folder(tmp_path / "data"), ["A", "B", "C", "A"])
    done = CliRunner().invoke(app, [*command, "--method", "mine"])

    assert done.exit_code == 0, done.output
    assert "cyclic: mean over 4 orders 75.0% (" in done.output
    assert "of 1 questions; right in every order 0.0%" in done.output
    assert "published  63.8%  Qwen2.5-VL-7B" in done.output


def test_every_line_of_your_own_file_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    lines = [
        {"question": f"Which is {at}?", "images": ["a.png"], "options": ["left", "right"], "answer": "right"}
        for at in range(6)
    ]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    done = CliRunner().invoke(app, [*arguments(tmp_path, "own", data, ["(B)"] * 3 + ["(A)"] * 3), "--json"])

    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["n"], json.loads(done.stdout)["accuracy"]) == (6, 0.5)


def test_missing_rows_need_a_word(tmp_path: Path) -> None:
    command = arguments(tmp_path, "vstar", vstar_folder(tmp_path / "data"), ["A", "B"])
    refused = CliRunner().invoke(app, command)
    partial = CliRunner().invoke(app, [*command, "--partial", "--json"])

    assert isinstance(refused.exception, DataError) and "missing: row 2; 3" in str(refused.exception)
    assert json.loads(partial.stdout)["missing"] == 2
