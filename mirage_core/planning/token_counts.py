"""How long a recipe's own examples are: a few of each benchmark and level are made and counted.

Image tokens by the processor's rule, text by the tokenizer. Legend: k latents a span.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks.custom import jsonl_data as own
from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import PUBLIC_SECTIONS, ProblemSettings, Settings
from mirage_core.errors import SettingsError, TeacherError
from mirage_core.latent.images import open_picture
from mirage_core.model.loading import load_processor_of
from mirage_core.model.processing import PUBLISHED_IMAGES
from mirage_core.synthesis.draw import drawn_auxiliary_images
from mirage_core.teacher.captions import oracle_caption
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.types import AuxiliaryImage, Given, Problem, ProgressEvent, ReasoningChain, TrainingExample

EACH = 2
"""Examples made of every benchmark and level."""
UNKNOWN_THOUGHT = 600
"""Letters on each side of the picture where no chain can be written without the teacher."""
_PUBLISHED_TESTS = {
    "sat": 300,
    "comt": 204,
    "vsp_folder": 100,
    "vstar": 191,
    "hr_bench_4k": 800,
    "hr_bench_8k": 800,
    "mme_realworld_lite": 1919,
    "blink_multi_view": 133,
    "blink_jigsaw": 150,
    "tablevqa": 1500,
}
"""Test questions of published data; of the VSP repository a level and task."""
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_WORD = re.compile(r"<\|\w+\|>|'(?:[sdmt]|ll|ve|re)|[^\r\n\w]?[A-Za-z]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tokens of one example: the prompt (``image`` of them its pictures), the text before and after the picture that
    is imagined (end of turn and newline included), its caption, and the merged patches of that picture."""

    benchmark: str
    prompt: int
    image: int
    before: int
    after: int
    caption: int
    auxiliary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRows:
    """Sampled rows with their weights (they add up to 1), how many examples are trained on and tested, and what had
    to be assumed."""

    rows: tuple[tuple[Row, float], ...]
    train: int
    test: int
    notes: tuple[str, ...]

    def mean(self, name: str) -> float:
        """The mean of one of the rows' figures."""
        return sum(getattr(row, name) * weight for row, weight in self.rows)

    def most(self, name: str) -> int:
        """The largest of one of the rows' figures."""
        return max(getattr(row, name) for row, _ in self.rows)


def recipe_rows(settings: Settings) -> RecipeRows:
    """The rows of a recipe; what is assumed where its tokenizer or its teacher is not at hand is said in ``notes``.

    Raises what making problems and pictures raises (DataError, InputError), SettingsError without a benchmark.
    """
    benchmarks.use(settings.problems)
    totals = count_trained(settings.problems)
    notes: list[str] = []
    counting = _counting(settings, notes)
    found = [counting.row(example) for example in _examples(settings, notes)]
    if not found:
        raise SettingsError("problems names no benchmark with training problems; there is nothing to plan")
    seen = Counter(row.benchmark for row in found)
    whole = sum(totals[name] for name in seen)
    rows = tuple((row, totals[row.benchmark] / seen[row.benchmark] / whole) for row in found)
    return RecipeRows(rows=rows, train=whole, test=count_tested(settings.problems), notes=tuple(dict.fromkeys(notes)))


def count_trained(problems: ProblemSettings) -> dict[str, int]:
    """Training problems by benchmark."""
    found = {
        "vsp-planning": problems.vsp_planning.train if problems.vsp_planning else 0,
        "vsp-reasoning": problems.vsp_reasoning.train if problems.vsp_reasoning else 0,
        "jigsaw": problems.jigsaw.train if problems.jigsaw else 0,
        "sat": problems.sat.train if problems.sat else 0,
        "comt": problems.comt.train if problems.comt else 0,
    }
    if problems.own:
        found["own"] = sum(row.problem.split == "train" for row in own.rows_of(problems.own))
    task = benchmarks.use(problems)
    if problems.task and task:
        found[task.name] = problems.task.train
    return {name: count for name, count in found.items() if count}


def count_tested(problems: ProblemSettings) -> int:
    """Test problems of all benchmarks; of published data that is read as a whole, its published size."""
    made = [data for data in (problems.vsp_planning, problems.vsp_reasoning) if data]
    count = sum(data.test_per_level * len(set(data.test_levels)) for data in made)
    if problems.vsp_folder:
        folder = problems.vsp_folder
        count += len(folder.tasks) * len(folder.levels) * (folder.per_level or _PUBLISHED_TESTS["vsp_folder"])
    for name in PUBLIC_SECTIONS:
        data = getattr(problems, name)
        count += 0 if data is None else data.test or _PUBLISHED_TESTS[name]
    if problems.jigsaw:
        count += problems.jigsaw.test + (150 if problems.jigsaw.blink else 0)
    if problems.sat:
        count += _PUBLISHED_TESTS["sat"] if problems.sat.test is None else 2 * problems.sat.test
    if problems.comt:
        count += _PUBLISHED_TESTS["comt"] if problems.comt.test is None else problems.comt.test
    if problems.own:
        count += sum(row.problem.split == "test" for row in own.rows_of(problems.own))
    return count + (problems.task.test if problems.task else 0)


def _examples(settings: Settings, notes: list[str]) -> Iterator[TrainingExample]:
    """A few examples of every benchmark and level, as the stages would make them, but by the oracle."""
    pairs = list(_problems(settings))
    given = {problem.id: brought for problem, brought in pairs if brought}
    ready = {name: AuxiliaryImage(problem_id=name, image=one.image, style=one.style) for name, one in given.items()}
    ready |= {one.problem_id: one for one in _scenes(settings, [problem for problem, _ in pairs])}
    if settings.teacher.kind != "oracle":
        notes.append(f"the chains of {settings.teacher.model} are not written yet: those of the oracle are counted")
    problems = [problem for problem, _ in pairs]
    pictures = drawn_auxiliary_images(
        problems, settings.auxiliary_images, settings.problems.cell_px, settings.seed, _silent, ready
    )
    for problem, picture in zip(problems, pictures, strict=True):
        chain = _chain(settings, problem, picture, given.get(problem.id), notes)
        yield TrainingExample(problem=problem, auxiliary_image=picture, chain=chain)


def _problems(settings: Settings) -> Iterator[tuple[Problem, Given | None]]:
    """Few training problems of every source."""
    kept: Counter[tuple[str, str]] = Counter()
    for problem, given in sourced_problems(_fewer(settings.problems), settings.seed, _silent):
        key = (problem.benchmark, problem.group)
        most = EACH * (1 if given is None else 4)
        made_here = problem.benchmark in ("vsp-planning", "vsp-reasoning")
        if problem.split == "train" and (made_here or kept[key] < most):
            kept[key] += 1
            yield problem, given


def _fewer(problems: ProblemSettings) -> ProblemSettings:
    """The same sources with a few problems; a level named twice keeps its two shares."""
    changed: dict[str, Any] = dict.fromkeys(("vsp_folder", *PUBLIC_SECTIONS))  # these are only tested on
    for name in ("vsp_planning", "vsp_reasoning"):
        data = getattr(problems, name)
        if data is not None:
            few = min(data.train, EACH * len(data.train_levels))
            changed[name] = data.model_copy(update={"train": few, "validation": 0, "test_per_level": 0})
    for name, more in (("jigsaw", {"blink": None}), ("sat", {}), ("task", {})):
        data = getattr(problems, name)
        if data is not None:
            changed[name] = data.model_copy(update={"train": min(data.train, 8), "validation": 0, "test": 0, **more})
    return problems.model_copy(update=changed)


def _scenes(settings: Settings, problems: Sequence[Problem]) -> Iterator[AuxiliaryImage]:
    """Blank pictures of the size that scenes will have."""
    scenes = settings.auxiliary_images.scenes
    if scenes is not None:
        file = io.BytesIO()
        Image.new("RGB", (scenes.width, scenes.height)).save(file, "PNG")
        for problem in problems:
            if problem.benchmark == "sat":
                yield AuxiliaryImage(problem_id=problem.id, image=file.getvalue(), style="scene")


def _chain(
    settings: Settings, problem: Problem, picture: AuxiliaryImage, given: Given | None, notes: list[str]
) -> ReasoningChain:
    """The oracle's chain; the data set's own; or one of an assumed length."""
    variant = settings.teacher.variant
    try:
        chain = OracleTeacher().chain(problem, picture, variant)
        before, after = chain.text_before, chain.text_after
    except TeacherError:
        notes.append(
            f"nobody here can write a chain of {problem.benchmark}: {UNKNOWN_THOUGHT} letters are assumed on each side "
            "of the picture"
        )
        thought = "word " * (UNKNOWN_THOUGHT // 5)
        before, after = f"<think>{thought}</think>", f"<think>{thought}</think>\\boxed{{{problem.answer}}}"
    if given and given.text_before is not None:
        before, after = given.text_before, given.text_after or after
    return ReasoningChain(problem_id=problem.id, variant=variant, text_before=before, text_after=after, teacher="plan")


def _counting(settings: Settings, notes: list[str]) -> _Counting:
    """Counting by the recipe's processor; by its published rules, and said so, where it cannot be had."""
    try:
        return _Counting(settings, load_processor_of(settings.model))
    except SettingsError:
        notes.append(
            f"the tokenizer of {settings.model.source} is not here: text is counted by its rule of splitting words, "
            "one token a word or so, and pictures by the published limits"
        )
        return _Counting(settings, None)


class _Counting:
    """Counts the tokens of examples."""

    def __init__(self, settings: Settings, processor: Any) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._settings, self._processor = settings, processor
        self._images = processor.image_processor if processor else Qwen2VLImageProcessorPil(**PUBLISHED_IMAGES)
        smallest = dict(self._images.size)["shortest_edge"]
        largest = max(settings.prompt.max_pixels, smallest)
        self._limits = {"min_pixels": smallest, "max_pixels": largest}

    def row(self, example: TrainingExample) -> Row:
        """The row of one example."""
        problem, chain = example.problem, example.chain
        image = sum(self.picture(data) for data in problem.images)
        return Row(
            benchmark=problem.benchmark,
            prompt=self.text(self._chat(problem)) - len(problem.images) + image,
            image=image,
            before=self.text(chain.text_before),
            after=self.text(f"{chain.text_after}<|im_end|>\n"),
            caption=self._caption(example),
            auxiliary=self.picture(example.auxiliary_image.image),
        )

    def text(self, text: str) -> int:
        """Tokens of a text."""
        if self._processor is None:
            return sum(_pieces(word.strip()) for word in _WORD.findall(text))
        return len(self._processor.tokenizer(text, add_special_tokens=False).input_ids)

    def picture(self, data: bytes) -> int:
        """Tokens of a picture, by the processor's rule."""
        picture = open_picture(data, self._settings.prompt.image_scale, "a picture")
        patches = self._images.get_number_of_image_patches(picture.height, picture.width, self._limits)
        return int(patches) // self._images.merge_size**2

    def _caption(self, example: TrainingExample) -> int:
        try:
            return self.text(oracle_caption(example))
        except TeacherError:
            return self.text("word " * (self._settings.captions.longest // 5))

    def _chat(self, problem: Problem) -> str:
        """The rendered chat, one image_pad a picture."""
        prompt, variant = self._settings.prompt, self._settings.teacher.variant
        question = benchmarks.get(problem.benchmark).prompt(problem, prompt.form, variant)
        if self._processor is None:
            shown = question.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
            return f"{_SYSTEM}<|im_start|>user\n{shown}<|im_end|>\n<|im_start|>assistant\n"
        content: list[Mapping[str, str]] = []
        for index, piece in enumerate(question.split("<image>")):
            content += [{"type": "image"}] if index else []
            content += [{"type": "text", "text": piece}] if piece else []
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return rendered


def _pieces(word: str) -> int:
    """Tokens of a word: long ones have more, and letters in a row such as URDDL hardly share any."""
    return max(1, math.ceil(len(word) / (2 if word.isupper() else 10)))


def _silent(event: ProgressEvent) -> None:
    """Progress of a few problems, which nobody needs."""
