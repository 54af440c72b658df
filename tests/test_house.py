"""The shape of the house: sizes of functions and files, rooms of training, and words that no identifier uses."""

import ast
import re
import statistics
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD_WORDS = ("told", "healed", "looks", "held")


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def product() -> list[Path]:
    return [path for path in sources() if "tests" not in path.relative_to(ROOT).parts]


def functions(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.name}"


def test_functions_are_short() -> None:
    sizes = sorted(each for path in product() for each in functions(path))
    lines = [size for size, _ in sizes]
    assert statistics.median(lines) <= 9 and lines[int(0.9 * len(lines))] <= 25, (len(lines), statistics.median(lines))
    assert not [each for each in sizes if each[0] > 60]


def test_no_file_of_the_product_has_more_than_400_lines() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in product()}
    assert len(sizes) > 400 and not {name: size for name, size in sizes.items() if size > 400}


def test_training_has_at_most_twelve_rooms() -> None:
    names = [path.name for path in (ROOT / "mirage_core/training").iterdir()]
    assert 8 <= len([name for name in names if not name.startswith("__")]) <= 12, sorted(names)


def test_no_identifier_is_a_word_of_the_old_dialect() -> None:
    used, allowed = [], {("tests/analysis/test_diagnosing.py", "looks")}  # a setting's old name: still an alias
    for path in sources():
        if not re.search(rf"\b_?({'|'.join(OLD_WORDS)})\b", path.read_text("utf-8"), re.IGNORECASE):
            continue
        with path.open("rb") as file:
            names = {each.string for each in tokenize.tokenize(file.readline) if each.type == tokenize.NAME}
        used += [(str(path.relative_to(ROOT)), name) for name in names if name.strip("_").lower() in OLD_WORDS]
    assert set(used) <= allowed
