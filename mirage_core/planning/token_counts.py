"""Token counts of a recipe's examples: a few of every benchmark and level are generated and counted.

Images are counted by the processor's rule, text by the tokenizer.
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
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.config import PUBLIC_SECTIONS, ProblemSettings, Settings
from mirage_core.errors import DataError, SettingsError, TeacherError
from mirage_core.latent.images import image_size, patch_grid
from mirage_core.latent.reasoning_steps import reasoning_steps
from mirage_core.latent.regions import region_lengths
from mirage_core.model.loading import load_base_processor
from mirage_core.model.processing import PUBLISHED_IMAGES
from mirage_core.synthesis.draw import iter_auxiliary_images
from mirage_core.teacher.captions import oracle_caption
from mirage_core.teacher.examples import own_chain
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.types import AuxiliaryImage, Problem, ProgressEvent, ProvidedImage, ReasoningChain, TrainingExample

EXAMPLES_PER_GROUP = 2
"""Examples that are generated for every benchmark and level."""
ASSUMED_LETTERS = 600
"""Letters on each side of the image where only the teacher could write a chain."""
_GENERATED = ("vsp_planning", "vsp_reasoning", "mental_rotation", "paper_folding")
"""The sections whose problems are generated level by level."""
_PUBLISHED_TEST_SIZES = {
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
"""Test questions of published data; of the VSP repository for one level and task."""
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_WORD = re.compile(r"<\|\w+\|>|'(?:[sdmt]|ll|ve|re)|[^\r\n\w]?[A-Za-z]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Tokens of one example: the prompt (``image``: those of its images), the text before and after the imagined image
    (end of turn and newline included), its caption and the reasoning steps in it, the merged patches of the auxiliary
    image, the frames of its film (1: the one image), and what LVR's spans hold: the tokens of the regions, the borders
    of further spans and the places of stop vectors among them; those of cut regions are ``crops``, too (0: none).
    ``spans``: the auxiliary images of a chain."""

    benchmark: str
    prompt: int
    image: int
    before: int
    after: int
    caption: int
    auxiliary: int
    frames: int = 1
    steps: int = 1
    regions: int = 0
    crops: int = 0
    spans: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRows:
    """Sampled rows with weights that sum to 1, the numbers of training and test examples, and ``notes`` on what was
    assumed."""

    rows: tuple[tuple[Row, float], ...]
    train: int
    test: int
    notes: tuple[str, ...]

    def mean(self, name: str) -> float:
        """Return the weighted mean of a field of the rows."""
        return sum(getattr(row, name) * weight for row, weight in self.rows)

    def max(self, name: str) -> int:
        """Return the maximum of a field of the rows."""
        return max(getattr(row, name) for row, _ in self.rows)


def recipe_rows(settings: Settings) -> RecipeRows:
    """Return the rows of a recipe; ``notes`` list what is assumed without its tokenizer or its teacher.

    Raises what generating problems and images raises (DataError, InputError), SettingsError without a benchmark.
    """
    benchmarks.use(settings.problems)
    totals = count_training_problems(settings.problems)
    notes: list[str] = []
    counter = _token_counter(settings, notes)
    sampled = [counter.row(example) for example in _examples(settings, notes)]
    if not sampled:
        raise SettingsError("problems names no benchmark with training problems; there is nothing to plan")
    counts = Counter(row.benchmark for row in sampled)
    total = sum(totals[name] for name in counts)
    rows = tuple((row, totals[row.benchmark] / counts[row.benchmark] / total) for row in sampled)
    return RecipeRows(
        rows=rows, train=total, test=count_test_problems(settings.problems), notes=tuple(dict.fromkeys(notes))
    )


def count_training_problems(problems: ProblemSettings) -> dict[str, int]:
    """Return the number of training problems by benchmark."""
    counts = {
        "vsp-planning": problems.vsp_planning.train if problems.vsp_planning else 0,
        "vsp-reasoning": problems.vsp_reasoning.train if problems.vsp_reasoning else 0,
        "mental-rotation": problems.mental_rotation.train if problems.mental_rotation else 0,
        "paper-folding": problems.paper_folding.train if problems.paper_folding else 0,
        "jigsaw": problems.jigsaw.train if problems.jigsaw else 0,
        "sat": problems.sat.train if problems.sat else 0,
        "comt": problems.comt.train if problems.comt else 0,
    }
    if problems.own:
        counts["own"] = sum(row.problem.split == "train" for row in jsonl_data.rows_of(problems.own))
    task = benchmarks.use(problems)
    if problems.task and task:
        counts[task.name] = problems.task.train
    return {name: count for name, count in counts.items() if count}


def count_test_problems(problems: ProblemSettings) -> int:
    """Return the number of test problems of all benchmarks; the published size for data that is read completely."""
    generated = [getattr(problems, name) for name in _GENERATED]
    count = sum(data.test_per_level * len(set(data.test_levels)) for data in generated if data)
    if problems.vsp_folder:
        folder = problems.vsp_folder
        count += len(folder.tasks) * len(folder.levels) * (folder.per_level or _PUBLISHED_TEST_SIZES["vsp_folder"])
    for name in PUBLIC_SECTIONS:
        data = getattr(problems, name)
        count += 0 if data is None else data.test or _PUBLISHED_TEST_SIZES[name]
    if problems.jigsaw:
        count += problems.jigsaw.test + (150 if problems.jigsaw.blink else 0)
    if problems.sat:
        count += _PUBLISHED_TEST_SIZES["sat"] if problems.sat.test is None else 2 * problems.sat.test
    if problems.comt:
        count += _PUBLISHED_TEST_SIZES["comt"] if problems.comt.test is None else problems.comt.test
    if problems.own:
        count += sum(row.problem.split == "test" for row in jsonl_data.rows_of(problems.own))
    return count + (problems.task.test if problems.task else 0)


def _examples(settings: Settings, notes: list[str]) -> Iterator[TrainingExample]:
    """Yield a few examples of every benchmark and level, as the stages make them, with chains of the oracle."""
    pairs = list(_problems(settings))
    provided = {problem.id: image for problem, image in pairs if image}
    known = {
        name: AuxiliaryImage(
            problem_id=name,
            image=data.image,
            style=data.style,
            frames=data.frames if settings.keeps_frames else (),
        )
        for name, data in provided.items()
    }
    known |= {scene.problem_id: scene for scene in _scenes(settings, [problem for problem, _ in pairs])}
    if settings.teacher.kind != "oracle":
        notes.append(f"the chains of {settings.teacher.model} do not exist yet: those of the oracle are counted")
    problems = [problem for problem, _ in pairs]
    images = iter_auxiliary_images(
        problems, settings.auxiliary_images, settings.problems.cell_px, settings.seed, _ignore, known
    )
    for problem, image in zip(problems, images, strict=True):
        chain = _chain(settings, problem, image, provided.get(problem.id), notes)
        yield TrainingExample(problem=problem, auxiliary_image=image, chain=chain)


def _problems(settings: Settings) -> Iterator[tuple[Problem, ProvidedImage | None]]:
    """Yield a few training problems of every source."""
    counts: Counter[tuple[str, str]] = Counter()
    for problem, provided in sourced_problems(_sample_settings(settings.problems), settings.seed, _ignore):
        key = (problem.benchmark, problem.group)
        limit = EXAMPLES_PER_GROUP * (1 if provided is None else 4)
        generated = problem.benchmark.replace("-", "_") in _GENERATED
        if problem.split == "train" and (generated or counts[key] < limit):
            counts[key] += 1
            yield problem, provided


def _sample_settings(problems: ProblemSettings) -> ProblemSettings:
    """Return the same sources with few problems; a level that is listed twice keeps its double share."""
    changed: dict[str, Any] = dict.fromkeys(("vsp_folder", *PUBLIC_SECTIONS))  # only for tests
    for name in _GENERATED:
        data = getattr(problems, name)
        if data is not None:
            few = min(data.train, EXAMPLES_PER_GROUP * len(data.train_levels))
            changed[name] = data.model_copy(update={"train": few, "validation": 0, "test_per_level": 0})
    for name, more in (("jigsaw", {"blink": None}), ("sat", {}), ("task", {})):
        data = getattr(problems, name)
        if data is not None:
            changed[name] = data.model_copy(update={"train": min(data.train, 8), "validation": 0, "test": 0, **more})
    return problems.model_copy(update=changed)


def _scenes(settings: Settings, problems: Sequence[Problem]) -> Iterator[AuxiliaryImage]:
    """Yield blank images of the size of the scenes."""
    scenes = settings.auxiliary_images.scenes
    if scenes is not None:
        file = io.BytesIO()
        Image.new("RGB", (scenes.width, scenes.height)).save(file, "PNG")
        for problem in problems:
            if problem.benchmark == "sat":
                yield AuxiliaryImage(problem_id=problem.id, image=file.getvalue(), style="scene")


def _chain(
    settings: Settings, problem: Problem, image: AuxiliaryImage, provided: ProvidedImage | None, notes: list[str]
) -> ReasoningChain:
    """Return the oracle's chain, the data set's own, or one of an assumed length."""
    variant = settings.teacher.variant
    own = own_chain(provided, variant) if provided else None
    if own is not None:
        return own
    try:
        chain = OracleTeacher().chain(problem, image, variant)
        before, after = chain.text_before, chain.text_after
    except TeacherError:
        notes.append(
            f"the oracle cannot write a chain of {problem.benchmark}: {ASSUMED_LETTERS} letters are assumed on each "
            "side of the image"
        )
        thought = "word " * (ASSUMED_LETTERS // 5)
        before, after = f"<think>{thought}</think>", f"<think>{thought}</think>\\boxed{{{problem.answer}}}"
    return ReasoningChain(problem_id=problem.id, variant=variant, text_before=before, text_after=after, teacher="plan")


def _token_counter(settings: Settings, notes: list[str]) -> TokenCounter:
    """Return a counter with the recipe's processor; without it, one with its published rules, and add a note."""
    try:
        return TokenCounter(settings, load_base_processor(settings.model))
    except SettingsError:
        notes.append(
            f"the tokenizer of {settings.model.source} is not here: text is counted by its rule of splitting words, "
            "about one token a word, and images by the published limits"
        )
        return TokenCounter(settings, None)


class TokenCounter:
    """Counts the tokens of examples."""

    def __init__(self, settings: Settings, processor: Any) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._settings, self._processor = settings, processor
        self._images = processor.image_processor if processor else Qwen2VLImageProcessorPil(**PUBLISHED_IMAGES)
        smallest = dict(self._images.size)["shortest_edge"]
        largest = max(settings.prompt.max_pixels, smallest)
        self._limits = {"min_pixels": smallest, "max_pixels": largest}

    def row(self, example: TrainingExample) -> Row:
        """Return the row of one example."""
        problem, chain = example.problem, example.chain
        image, caption = sum(self.image(data) for data in problem.images), self._caption(example)
        images = example.auxiliary_image.frames if chain.marked else (example.auxiliary_image.image,)
        return Row(
            benchmark=problem.benchmark,
            prompt=self.text(self._chat(problem)) - len(problem.images) + image,
            image=image,
            before=self.text(chain.text_before),
            after=self.text(f"{chain.text_after}<|im_end|>\n"),
            caption=self.text(caption),
            auxiliary=sum(map(self.image, images)),
            frames=max(1, len(example.auxiliary_image.frames)),
            steps=len(reasoning_steps(caption, self._settings.captions.of)),
            spans=len(images),
            **self._regions(problem),
        )

    def _regions(self, problem: Problem) -> dict[str, int]:
        """Count what LVR's spans hold of a problem; nothing where it has no region."""
        lvr = self._settings.lvr
        try:
            lengths = region_lengths(problem, self._grid, crop=lvr.region == "crop")
        except DataError:
            return {}
        borders = 2 * (len(lengths) - 1) + (len(lengths) if lvr.stop == "vector" else 0)
        return {"regions": sum(lengths) + borders, "crops": sum(lengths) if lvr.region == "crop" else 0}

    def text(self, text: str) -> int:
        """Count the tokens of a text."""
        if self._processor is None:
            return sum(_tokens_of_word(word.strip()) for word in _WORD.findall(text))
        return len(self._processor.tokenizer(text, add_special_tokens=False).input_ids)

    def image(self, data: bytes) -> int:
        """Count the tokens of an image, by the processor's rule."""
        rows, columns = self._grid(data)
        return rows * columns

    def _grid(self, data: bytes) -> tuple[int, int]:
        """Rows and columns of the tokens of an image."""
        size = image_size(data, self._settings.prompt.image_scale, "an image")
        rows, columns = patch_grid(self._images, size, self._limits)
        return rows // self._images.merge_size, columns // self._images.merge_size

    def _caption(self, example: TrainingExample) -> str:
        if example.chain.marked:
            return example.chain.words
        try:
            return oracle_caption(example, self._settings.captions)
        except TeacherError:
            return "word " * (self._settings.captions.longest // 5)

    def _chat(self, problem: Problem) -> str:
        """Render the chat, with one image_pad for each image."""
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


def _tokens_of_word(word: str) -> int:
    """Estimate the tokens of a word: long words have more, and moves such as URDDL about one for two letters."""
    return max(1, math.ceil(len(word) / (2 if word.isupper() else 10)))


def _ignore(event: ProgressEvent) -> None:
    """Ignore the progress of a few problems."""
