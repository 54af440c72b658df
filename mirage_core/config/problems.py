"""Settings of the problems: generated, or read from the benchmarks' files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mirage_core.config.section import Level, Positive, Probability, Section

PUBLIC_SECTIONS = (
    "blink_multi_view", "blink_jigsaw", "vstar", "hr_bench_4k", "hr_bench_8k", "mme_realworld_lite", "tablevqa",
)  # fmt: skip
"""The sections of benchmarks that are only used for tests."""


PuzzleLevel = Annotated[int, Field(ge=3, le=8)]


class BenchmarkData(Section):
    """The number of problems of a generated benchmark in each split, and their levels."""

    train_levels: tuple[Level, ...] = Field(
        (3, 4, 5, 6), description="Map sizes of training problems; a size listed twice gets two shares."
    )
    test_levels: tuple[Level, ...] = Field((3, 4, 5, 6), description="Map sizes of test problems.")
    train: int = Field(1000, ge=0, description="Training problems, spread evenly over the levels.")
    validation: int = Field(100, ge=0, description="Validation problems, spread over train_levels.")
    test_per_level: int = Field(100, ge=0, description="Held-out test problems of each test level.")

    @model_validator(mode="after")
    def _problems_have_levels(self) -> Self:
        """Problems of no level cannot be made."""
        if not self.train_levels and (self.train or self.validation):
            raise ValueError("train_levels is empty: name one level or more, or set train and validation to 0")
        if not self.test_levels and self.test_per_level:
            raise ValueError("test_levels is empty: name one level or more, or set test_per_level to 0")
        return self


class ReasoningData(BenchmarkData):
    """The same for spatial reasoning, and how its plans are drawn."""

    LATER: ClassVar[frozenset[str]] = frozenset({"plans"})

    plans: Literal["published", "balanced"] = Field(
        "published",
        description="published: the outcomes alone are balanced, as in the published rows, so that a plan's length and "
        "revisits tell half of the answers; balanced: the outcomes also given length and revisits, and no plan ends "
        "where it has been.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_numbers(cls, data: Any) -> Any:
        """Take the numbers of problems from a plain ``BenchmarkData`` too."""
        return data.model_dump() if type(data) is BenchmarkData else data


class PuzzleData(BenchmarkData):
    """The number of generated puzzles in each split, and their levels: the cells of a side."""

    train_levels: tuple[PuzzleLevel, ...] = Field(
        (3, 4, 5, 6), description="Sizes of training puzzles, 3 to 8; a size listed twice gets two shares."
    )
    test_levels: tuple[PuzzleLevel, ...] = Field((3, 4, 5, 6), description="Sizes of test puzzles, 3 to 8.")


class JigsawData(Section):
    """Jigsaw problems cut from images, and the source of BLINK's rows for the test."""

    pictures: str = Field("drawn", description="A folder of PNG/JPEG, a data set (folder or hub id), or drawn.")
    pictures_column: str = Field("image", description="The image column of a data set.")
    pictures_split: str = Field("train", description="The split of a data set.")
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int = Field(150, ge=0, description="Held-out problems cut from the same source.")
    blink: str | None = Field(None, description="BLINK's Jigsaw rows (folder, file or hub id), added to the test.")
    side_px: int = Field(224, gt=0, multiple_of=2, description="Side of the reference, in pixels; a piece has half.")
    wrong: Literal["same", "near"] = Field(
        "same", description="The wrong piece: from elsewhere in the same image, or from the image nearest in colours."
    )


class SATData(Section):
    """SAT's questions about scenes."""

    source: str = Field("array/SAT", description="A hub id, a folder of parquet files, or a file.")
    train_split: str = Field("train", description="The training split: train, or static.")
    test_split: str = Field("test", description="The test split: test (150 real photographs) or val.")
    types: tuple[str, ...] = Field((), description="Question types to use; empty: all.")
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems, from the training split.")
    test: int | None = Field(None, ge=0, description="Test rows, each asked in both orders; None: all.")


class CoMTData(Section):
    """CoMT's questions, whose rationales hold the auxiliary images."""

    source: str = Field("comt", description="The folder that holds data.jsonl and images/, a clone, or czh-up/comt.")
    types: tuple[Literal["creation", "deletion", "update", "selection"], ...] = Field(
        ("creation",), min_length=1, description="Row types to use; creation is the geometry part."
    )
    train: int = Field(1000, ge=0, description="Training problems, with an image in the rationale.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int | None = Field(None, ge=0, description="Test problems; None: all of the test share.")


class OwnData(Section):
    """Your own questions in one JSONL file; ``mirage data check FILE`` shows what is wrong with it."""

    LATER: ClassVar[frozenset[str]] = frozenset({"layout"})

    file: str = Field(description="A JSONL file, with its images beside it.")
    layout: Literal["lines", "visual_cot", "monet"] = Field(
        "lines",
        description="lines: a question a line (docs/data.md); visual_cot: a file or the folder of Visual-CoT or LVR; "
        "monet: a file or the folder of Monet-SFT-125K, whose chains are learned as they are (teacher.variant cot).",
    )
    test_share: Probability = Field(0.2, description="Share of the lines without a split that go into the test.")
    validation_share: Probability = Field(0.05, description="Share of them that goes into validation.")


class VSPFolderData(Section):
    """Maps of the original VSP repository (maze/task-main/maps/level3/img/0.png), as tests of spatial planning."""

    source: str = Field(description="The repository's folder, or its folder maze.")
    tasks: tuple[Literal["task-main", "task1", "task2", "task3", "task4"], ...] = Field(
        ("task-main",), min_length=1, description="task-main: planning; task1 to task4: text questions."
    )
    levels: tuple[Level, ...] = Field((3, 4, 5, 6), min_length=1, description="Levels to read.")
    per_level: int | None = Field(None, gt=0, description="Maps of a level; None: all.")


class PublicData(Section):
    """A published benchmark that is only used for tests."""

    source: str | None = Field(None, description="A folder, a file or a hub id. None: the benchmark's own hub id.")
    groups: tuple[str, ...] = Field((), description="Groups to test; empty: all.")
    test: int | None = Field(
        None, gt=0, description="Test questions, in the order of the data; None: all. HR-Bench asks each in 4 orders."
    )


class TaskData(Section):
    """A task of your own: one Python file that is run as code (docs/your-own-task.md)."""

    module: str = Field(
        min_length=1, description="A Python file, relative to the recipe that names it, or a dotted module name."
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="The file's sha256; filled in when a recipe is read."
    )
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int = Field(150, ge=0, description="Held-out test problems.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the task.")


class ProblemSettings(Section):
    """The problems that are generated or read, and maps to exclude."""

    LATER: ClassVar[frozenset[str]] = frozenset({"mental_rotation", "paper_folding"})

    vsp_planning: BenchmarkData | None = Field(BenchmarkData(), description="VSP spatial planning.")
    vsp_reasoning: ReasoningData | None = Field(ReasoningData(), description="VSP spatial reasoning.")
    mental_rotation: PuzzleData | None = Field(None, description="Mental rotation: patterns of tiles that are turned.")
    paper_folding: PuzzleData | None = Field(None, description="Paper folding: sheets that are folded and punched.")
    vsp_folder: VSPFolderData | None = Field(None, description="Test maps of the original VSP repository.")
    jigsaw: JigsawData | None = Field(None, description="Jigsaw, cut from images; BLINK's rows for the test.")
    sat: SATData | None = Field(None, description="SAT, spatial aptitude.")
    comt: CoMTData | None = Field(None, description="CoMT, with the images of its rationales.")
    vstar: PublicData | None = Field(None, description="V*, test only.")
    hr_bench_4k: PublicData | None = Field(None, description="HR-Bench 4K, test only.")
    hr_bench_8k: PublicData | None = Field(None, description="HR-Bench 8K, test only.")
    mme_realworld_lite: PublicData | None = Field(None, description="MME-RealWorld-Lite, test only.")
    blink_multi_view: PublicData | None = Field(None, description="BLINK Multi-view reasoning, test only.")
    blink_jigsaw: PublicData | None = Field(None, description="BLINK Jigsaw with BLINK's prompts, test only.")
    tablevqa: PublicData | None = Field(None, description="TableVQA-Bench, test only.")
    own: OwnData | None = Field(None, description="Your own questions, from one JSONL file.")
    task: TaskData | None = Field(None, description="Your own task, in one Python file.")
    hole_probability: Probability = Field(0.2, description="Probability that a cell is a hole.")
    cell_px: Positive = Field(64, description="Side of a cell in the drawn map, in pixels.")
    plan_length_max: Positive = Field(9, description="Longest action plan of a reasoning problem.")
    exclude: tuple[str, ...] = Field((), description="Published JSONL files whose maps are never generated.")

    @property
    def several_images(self) -> bool:
        """Whether a chain may have several auxiliary images."""
        return self.own is not None and self.own.layout == "monet"
