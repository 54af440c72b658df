"""A chat endpoint's response function that writes the oracle's chains."""

from __future__ import annotations

from mirage_core.store.digests import canonical_json
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.teacher.prompt_templates import load_prompt
from mirage_core.teacher.prompts import first_messages
from mirage_core.types import AuxiliaryImage, Problem
from tests.llm_client.chat_server import Call


class GoodTeacher:
    """Answers as the oracle would, for known problems, identified by the first user message."""

    def __init__(self, pairs: list[tuple[Problem, AuxiliaryImage]]) -> None:
        oracle = OracleTeacher()
        self.texts = {}
        self.problems = {}
        for problem, image in pairs:
            prompt = load_prompt("mirage", "cot", problem.benchmark)
            question = canonical_json(first_messages(prompt, problem, image, "cot")[1])
            chain = oracle.chain(problem, image, "cot")
            self.texts[question] = f"{chain.text_before}\n<output_image>\n{chain.text_after}"
            self.problems[question] = problem

    def problem(self, call: Call) -> Problem:
        """The problem that a request is about."""
        return self.problems[canonical_json(call.body["messages"][1])]

    def text(self, call: Call) -> str:
        """The oracle's chain in the expected format."""
        return self.texts[canonical_json(call.body["messages"][1])]

    def __call__(self, call: Call) -> None:
        call.reply(self.text(call))
