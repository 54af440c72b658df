"""A task of your own: what one Python file has to hold so that the whole road runs on it, and how it is loaded.

The file is the user's own code, named by the user's own recipe (``problems.task.module``), and is run as such.
docs/your-own-task.md shows one.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

from mirage_core.benchmarks import multiple_choice as choices
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.io.jsonl import decode_picture
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import TaskData
from mirage_core.errors import DataError, InputError, MirageError, SettingsError
from mirage_core.recipes.task_file import read_task, task_file
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import picture_bytes

# What a task's file needs beside its own world.
__all__ = [
    "OwnTask", "Problem", "Score", "Split", "Task", "boxed", "choices", "load_task", "picture_bytes", "split_of_form",
]  # fmt: skip

RULE = "task"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_FUNCTIONS = {"problems": 4, "auxiliary_image": 2, "score": 2, "prompt": 3, "chain": 1, "caption": 1}
_OPTIONAL = ("prompt", "chain", "caption")


class Task(Protocol):
    """What the file holds; everything is deterministic: the same arguments give the same result in any process.

    It may also have ``prompt(problem, form, variant)``, what a model is asked (without: the question and the variant's
    ending); ``chain(problem)``, the two thoughts round the picture that the oracle teaches (without: an endpoint, or
    direct chains); ``caption(problem)``, what the picture shows in words (CapImagine).
    """

    NAME: str
    """What the benchmark is called everywhere: small letters, digits and hyphens."""
    GROUPS: tuple[str, ...]
    """What accuracy is broken down by: each problem's ``group`` is one of them."""

    def problems(self, split: Split, count: int, seed: int, options: Mapping[str, Any]) -> Iterator[Problem]:
        """At least ``count`` problems of a split (more are not asked for), with ids that no other split has."""
        ...

    def auxiliary_image(self, problem: Problem, seed: int) -> bytes:
        """The picture to imagine, as PNG or JPEG."""
        ...

    def score(self, problem: Problem, output: str) -> Score:
        """The verdict on one output; ``parsed`` None where no answer can be read."""
        ...


@dataclass(frozen=True, slots=True)
class OwnTask:
    """A loaded task: its functions with their results checked; DataError says which of them gave what."""

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
        """Refuse: a task makes its problems."""
        raise InputError(f"{self.name} makes its own problems and reads no file {file}: leave out --data")

    def problems(self, split: Split, count: int, seed: int, options: Mapping[str, Any]) -> Iterator[Any]:
        """What the task yields, as it comes (benchmarks/task_problems.py checks it)."""
        made = self._called("problems", split, count, seed, MappingProxyType(dict(options)))
        try:
            yield from made
        except Exception as error:
            raise self._failed("problems", error) from error

    def auxiliary_image(self, problem: Problem, seed: int) -> bytes:
        """The picture to imagine; DataError when it is none."""
        picture = self._called("auxiliary_image", problem, seed)
        if not isinstance(picture, bytes):
            raise self._got("auxiliary_image", problem, picture, "the bytes of a PNG or JPEG: picture_bytes(...)")
        decode_picture(picture, f"{self.name}: auxiliary_image of problem {problem.id}")
        return picture

    def score(self, problem: Problem, output: str, rule: str = RULE) -> Score:  # noqa: ARG002 (it has one rule)
        """The task's verdict; DataError when that is no Score of this problem."""
        score = self._called("score", problem, output)
        if not isinstance(score, Score) or score.problem_id != problem.id or not isinstance(score.correct, bool):
            raise self._got("score", problem, score, f"a Score of {problem.id!r}, correct True or False")
        return score

    def prompt(self, problem: Problem, form: PromptForm, variant: Variant) -> str:
        """The task's own prompt where it has one, else the question with the variant's ending (or ``Answer:``)."""
        if "prompt" not in self.functions:
            return choices.prompt(problem, form, variant)
        asked = self._called("prompt", problem, form, variant)
        if not isinstance(asked, str) or asked.count("<image>") != len(problem.images):
            raise self._got("prompt", problem, asked, f"text with <image> {len(problem.images)} times, one a picture")
        return asked

    def chain(self, problem: Problem) -> tuple[str, str] | None:
        """The thoughts before and after the picture, None where the task has no ``chain``."""
        if "chain" not in self.functions:
            return None
        texts = self._called("chain", problem)
        if not isinstance(texts, tuple) or len(texts) != 2 or not all(map(_is_thought, texts)):
            raise self._got("chain", problem, texts, "two thoughts in plain words, without think tags and box")
        return texts

    def caption(self, problem: Problem) -> str | None:
        """What the picture shows in words, None where the task has no ``caption``."""
        if "caption" not in self.functions:
            return None
        caption = self._called("caption", problem)
        if not isinstance(caption, str) or not _is_thought(caption):
            raise self._got("caption", problem, caption, "plain words")
        return caption

    def _called(self, function: str, *arguments: Any) -> Any:
        try:
            return self.functions[function](*arguments)
        except MirageError:
            raise
        except Exception as error:
            raise self._failed(function, error) from error

    def _failed(self, function: str, problem: Exception) -> MirageError:
        if isinstance(problem, MirageError):
            return problem
        return DataError(f"{self.name}: {function}() failed{_where(problem, self.file)}: {_said(problem)}")

    def _got(self, function: str, problem: Problem, got: object, expected: str) -> DataError:
        return DataError(f"{self.name}: {function}() of problem {problem.id} gave {got!r:.80}, expected {expected}")


def load_task(data: TaskData, taken: Collection[str]) -> OwnTask:
    """Run a task's file and check that it holds a task, its name not ``taken``; SettingsError says what it lacks."""
    source, digest = read_task(data)
    file = task_file(data.module)
    module = _executed(source, digest, file, data.module)
    faults = list(_faults(module, taken))
    if faults:
        raise SettingsError(f"{file} is no task: " + "; ".join(faults) + ". See docs/your-own-task.md")
    functions = {name: getattr(module, name) for name in _FUNCTIONS if hasattr(module, name)}
    return OwnTask(module.NAME, tuple(module.GROUPS), file, digest, source, functions)


def _executed(source: bytes, digest: str, file: Path, named: str) -> ModuleType:
    """Run the very bytes that were digested; nothing is written beside the file."""
    module = ModuleType(f"mirage_task_{digest[:16]}")
    module.__file__ = str(file)
    module.__package__ = "" if named.endswith(".py") else named.rpartition(".")[0]
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # noqa: S102 (the user's own code, by their recipe)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise SettingsError(f"{file} cannot be run{_where(error, file)}: {_said(error)}; mend it") from error
    return module


def _faults(module: ModuleType, taken: Collection[str]) -> Iterator[str]:
    """Everything that the module lacks."""
    name, groups = getattr(module, "NAME", None), getattr(module, "GROUPS", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"NAME is {name!r}, expected a text of small letters, digits and hyphens, such as 'turning'"
    elif name in taken:
        yield f"NAME is {name!r}, which is a benchmark of this project: choose another"
    if not isinstance(groups, tuple | list) or not groups or not all(map(_is_group, groups)):
        yield f"GROUPS is {groups!r:.80}, expected a tuple of texts other than 'all', such as ('easy', 'hard')"
    elif len(set(groups)) < len(groups):
        yield f"GROUPS {groups!r:.80} names one twice"
    for function, count in _FUNCTIONS.items():
        found = getattr(module, function, None)
        if found is not None or function not in _OPTIONAL:
            yield from _function_faults(module, function, found, count)


def _function_faults(module: ModuleType, function: str, found: object, count: int) -> Iterator[str]:
    wanted = f"{function}({', '.join(list(inspect.signature(getattr(OwnTask, function)).parameters)[1 : count + 1])})"
    if found is None:
        near = difflib.get_close_matches(function, [name for name in vars(module) if not name.startswith("_")], n=1)
        yield f"it has no {wanted}" + (f"; did you mean to call {near[0]} so?" if near else "")
    elif not callable(found):
        yield f"{function} is {type(found).__name__}, expected the function {wanted}"
    else:
        try:
            inspect.signature(found).bind(*range(count))
        except TypeError as error:
            yield f"{function} cannot be called as {wanted}: {error}"


def _is_group(group: object) -> bool:
    return isinstance(group, str) and bool(group.strip()) and group != "all"


def _is_thought(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and "<think>" not in text and "\\boxed" not in text


def _where(problem: BaseException, file: Path) -> str:
    """The line of the user's file that an error came from."""
    if isinstance(problem, SyntaxError):
        return f" (line {problem.lineno})"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(file)]
    return f" ({file.name}, line {lines[-1]})" if lines else ""


def _said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"
