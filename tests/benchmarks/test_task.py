"""A task of one's own: what its file must hold, what it must make, and how every breach is told."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.io.content_digest import sources_identity
from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import AuxiliaryImageSettings, CaptionSettings, ProblemSettings
from mirage_core.errors import DataError, InputError, SettingsError, TeacherError
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher.captions import caption_faults, oracle_caption, with_caption
from mirage_core.teacher.examples import write_examples
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.types import Problem
from tests.pipeline.fakes import Events

TURNING = Path(__file__).parents[2] / "docs/examples/turning.py"
# The least a task can be: which of two shades is asked, eight rows of pictures a split.
SMALL = """
from PIL import Image
from mirage_core.benchmarks.custom.task import Problem, Score, boxed, picture_bytes

NAME = "shades"
GROUPS = ("grey",)
FIRST = {"train": 0, "validation": 60, "test": 120}

def problems(split, count, seed, options):
    for number in range(20):
        shade = FIRST[split] + number
        yield Problem(
            id=f"{split}-{number}", benchmark=NAME, split=split, group="grey", question="<image> dark or light?",
            images=(auxiliary_image(None, shade),), answer="dark" if shade < 128 else "light", facts={"shade": shade},
        )

def auxiliary_image(problem, seed):
    return picture_bytes(Image.new("L", (28, 28), seed))

def score(problem, output):
    parsed = boxed(output)
    return Score(problem_id=problem.id, correct=parsed == problem.answer, parsed=parsed, rule="shade")
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins in a process that knows no task."""
    monkeypatch.setattr(benchmarks, "_TASKS", {})


def settings(file: Path, **changes: Any) -> ProblemSettings:
    """A recipe's problems: the task in a file and nothing else."""
    task = {"module": str(file), "train": 6, "validation": 2, "test": 3, **changes}
    return ProblemSettings.model_validate({"vsp_planning": None, "vsp_reasoning": None, "task": task})


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The small task with some of its text changed."""
    text = SMALL
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file = folder / "shades.py"
    file.write_text(text)
    return file


def problems_of(chosen: ProblemSettings, seed: int = 42) -> list[Problem]:
    return [problem for problem, _ in sourced_problems(chosen, seed, Events())]


def taught(problems: list[Problem], variant: Any = "cot") -> Iterator[Any]:
    images = draw_auxiliary_images(problems, AuxiliaryImageSettings(), 64, 42, Events())
    assert [image.style for image in images] == ["task"] * len(problems)
    return iter(write_examples(OracleTeacher(), problems, images, variant, Events()))


def test_a_task_gives_problems_pictures_chains_captions_prompts_and_scores() -> None:
    problems = problems_of(settings(TURNING, options={"side": 3}))

    assert [problem.split for problem in problems] == ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
    assert {len(problem.facts["pattern"]) for problem in problems} == {3}
    example = next(taught(problems))
    assert example.chain.text_before.startswith("<think>I turn the pattern")
    assert example.chain.text_after.endswith(f"</think>\\boxed{{{problems[0].answer}}}")
    captioned = with_caption(example, oracle_caption(example, CaptionSettings()))
    assert "the rows are" in captioned.chain.caption and not caption_faults(captioned, CaptionSettings())
    turning = benchmarks.get("turning")
    assert turning.prompt(problems[0], "short", "cot").endswith("top row?\nAnswer:")
    assert "<think>" in turning.prompt(problems[0], "benchmark", "cot")
    assert turning.score(problems[0], f"\\boxed{{{problems[0].answer}}}", rule="mirage").correct
    assert not turning.score(problems[0], "\\boxed{9}").correct


def test_the_turning_of_the_example_is_right() -> None:
    task = benchmarks.use(settings(TURNING))
    assert task is not None
    turned = task.functions["score"].__globals__["turned"]

    assert turned([[1, 2], [3, 4]], "left") == [[2, 4], [1, 3]]
    assert turned([[1, 2], [3, 4]], "half") == [[4, 3], [2, 1]]
    assert turned([[1, 2], [3, 4]], "right") == [[3, 1], [4, 2]]


def test_the_seed_and_the_options_change_the_problems_and_nothing_else_does(tmp_path: Path) -> None:
    random.seed(1)
    first = problems_of(settings(TURNING))
    random.seed(2)
    assert problems_of(settings(TURNING)) == first
    assert problems_of(settings(TURNING), seed=7) != first
    assert problems_of(settings(TURNING, train=9))[:6] == first[:6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("def score", "def scores")], r"it has no score\(problem, output\); did you mean to call scores so\?"),
        ([("def score(problem, output)", "def score(output)")], r"score cannot be called as score\(problem, output\)"),
        ([("def score", "score = 3\ndef other")], r"score is int, expected the function score\(problem, output\)"),
        ([("(split, count, seed, options)", "(split)")], r"as problems\(split, count, seed, options\)"),
        ([('"shades"', "7")], "NAME is 7, expected"),
        ([('"shades"', '"Two Shades"')], "NAME is 'Two Shades', expected a text of lower-case letters"),
        ([('"shades"', '"jigsaw"')], "NAME is 'jigsaw', which is a benchmark of this project"),
        ([('("grey",)', '"grey"')], "GROUPS is 'grey', expected a tuple"),
        ([('("grey",)', '("grey", "grey")')], "has duplicates"),
        ([('("grey",)', '("all",)')], "other than 'all'"),
        ([("NAME =", "NAME ==")], r"shades.py cannot be run \(shades.py, line 5\): NameError"),
        ([("def problems(", "def problems((")], r"cannot be run \(line 9\): SyntaxError"),
        ([("from PIL", "import absent\nfrom PIL")], r"\(shades.py, line 2\): ModuleNotFoundError.*absent"),
    ],
)
def test_a_file_that_is_no_task_is_refused_with_what_it_lacks(
    tmp_path: Path, changes: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        benchmarks.use(settings(written(tmp_path, *changes)))
    assert list(tmp_path.iterdir()) == [tmp_path / "shades.py"], "nothing is written beside the file"


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text("")
    with pytest.raises(SettingsError, match=r"NAME.*GROUPS.*problems.*auxiliary_image.*score.*your-own-task\.md"):
        benchmarks.use(settings(tmp_path / "nothing.py"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("range(20)", "range(4)")], r"problems\('train', 6, ...\) ended after 4; .*problems.task.train"),
        ([("yield Problem(", "yield dict(")], "problem 1 of train is .*expected a Problem"),
        ([("shade = FIRST", "shade = LAST")], r"problems\(\) failed \(shades.py, line 11\): NameError"),
        ([("yield Problem(", "return Problem(")], r"problems\(\) failed: TypeError: .*not iterable"),
        ([("benchmark=NAME", 'benchmark="own"')], "its benchmark is 'own', expected 'shades'"),
        ([("split=split", 'split="test"')], "its split is 'test', expected 'train'"),
        ([('group="grey"', 'group="blue"')], "its group is 'blue', expected one of GROUPS: grey"),
        ([('id=f"{split}-{number}"', 'id=" "')], "its id is empty"),
        ([('id=f"{split}-{number}"', 'id="one"')], "the id 'one' is in train already"),
        ([('id=f"{split}-{number}"', 'id=f"{number}"')], "problem 1 of validation .*the id '0' is in train"),
        ([('"dark" if shade < 128 else "light"', "shade")], "its answer is 0, expected text"),
        ([("images=(auxiliary_image(None, shade),)", "images=()")], "expected a tuple of encoded images"),
        ([("images=(auxiliary_image(None, shade),)", 'images=("a",)')], "its images are not all bytes"),
        ([("images=(auxiliary_image(None, shade),)", 'images=(b"a",)')], "image 1 cannot be decoded"),
        ([("<image> dark", "dark")], "its question needs <image> 1 times"),
        ([('{"shade": shade}', '{"map": [[1]]}')], "the fact 'map' means a maze"),
        ([('{"shade": shade}', '{"at": (1, 2)}')], "use lists, not tuples"),
        ([('{"shade": shade}', '{"at": {1, 2}}')], "its facts: expected a JSON value"),
        ([('{"shade": shade}', '{"options": ["dark", "light"]}')], "its answer is one of A, B, got 'dark'"),
        ([('{"shade": shade}', '{"options": "dark"}')], "the fact 'options' is 'dark', expected a list of texts"),
        ([('{"shade": shade}', '{"options": ["a", "A"]}')], "not all different"),
        ([("parsed == problem.answer", "parsed != problem.answer")], r"calls its own answer wrong: \\boxed\{dark\}"),
        ([("parsed == problem.answer", "True")], r"score\(\) calls an empty output right"),
        ([("return Score(problem_id=problem.id", 'return Score(problem_id="x"')], r"score\(\) of .*train-0 returned"),
        ([("return Score", "return bool")], r"score\(\) failed on problem \S+ \(shades.py, line 22\): TypeError"),
        ([("correct=parsed == problem.answer", "correct=1")], "expected a Score of 'train-0', correct True"),
        ([('"validation": 60', '"validation": 0')], "has the same question and images as 'train-0' of train"),
        ([("FIRST[split] + number", "FIRST[split] + number % 2")], "question and images as 'test-0' of test"),
        ([("NAME =", "import itertools\nTOLD = itertools.count()\nNAME ="), ("+ number", "+ next(TOLD)")],
         "gave another first problem the second time"),
    ],
)  # fmt: skip
def test_a_problem_that_may_not_be_one_is_named_with_its_fault(
    tmp_path: Path, changes: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        problems_of(settings(written(tmp_path, *changes)))


def test_only_training_problems_may_repeat(tmp_path: Path) -> None:
    repeated = ("FIRST[split] + number", "FIRST[split] + (number % 2 if split == 'train' else number)")
    assert len(problems_of(settings(written(tmp_path, repeated)))) == 11


def test_a_picture_encoded_anew_is_still_the_same_picture(tmp_path: Path) -> None:
    leak = [('"validation": 60', '"validation": 0'), ('"L", (28, 28), seed)', '"RGB", (28, 28), (seed,) * 3)')]
    with pytest.raises(DataError, match="has the same question and images"):
        problems_of(settings(written(tmp_path, *leak)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [("return picture_bytes(", "return (")],
            r"auxiliary_image\(\) of problem train-0 returned .*expected the bytes",
        ),
        ([("return picture_bytes(", "return bytes(3) or (")], "auxiliary_image of problem train-0 cannot be decoded"),
        ([("NAME =", "def chain(problem): return 'one', ''\nNAME =")], r"chain\(\) of .* expected two thoughts"),
        ([("NAME =", "def chain(problem): return '<think>a', 'b'\nNAME =")], "without think tags"),
        ([("NAME =", "def chain(problem): return problem.facts['x']\nNAME =")], r"chain\(\) failed .*KeyError"),
    ],
)
def test_what_is_made_of_a_problem_is_checked_too(tmp_path: Path, changes: list[tuple[str, str]], message: str) -> None:
    extra = ("images=(auxiliary_image(None, shade),)", "images=(picture_bytes(Image.new('L', (28, 28), shade)),)")
    with pytest.raises(DataError, match=message):
        list(taught(problems_of(settings(written(tmp_path, extra, *changes)))))


def test_without_chain_and_caption_the_oracle_teaches_direct_chains_only(tmp_path: Path) -> None:
    problems = problems_of(settings(written(tmp_path)))

    direct = next(taught(problems, "direct"))
    assert (direct.chain.text_before, direct.chain.text_after) == ("", "\\boxed{dark}")
    with pytest.raises(TeacherError, match=r"'shades' has no chain\(problem\).*teacher.variant=direct"):
        list(taught(problems))
    with pytest.raises(TeacherError, match=r"a task of your own that has a caption\(problem\)"):
        oracle_caption(direct, CaptionSettings())


def test_a_prompt_of_ones_own_needs_every_picture(tmp_path: Path) -> None:
    problem = problems_of(
        settings(written(tmp_path, ("NAME =", "def prompt(p, form, variant): return '<image>!'\nNAME =")))
    )[0]
    assert benchmarks.get("shades").prompt(problem, "short", "direct") == "<image>!"

    bare = written(tmp_path, ("NAME =", "def prompt(p, form, variant): return '!'\nNAME ="))
    with pytest.raises(
        DataError, match=r"prompt\(\) of problem train-0 returned '!', expected text with <image> 1 times"
    ):
        problems_of(settings(bare))


def test_a_task_is_known_only_where_it_is_used_and_reads_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown benchmark 'shades'.*your own task is known where its recipe is used"
    ):
        benchmarks.get("shades")
    assert benchmarks.use(ProblemSettings()) is None
    benchmarks.use(settings(written(tmp_path)))

    with pytest.raises(InputError, match="shades generates its own problems"):
        benchmarks.get("shades").load(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="did you mean 'shades'"):
        benchmarks.get("shade")


def test_a_file_is_run_once_and_a_changed_one_takes_its_place(tmp_path: Path) -> None:
    first = benchmarks.use(settings(written(tmp_path)))
    assert benchmarks.use(settings(written(tmp_path))) is first
    problem = problems_of(settings(tmp_path / "shades.py"))[0]

    second = benchmarks.use(settings(written(tmp_path, ('rule="shade"', 'rule="other"'))))

    assert second is not first
    assert benchmarks.get("shades").score(problem, "").rule == "other"


def test_a_file_that_changes_during_its_run_ends_the_run(tmp_path: Path) -> None:
    first = benchmarks.use(settings(written(tmp_path)))
    assert first is not None
    begun = settings(tmp_path / "shades.py", sha256=first.sha256)
    assert benchmarks.use(begun) is first

    written(tmp_path, ('rule="shade"', 'rule="other"'))

    with pytest.raises(SettingsError, match=r"shades.py has changed: .*start the recipe again"):
        benchmarks.use(begun)


def test_a_task_counts_by_its_content_its_numbers_and_its_options_not_by_its_place(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    first_identity, second_identity = (sources_identity(settings(written(tmp_path / name))) for name in ("one", "two"))
    third_identity = sources_identity(settings(written(tmp_path / "three", ("NAME =", "# a word\nNAME ="))))

    assert first_identity == second_identity != third_identity
    assert str(tmp_path) not in str(first_identity)
    assert sources_identity(settings(tmp_path / "one/shades.py", options={"side": 3})) != first_identity
