from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirage_core.errors import DataError
from mirage_core.store import records
from mirage_core.store.tables import read_columns, read_table, write_table
from mirage_core.types import (
    AuxiliaryImage,
    LatentSpan,
    Prediction,
    Problem,
    ProvidedImage,
    ReasoningChain,
    Rejection,
    Score,
    TrainingExample,
)

FIXTURES = Path(__file__).parent / "fixtures"
"""Tables that the code before the codec wrote (November 2026)."""


def problem(number: int = 0, split: str = "train") -> Problem:
    return Problem(
        id=f"p{number}",
        benchmark="vsp-planning",
        split=split,  # type: ignore[arg-type]
        group="level-3",
        question="<image> Où aller ?",
        images=(b"\x89PNG\x00", b"second"),
        answer="RRDD",
        facts={"map": ["SFG", "HFF"], "deep": {"x": [1, 2.5, None, True]}},
    )


def image(number: int = 0) -> AuxiliaryImage:
    return AuxiliaryImage(problem_id=f"p{number}", image=b"\x00\xff", style="arrows", details={"plan": "RR"})


def example(number: int = 0, split: str = "train") -> TrainingExample:
    chain = ReasoningChain(
        problem_id=f"p{number}",
        variant="cot",
        text_before="<think>a</think>",
        text_after="\\boxed{R}",
        teacher="oracle",
    )
    return TrainingExample(problem=problem(number, split), auxiliary_image=image(number), chain=chain)


def prediction(number: int = 0, parsed: str | None = "RR") -> tuple[Prediction, Score]:
    answered = Prediction(
        problem_id=f"p{number}",
        benchmark="vsp-planning",
        group="level-3",
        method="stage-2",
        output="<latents:4>\\boxed{RR}",
        token_ids=(1, 2, 3),
        spans=(LatentSpan(position=0, num_latents=4), LatentSpan(position=2, num_latents=2)),
        finished=True,
        sample=1,
    )
    return answered, Score(problem_id=f"p{number}", correct=parsed is not None, parsed=parsed, rule="mirage")


def rejection(number: int = 0) -> Rejection:
    return Rejection(
        problem_id=f"p{number}",
        benchmark="vsp-planning",
        split="train",
        group="level-3",
        variant="cot",
        teacher="endpoint",
        attempt=2,
        reason="wrong-answer",
        faults="the box holds LL",
        answer="\\boxed{LL}",
        left_out=True,
    )


def provided(number: int = 0, text: str | None = None) -> ProvidedImage:
    return ProvidedImage(
        problem_id=f"p{number}", image=b"\x00\xff", style="rationale", text_before=text, text_after=text
    )


STORED = {
    records.PROBLEMS_FILE: (records.load_problems, records.save_problems, [problem(0), problem(1, "test")]),
    records.AUXILIARY_IMAGES_FILE: (records.load_auxiliary_images, records.save_auxiliary_images, [image(0), image(1)]),
    records.EXAMPLES_FILE: (records.load_examples, records.save_examples, [example(0), example(1, "validation")]),
    records.PREDICTIONS_FILE: (
        records.load_predictions,
        records.save_predictions,
        [prediction(0), prediction(1, None)],
    ),
    records.REJECTIONS_FILE: (records.load_rejections, records.save_rejections, [rejection(0), rejection(1)]),
    records.PROVIDED_IMAGES_FILE: (
        lambda path: list(records.load_provided_images(path).values()),
        records.save_provided_images,
        [provided(0, "<think>x</think>"), provided(1)],
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_tables_of_earlier_versions_are_read_and_written_again_to_the_byte(name: str, tmp_path: Path) -> None:
    load, save, expected = STORED[name]
    old, new = FIXTURES / name, tmp_path / name
    assert load(FIXTURES) == load(old) == expected
    save(new, load(old))
    assert pq.read_schema(new).equals(pq.read_schema(old), check_metadata=True)
    if pq.read_metadata(new).created_by == pq.read_metadata(old).created_by:  # another pyarrow writes its own version
        assert new.read_bytes() == old.read_bytes()
    assert read_table(new) == read_table(old)


def test_a_value_that_is_not_json_is_named_with_its_row_and_column(tmp_path: Path) -> None:
    for text, fault in (("{", "Expecting"), ("[1]", "got JSON of type list, expected an object")):
        rows = [row | {"facts": text} for row in read_table(FIXTURES / records.PROBLEMS_FILE)]
        write_table(tmp_path / "problems.parquet", rows, records._PROBLEMS._codec.schema)
        with pytest.raises(DataError, match=rf"{tmp_path}: the row of p0 cannot be read: facts: {fault}"):
            records.load_problems(tmp_path)


def test_problems_come_back_as_they_were_and_by_split(tmp_path: Path) -> None:
    problems = [problem(0, "train"), problem(1, "test"), problem(2, "train")]
    path = tmp_path / records.PROBLEMS_FILE
    records.save_problems(path, problems)
    assert records.load_problems(path) == problems
    assert records.load_problems(tmp_path, "train") == [problems[0], problems[2]]
    assert records.load_problems(path, "validation") == []


def test_auxiliary_images_examples_and_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    records.save_auxiliary_images(tmp_path / records.AUXILIARY_IMAGES_FILE, [image(0), image(1)])
    assert records.load_auxiliary_images(tmp_path) == [image(0), image(1)]
    records.save_examples(tmp_path / records.EXAMPLES_FILE, [example(0), example(1, "validation")])
    assert records.load_examples(tmp_path) == [example(0), example(1, "validation")]
    assert records.load_examples(tmp_path, split="train") == [example(0)]
    records.save_predictions(tmp_path / records.PREDICTIONS_FILE, [prediction(0), prediction(1, None)])
    assert records.load_predictions(tmp_path) == [prediction(0), prediction(1, None)]


def test_empty_tables_are_tables(tmp_path: Path) -> None:
    records.save_problems(tmp_path / "p.parquet", [])
    assert records.load_problems(tmp_path / "p.parquet") == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records.save_examples(tmp_path / "a.parquet", [example(n) for n in range(5)])
    reloaded = records.load_examples(tmp_path / "a.parquet")
    records.save_examples(tmp_path / "b.parquet", iter(reloaded))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert b"pandas" not in (tmp_path / "a.parquet").read_bytes()


def test_datasets_reads_the_examples(tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "examples.parquet"
    records.save_examples(path, [example(0), example(1)])
    loaded = datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded[1]["id"] == "p1"
    assert loaded[0]["images"] == [b"\x89PNG\x00", b"second"]
    assert loaded[0]["auxiliary_image"] == b"\x00\xff"


def test_an_example_that_mixes_problems_is_refused(tmp_path: Path) -> None:
    mixed = TrainingExample(problem=problem(0), auxiliary_image=image(1), chain=example(0).chain)
    with pytest.raises(DataError, match="the records of one row differ in id: 'p0' and 'p1'"):
        records.save_examples(tmp_path / "x.parquet", [mixed])
    with pytest.raises(DataError, match="the records of one row differ in problem_id: 'p0' and 'p1'"):
        records.save_predictions(tmp_path / "x.parquet", [(prediction(0)[0], prediction(1)[1])])


def test_a_table_of_another_kind_and_a_broken_file_are_named(tmp_path: Path) -> None:
    records.save_auxiliary_images(tmp_path / "images.parquet", [image()])
    with pytest.raises(DataError, match=r"images.parquet lacks the columns id"):
        records.load_problems(tmp_path / "images.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"broken.parquet is not a readable parquet table"):
        records.load_problems(tmp_path / "broken.parquet")
    with pytest.raises(DataError, match="missing"):
        records.load_problems(tmp_path / "missing.parquet")


def test_a_row_that_does_not_fit_its_table_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int32(), nullable=False), pa.field("b", pa.string())])
    path = tmp_path / "t.parquet"
    with pytest.raises(DataError, match="row 1 has the columns"):
        write_table(path, [{"a": 1, "b": "x"}, {"a": 1}], schema)
    with pytest.raises(DataError, match="no value for a"):
        write_table(path, [{"a": None, "b": "x"}], schema)
    with pytest.raises(DataError, match="does not fit"):
        write_table(path, [{"a": "x", "b": "x"}], schema)
    write_table(path, [{"a": 1, "b": None}, {"a": 2, "b": "y"}], schema)
    assert read_table(path, equal={"a": 2}) == [{"a": 2, "b": "y"}]
    assert read_columns(path, schema) == [{"a": 1, "b": None}, {"a": 2, "b": "y"}]
