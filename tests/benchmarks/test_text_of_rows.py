"""Text and file names of rows: byte-order marks, line ends, composed letters, names from other systems."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.custom.jsonl_data import rows_of
from mirage_core.benchmarks.io.content_digest import content_of, sources_identity
from mirage_core.config import OwnData, ProblemSettings
from mirage_core.errors import DataError
from tests.benchmarks.data_sets import MAPS, picture
from tests.benchmarks.public_data import vstar_folder

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def own(folder: Path, text: str | None = None, **changed: Any) -> Path:
    """A file of one's own questions with one test line."""
    (folder / "a.png").write_bytes(picture(1))
    row = {"question": "Where?", "images": ["a.png"], "options": ["here", "there"], "answer": "here", "split": "test"}
    file = folder / "own.jsonl"
    file.write_bytes((text or json.dumps({**row, **changed}) + "\n").encode())
    return file


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path: Path) -> None:
    plain = own(tmp_path).read_text()
    (expected,) = rows_of(OwnData(file=str(own(tmp_path))))
    (read,) = rows_of(OwnData(file=str(own(tmp_path, "\ufeff" + plain.replace("\n", "\r\n")))))
    assert read == expected


def test_texts_are_composed_and_end_lines_with_a_line_feed(tmp_path: Path) -> None:
    file = own(tmp_path, question="Where?\r\nSay it.", options=[DECOMPOSED, "th\u00e9"], answer=COMPOSED)
    (row,) = rows_of(OwnData(file=str(file)))
    assert row.problem.facts["options"] == [COMPOSED, "th\u00e9"] and row.problem.answer == "A"
    assert "\r" not in row.problem.question and "Where?\nSay it." in row.problem.question


def test_published_texts_with_line_ends_of_windows_have_the_same_options(tmp_path: Path) -> None:
    folder = vstar_folder(tmp_path)
    expected = benchmarks.get("vstar").load(folder)
    file = folder / "test_questions.jsonl"
    file.write_text(file.read_text().replace("\\n", "\\r\\n"))
    assert benchmarks.get("vstar").load(folder) == expected


def test_a_picture_whose_name_macos_decomposed_is_found_and_part_of_the_identity(tmp_path: Path) -> None:
    file = own(tmp_path, images=[f"{COMPOSED}.png"])
    settings = ProblemSettings(vsp_planning=None, vsp_reasoning=None, own=OwnData(file=str(file)))
    stored = tmp_path / f"{DECOMPOSED}.png"
    stored.write_bytes(picture(2))
    (row,) = rows_of(OwnData(file=str(file)))
    before = sources_identity(settings)
    assert row.problem.images == (picture(2),)
    stored.write_bytes(picture(3))
    assert sources_identity(settings) != before


def test_ones_own_pictures_are_only_looked_for_beside_the_file(tmp_path: Path) -> None:
    """A picture found elsewhere would not be part of the identity, and a changed one would go unnoticed."""
    (tmp_path / "shared.png").write_bytes(picture(5))
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"shared\.png' is missing; expected it at .*mine/shared\.png"):
        list(rows_of(OwnData(file=str(own(tmp_path / "mine", images=["shared.png"])))))


def vsp_row(image: Any) -> dict[str, Any]:
    return {"text_input": "Plan: <image>", "image_input": image, "map_id": "1", "map_desc": MAPS[0]}


@pytest.mark.parametrize("name", ["imgs/1.png", ["imgs/1.png"], "./data/vsp_planning/imgs/1.png", "data/imgs/1.png"])
def test_vsp_rows_name_their_picture_in_every_published_way(tmp_path: Path, name: Any) -> None:
    """Mirage's README has image_input as a list of one; its rows name pictures from the root of its repository."""
    (tmp_path / "unpacked" / "imgs").mkdir(parents=True)
    (tmp_path / "unpacked" / "imgs" / "1.png").write_bytes(picture(4))
    (tmp_path / "unpacked" / "test.jsonl").write_text(json.dumps(vsp_row(name)) + "\n")
    for source in (tmp_path / "unpacked" / "test.jsonl", tmp_path / "unpacked"):
        (problem,) = benchmarks.get("vsp-planning").load(source)
        assert problem.images == (picture(4),)


def test_a_folder_with_two_files_of_rows_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(DataError, match=r"a\.jsonl, b\.jsonl; expected one, or name the file"):
        benchmarks.get("vsp-planning").load(tmp_path)


def test_what_git_and_the_hubs_client_keep_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    before = content_of(str(tmp_path))
    for name in (".git/index", ".cache/huggingface/download/rows.jsonl.metadata"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("some day")
    assert content_of(str(tmp_path)) == before
