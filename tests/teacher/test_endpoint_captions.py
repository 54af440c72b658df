"""CapImagine's three rounds over an endpoint: captions, polish, judge; every loss counted, no answer paid twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mirage_core.config import CaptionSettings, Settings
from mirage_core.llm_client.response_cache import Answer
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.teacher.caption_examples import caption_examples
from mirage_core.teacher.captions import oracle_caption
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.endpoint_captions import Verdict, read_polished, read_verdict
from mirage_core.teacher.examples import write_examples
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.protocol import TeachResult
from mirage_core.types import ReasoningChain, TrainingExample
from tests.llm_client.chat_server import Call, ChatServer, chat_server
from tests.teacher.conftest import Pairs, ignore_progress, teacher_runtime, teacher_settings

LIMITS = CaptionSettings()


@pytest.fixture(scope="module")
def examples(pairs: Pairs) -> list[TrainingExample]:
    """The oracle's CoT chains of twelve problems."""
    problems, images = zip(*pairs, strict=True)
    return write_examples(OracleTeacher(), problems, images, "cot", ignore_progress)


class Captioner:
    """Answers each round: the oracle's caption, the chain as it is, a clean verdict; some problems are special."""

    def __init__(
        self, examples: list[TrainingExample], conflicts: int = -1, unsaid: int = -1, broken: int = -1
    ) -> None:
        self._by_words = {_words_of(example): example for example in examples}
        self._captions = {oracle_caption(example, LIMITS): number for number, example in enumerate(examples)}
        self._number = {example.problem.id: number for number, example in enumerate(examples)}
        self._special = {"conflicts": conflicts, "unsaid": unsaid, "broken": broken}
        self.rounds: Counter[str] = Counter()

    def __call__(self, call: Call) -> None:
        teacher_settings = _first_user(call)
        images = [part for part in teacher_settings if isinstance(part, dict) and part.get("type") == "image_url"]
        if images:
            self.rounds["caption"] += 1
            example = self._by_words[_picture_key(images)]
            unsaid = self._number[example.problem.id] == self._special["unsaid"]
            call.reply("Short." if unsaid else oracle_caption(example, LIMITS))
        elif "conflict:" in teacher_settings:
            self.rounds["judge"] += 1
            bad = self._number_in(teacher_settings) == self._special["conflicts"]
            call.reply(f"conflict: {'yes' if bad else 'no'}\nambiguous: no\nbecause: it says so")
        else:
            self.rounds["polish"] += 1
            broken = self._number_in(teacher_settings) == self._special["broken"]
            call.reply("no form at all" if broken else teacher_settings.split("Write nothing else.")[-1].strip())

    def _number_in(self, text: str) -> int:
        return next((number for caption, number in self._captions.items() if caption in text), -1)


def _first_user(call: Call) -> Any:
    return next(message["content"] for message in call.body["messages"] if message["role"] == "user")


def _picture_key(parts: list[dict[str, Any]]) -> str:
    return parts[-1]["image_url"]["url"]


def _words_of(example: TrainingExample) -> str:
    from mirage_core.llm_client.messages import data_url

    return data_url(example.auxiliary_image.image, example.problem.id)


def settings_for(server: ChatServer, **captions: Any) -> Settings:
    recipe = load("micro")
    runtime = recipe.runtime.model_copy(update={"teacher": teacher_runtime(server.url)})
    teacher = teacher_settings(attempts=2, min_accepted=0.5)
    return recipe.model_copy(update={"teacher": teacher, "runtime": runtime, "captions": CaptionSettings(**captions)})


def result(server: ChatServer, store: Store, examples: list[TrainingExample], **captions: Any) -> TeachResult:
    parts = list(caption_examples(examples, settings_for(server, **captions), store, ignore_progress))
    assert len(parts) == 1
    return parts[0]


def test_three_rounds_give_captioned_chains_in_order(store: Store, examples: list[TrainingExample]) -> None:
    with chat_server(captioner := Captioner(examples)) as server:
        made = result(server, store, examples)

    assert [example.problem.id for example in made.examples] == [example.problem.id for example in examples]
    assert [example.chain.caption for example in made.examples] == [
        oracle_caption(example, LIMITS) for example in examples
    ]
    assert made.rejections == []
    distinct = len({_words_of(example) for example in examples})
    assert captioner.rounds["caption"] >= distinct and set(captioner.rounds) == {"caption", "polish", "judge"}
    assert made.usage["tokens"]["judge answers"] == len(examples)


def test_conflicts_unsaid_captions_and_broken_polish_are_left_out_and_named(
    store: Store, examples: list[TrainingExample]
) -> None:
    with chat_server(Captioner(examples, conflicts=1, unsaid=4, broken=7)) as server:
        made = result(server, store, examples)

    gone = {rejection.problem_id: rejection for rejection in made.rejections}
    names = {number: examples[number].problem.id for number in (1, 4, 7)}
    assert set(gone) == set(names.values())
    assert gone[names[1]].reason == "conflict" and "it says so" in gone[names[1]].faults
    assert gone[names[4]].reason == "length" and gone[names[4]].answer == "Short."
    assert gone[names[7]].reason == "place" and gone[names[7]].attempt == 2
    assert len(made.examples) == len(examples) - 3


def test_a_second_run_pays_for_nothing(store: Store, examples: list[TrainingExample]) -> None:
    with chat_server(Captioner(examples)) as server:
        first = result(server, store, examples)
        paid = len(server.calls)
        second = result(server, store, examples)

        assert len(server.calls) == paid
    assert first == second


def test_rounds_can_be_left_out(store: Store, examples: list[TrainingExample]) -> None:
    with chat_server(captioner := Captioner(examples)) as server:
        made = result(server, store, examples, polish=False, judge=False)

    assert set(captioner.rounds) == {"caption"} and len(made.examples) == len(examples)


def answer(text: str, finish: str = "stop") -> Answer:
    return Answer(
        request="0" * 64, problem="p", template="t", attempt=1, model="m", served="m", text=text, finish=finish
    )  # fmt: skip


def test_a_verdict_is_read_from_its_two_lines() -> None:
    assert read_verdict(answer("Conflict: no\nAMBIGUOUS: yes\nbecause: two ways")) == Verdict(
        False, True, "Conflict: no AMBIGUOUS: yes because: two ways"
    )
    for text in ("it is fine", "conflict: no", "conflict: maybe\nambiguous: no"):
        verdict = read_verdict(answer(text))
        assert isinstance(verdict, list) and verdict[0].reason == "verdict"


def test_a_polished_chain_keeps_its_form() -> None:
    before = ReasoningChain(problem_id="p", variant="cot", text_before="a", text_after="b", teacher="t", caption="c")
    good = read_polished(answer("<think>x\ny</think>\n<imagined>I see.</imagined>\n<think>z</think>\\boxed{A}"), before)

    assert isinstance(good, ReasoningChain)
    assert (good.text_before, good.caption, good.text_after) == (
        "<think>x y</think>",
        "I see.",
        "<think>z</think>\\boxed{A}",
    )
    twice = read_polished(answer("<imagined>a</imagined><imagined>b</imagined>"), before)
    assert twice == [Fault("place", "expected <imagined>...</imagined> exactly once, between the two thoughts")]
    cut = read_polished(answer("<imagined>a", finish="length"), before)
    assert isinstance(cut, list) and cut[0].reason == "cut"
