"""Your own task: what one Python file must define so that the whole pipeline runs on it, and how it is loaded.

The file is the user's own code, named by the user's own recipe (``problems.task.module``), and is executed as such.
docs/your-own-task.md shows one.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

from mirage_core.benchmarks import multiple_choice as choices
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.io.jsonl import decode_image
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import TaskData
from mirage_core.errors import DataError, InputError, MirageError, SettingsError
from mirage_core.recipes.task_file import read_task, task_file
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import picture_bytes

# The imports of a task's file.
__all__ = [
    "OwnTask", "Problem", "Score", "Split", "Task", "boxed", "choices", "load_task", "picture_bytes", "split_of_form",
]  # fmt: skip

RULE = "task"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_FUNCTIONS = {"problems": 4, "auxiliary_image": 2, "score": 2, "prompt": 3, "chain": 1, "caption": 1}
_OPTIONAL = ("prompt", "chain", "caption")


class Task(Protocol):
    """The contents of the file; all functions are deterministic: equal arguments give equal results in any process.

    Optional: ``prompt(problem, form, variant)``, the model's prompt (default: the question and the variant's ending);
    ``chain(problem)``, the two thoughts around the image that the oracle teaches (default: an endpoint, or direct
    chains); ``caption(problem)``, a description of the image (CapImagine).
    """

    NAME: str
    """The name of the benchmark: lower-case letters, digits and hyphens."""
    GROUPS: tuple[str, ...]
    """The groups by which accuracy is broken down; each problem's ``group`` is one of them."""

    def problems(self, split: Split, count: int, seed: int, options: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield at least ``count`` problems of a split (more are not consumed), with ids that no other split has."""
        ...

    def auxiliary_image(self, problem: Problem, seed: int) -> bytes | Sequence[bytes]:
        """The image to imagine, as PNG or JPEG; or several in their order, a film (auxiliary_images.film)."""
        ...

    def score(self, problem: Problem, output: str) -> Score:
        """The verdict on one output; ``parsed`` is None if no answer can be read."""
        ...


@dataclass(frozen=True, slots=True)
class OwnTask:
    """A loaded task, with the results of its functions checked; DataError names the function and what it returned."""

    name: str
    groups: tuple[str, ...]
    file: Path
    sha256: str
    source: bytes
    functions: Mapping[str, Callable[..., Any]]

    @property
    def rules(self) -> tuple[str, ...]:
        """Its own rule is the only one."""
        return (RULE,)

    def load(self, file: Path, split: Split = "test") -> list[Problem]:  # noqa: ARG002 (a benchmark's load)
        """Raise InputError: a task generates its problems."""
        raise InputError(f"{self.name} generates its own problems and reads no file {file}: leave out --data")

    def problems(self, split: Split, count: int, seed: int, options: Mapping[str, Any]) -> Iterator[Any]:
        """Yield what the task yields, unchecked (``task_problems`` checks it)."""
        problems = self._call("problems", split, count, seed, MappingProxyType(dict(options)))
        try:
            yield from problems
        except Exception as error:
            raise self._failure("problems", error) from error

    def auxiliary_image(self, problem: Problem, seed: int) -> tuple[bytes, ...]:
        """The image to imagine, or all images of a film in their order; DataError if one of them is no image."""
        result = self._call("auxiliary_image", problem, seed)
        images = (result,) if isinstance(result, bytes) else result
        if not isinstance(images, list | tuple) or not images or not all(isinstance(image, bytes) for image in images):
            raise self._wrong_result(
                "auxiliary_image", problem, result, "the bytes of a PNG or JPEG, picture_bytes(...), or a list of them"
            )
        for image in images:
            decode_image(image, f"{self.name}: auxiliary_image of problem {problem.id}")
        return tuple(images)

    def score(self, problem: Problem, output: str, rule: str = RULE) -> Score:  # noqa: ARG002 (it has one rule)
        """The task's verdict; DataError if it is not a Score of this problem."""
        score = self._call("score", problem, output)
        if not isinstance(score, Score) or score.problem_id != problem.id or not isinstance(score.correct, bool):
            raise self._wrong_result("score", problem, score, f"a Score of {problem.id!r}, correct True or False")
        return score

    def prompt(self, problem: Problem, form: PromptForm, variant: Variant) -> str:
        """The task's own prompt if it has one, else the question with the variant's ending (or ``Answer:``)."""
        if "prompt" not in self.functions:
            return choices.prompt(problem, form, variant)
        prompt = self._call("prompt", problem, form, variant)
        if not isinstance(prompt, str) or prompt.count("<image>") != len(problem.images):
            raise self._wrong_result("prompt", problem, prompt, f"text with <image> {len(problem.images)} times")
        return prompt

    def chain(self, problem: Problem) -> tuple[str, str] | None:
        """The thoughts before and after the image, None if the task has no ``chain``."""
        if "chain" not in self.functions:
            return None
        texts = self._call("chain", problem)
        if not isinstance(texts, tuple) or len(texts) != 2 or not all(map(_is_thought, texts)):
            raise self._wrong_result("chain", problem, texts, "two thoughts in plain words, without think tags and box")
        return texts

    def caption(self, problem: Problem) -> str | None:
        """The description of the image, None if the task has no ``caption``."""
        if "caption" not in self.functions:
            return None
        caption = self._call("caption", problem)
        if not isinstance(caption, str) or not _is_thought(caption):
            raise self._wrong_result("caption", problem, caption, "plain words")
        return caption

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return self.functions[function](*arguments)
        except MirageError:
            raise
        except Exception as error:
            problem = next((each.id for each in arguments if isinstance(each, Problem)), None)
            raise self._failure(function, error, problem) from error

    def _failure(self, function: str, error: Exception, problem: str | None = None) -> MirageError:
        if isinstance(error, MirageError):
            return error
        of_problem = "" if problem is None else f" on problem {problem}"
        return DataError(
            f"{self.name}: {function}() failed{of_problem}{_line_of(error, self.file)}: {type(error).__name__}: {error}"
            + (f". No answer was judged; correct {function}() in {self.file}" if function == "score" else "")
        )

    def _wrong_result(self, function: str, problem: Problem, result: object, expected: str) -> DataError:
        return DataError(
            f"{self.name}: {function}() of problem {problem.id} returned {result!r:.80}, expected {expected}"
        )


def load_task(data: TaskData, taken: Collection[str]) -> OwnTask:
    """Execute a task's file and check that it defines a task of a new name; SettingsError lists what is missing."""
    source, digest = read_task(data)
    file = task_file(data.module)
    module = _execute(source, digest, file, data.module)
    faults = list(_faults(module, taken))
    if faults:
        raise SettingsError(f"{file} is not a task: " + "; ".join(faults) + ". See docs/your-own-task.md")
    functions = {name: getattr(module, name) for name in _FUNCTIONS if hasattr(module, name)}
    return OwnTask(module.NAME, tuple(module.GROUPS), file, digest, source, functions)


def _execute(source: bytes, digest: str, file: Path, name: str) -> ModuleType:
    """Execute the bytes whose digest was taken; nothing is written beside the file."""
    module = ModuleType(f"mirage_task_{digest[:16]}")
    module.__file__ = str(file)
    module.__package__ = "" if name.endswith(".py") else name.rpartition(".")[0]
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # noqa: S102 (the user's own code, by their recipe)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise SettingsError(
            f"{file} cannot be run{_line_of(error, file)}: {type(error).__name__}: {error}; correct it"
        ) from error
    return module


def _faults(module: ModuleType, taken: Collection[str]) -> Iterator[str]:
    """Yield everything that is wrong with the module."""
    name, groups = getattr(module, "NAME", None), getattr(module, "GROUPS", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"NAME is {name!r}, expected a text of lower-case letters, digits and hyphens, such as 'turning'"
    elif name in taken:
        yield f"NAME is {name!r}, which is a benchmark of this project: choose another"
    if not isinstance(groups, tuple | list) or not groups or not all(map(_is_group, groups)):
        yield f"GROUPS is {groups!r:.80}, expected a tuple of texts other than 'all', such as ('easy', 'hard')"
    elif len(set(groups)) < len(groups):
        yield f"GROUPS {groups!r:.80} has duplicates"
    for function, count in _FUNCTIONS.items():
        value = getattr(module, function, None)
        if value is not None or function not in _OPTIONAL:
            yield from _function_faults(module, function, value, count)


def _function_faults(module: ModuleType, function: str, value: object, count: int) -> Iterator[str]:
    signature = (
        f"{function}({', '.join(list(inspect.signature(getattr(OwnTask, function)).parameters)[1 : count + 1])})"
    )
    if value is None:
        near = difflib.get_close_matches(function, [name for name in vars(module) if not name.startswith("_")], n=1)
        yield f"it has no {signature}" + (f"; did you mean to call {near[0]} so?" if near else "")
    elif not callable(value):
        yield f"{function} is {type(value).__name__}, expected the function {signature}"
    else:
        try:
            inspect.signature(value).bind(*range(count))
        except TypeError as error:
            yield f"{function} cannot be called as {signature}: {error}"


def _is_group(group: object) -> bool:
    return isinstance(group, str) and bool(group.strip()) and group != "all"


def _is_thought(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and "<think>" not in text and "\\boxed" not in text


def _line_of(error: BaseException, file: Path) -> str:
    """The line of the user's file that raised an error."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" ({file.name}, line {lines[-1]})" if lines else ""
