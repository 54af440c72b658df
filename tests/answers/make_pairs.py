"""Write official_pairs.jsonl.gz: outputs, and what the authors' own functions say of them.

The authors' functions are not part of this repository. Put their text into a module that has vstar(output),
hr(output, options), blink(output, options), comt(output, options), mme(output), sat(output, question, right),
mirage(output, map), vsp(output, map), t1 to t4(output, right), and give its path:

    python -m tests.answers.make_pairs reference.py

The inputs are drawn here, with a fixed seed; README.md names the functions' sources.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).parent / "official_pairs.jsonl.gz"
EACH = 360
OPTIONS = (
    {"A": "rubber", "B": "cotton", "C": "kevlar", "D": "leather"},
    {"A": "left", "B": "right"},
    {"A": "3", "B": "30", "C": "13", "D": "4"},
    {"A": "A white car", "B": "Blue", "C": "Red and blue", "D": "B 12"},
    {"A": "The second image", "B": "The third image"},
    {"A": "7 m", "B": "17 m", "C": "27 m", "D": "The image does not feature it."},
)
OPENINGS = (
    "",
    "",
    "",
    "Answer: ",
    "The answer is ",
    "The correct answer is ",
    "the answer is: ",
    "ANSWER: ",
    "Best answer: ",
    "Best option: ",
    "The best option is ",
    "[Answer] ANSWER: ",
    "Option ",
    "I think ",
    "<think>maybe (A)</think>",
    "It is ",
    "Let me look.\n\n",
    "Let me look.\n",
    "(A) is wrong.\n\n",
    "Both (A) and (B).\n\n",
    "**",
    "\\boxed{",
    "Choice is\n",
    "Failed to obtain answer via API ",
    "Cannot determine the answer. ",
    "CHOICE : ",
    "Z ",
    "A cat. ",
)
ENDINGS = (
    "",
    "",
    "",
    ".",
    ")",
    "}",
    "\n",
    ", because it looks so",
    "\n\nReasoning: it shines.",
    " (B)",
    "</s>",
    "**",
    "!",
    " or B",
)
FORMS: tuple[Callable[[str, str], str], ...] = (
    lambda letter, text: letter,
    lambda letter, text: f"({letter})",
    lambda letter, text: letter.lower(),
    lambda letter, text: f"({letter.lower()})",
    lambda letter, text: f"{letter}. {text}",
    lambda letter, text: f"({letter}) {text}",
    lambda letter, text: text,
    lambda letter, text: text.upper(),
    lambda letter, text: f"[{letter}]",
    lambda letter, text: f'"{letter}"',
    lambda letter, text: "none of them",
    lambda letter, text: "",
)
SOLUTIONS = {
    ("SFF", "FHF", "FFG"): "DDRR",
    ("SFFF", "HFHF", "FFFH", "HFFG"): "RDDDRR",
    ("FSHF", "FFFF", "HFGF", "FFFF"): "DDR",
}
"""Maps (S start, G goal, H hole, F free), each with a plan that works."""
SAT_QUESTIONS = (
    "How did the camera likely rotate?",
    "Is the camera moving left or right?",
    "Which object is closer to the camera, the sofa or the lamp?",
    "Considering the relative positions of the chair and the table, where is the chair?",
)
SAT_ANSWERS = (
    "left",
    "right",
    "Left",
    "Left.",
    "the sofa is closer",
    "sofa",
    "lamp is closer to it",
    "lamps are closer",
    "moving left",
    "it is moving clockwise",
    "moving counter-clockwise",
    "the camera is moving",
    "is located to the right",
    "is located left",
    "the chair is located on the left",
    "answer: left",
    "1. right",
    "right (highlighted by a red box)",
    "sofa (marked by a dot)",
    "ight",
    "night stand",
    "ight stand",
    "###Assistant: left ### x",
    "###Human: right",
    "###",
    "yes",
    "no",
    "Yes",
    "answer:left",
    "A",
    "(A) left",
    "did not move",
    "rotated (left)",
    "is located",
    "",
)
PLACES = ("Above", "Below", "Left", "Right")


def choice_outputs(draw: random.Random, options: dict[str, str]) -> str:
    letter = draw.choice(list(options))
    return draw.choice(OPENINGS) + draw.choice(FORMS)(letter, options[letter]) + draw.choice(ENDINGS)


def plan_outputs(draw: random.Random, solution: str) -> str:
    drawn = [draw.choice("UDLRDDRR") for _ in range(draw.choice((2, 4, 6, 8, 120)))]
    plan = draw.choice((drawn, [*solution], [*solution], [*solution, *drawn], ["U", *solution]))
    words = {"U": "Up", "D": "Down", "L": "Left", "R": "Right"}
    body = draw.choice((",", ", ", "", " ", ",\n", '","')).join(plan)
    body = draw.choice(
        (body, body, body, body.lower(), ", ".join(words[move] for move in plan), body + ".", f"'{body}'")
    )
    opening = draw.choice(
        (
            "\\boxed{",
            "\\boxed{",
            "Action plan: ",
            "Action plan: ",
            "Action Plan: ",
            "Action plan:",
            "ACTION PLAN: ",
            "",
            "twelve chars",
        )
    )
    if draw.random() < 0.5:
        return draw.choice(
            (f"\\boxed{{{body}}}", f"So: \\boxed{{{body}}}.", f"Action plan: {body}", f"I see.\nAction plan: {body}\n")
        )
    ending = draw.choice(("", "", "}", "}", "\nDone.", "} so \\boxed{", "\nAction plan: U", "X", ","))
    return draw.choice(("", "", "Action plan: D\n", "\\boxed{R} ", "I see. ")) + opening + body + ending


def question_outputs(draw: random.Random, task: int) -> tuple[str, str]:
    """An output and the right answer of one of VSP's tasks 1 to 4."""
    mark = draw.choice(
        (
            "<Output> ",
            "<Output>\n",
            "<Output>",
            "**Output** ",
            "Output: ",
            "<Answer> ",
            "**Answer:** ",
            "Answer ",
            "x" * 7,
            "",
        )
    )
    if task == 2:
        body = ", ".join(draw.sample(PLACES, draw.choice((1, 2, 2, 3))))
        return mark + draw.choice((body, f"*{body}*", body.lower())), ",".join(draw.sample(PLACES, draw.choice((1, 2))))
    letters = task == 3
    word = draw.choice(
        list("ABCD") if letters else ["Yes", "No", "yes.", "(no)", "'No'", "Yes, no", "not yes", "- Yes"]
    )
    right = draw.choice(list("ABCD") if letters else ["yes", "no"])
    return mark + word + draw.choice(("", "", ".", "\n", " because")), right


def pairs(authors: ModuleType) -> Iterator[dict[str, Any]]:
    """The rows of the file; ``expected`` is a letter or None for readers, true or false for verdicts."""
    draw = random.Random(16)
    readers: dict[str, Callable[[str, dict[str, str]], str | None]] = {
        "vstar": lambda output, _: authors.vstar(output),
        "hr-bench-4k": authors.hr,
        "blink-jigsaw": authors.blink,
        "comt": authors.comt,
        "mme-realworld-lite": lambda output, _: authors.mme(output),
    }
    for name, reader in readers.items():
        for _ in range(EACH):
            options = draw.choice(OPTIONS)
            output = choice_outputs(draw, options)
            yield {"benchmark": name, "options": options, "output": output, "expected": reader(output, dict(options))}
    for _ in range(EACH):
        question, right = draw.choice(SAT_QUESTIONS), draw.choice(("left", "right", "sofa", "no", "rotated (left)"))
        said = draw.choice((right, right.title(), *draw.sample(SAT_ANSWERS, 3)))
        output = draw.choice(("", "", "", " ", "the answer is ")) + said + draw.choice(("", "", ".", " of it"))
        expected = authors.sat(output, question, right)
        yield {"benchmark": "sat", "question": question, "right": right, "output": output, "expected": expected}
    for rule, verdict in (("mirage-official", authors.mirage), ("vsp-official", authors.vsp)):
        for _ in range(EACH):
            rows = draw.choice(list(SOLUTIONS))
            output = plan_outputs(draw, SOLUTIONS[rows])
            yield {
                "benchmark": "vsp-planning",
                "rule": rule,
                "map": rows,
                "output": output,
                "expected": verdict(output, rows),
            }
    for number in range(EACH):
        task = 1 + number % 4
        output, right = question_outputs(draw, task)
        gold: Any = right.split(",") if task == 2 else right[0].upper() if task == 4 else right
        expected = (authors.t1, authors.t2, authors.t3, authors.t4)[task - 1](output, gold)
        yield {"benchmark": "vsp-questions", "task": task, "right": right, "output": output, "expected": expected}


def main(reference: Path) -> None:
    spec = importlib.util.spec_from_file_location("reference", reference)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{reference} is no Python module")
    authors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(authors)
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in pairs(authors)]
    FILE.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
