"""Reading answers: boxes, letters and moves; what is no answer; dress, and other options."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning
from mirage_core.benchmarks.answer_parsing import boxed, final_answer
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.benchmarks.reading.moves import read_moves
from mirage_core.types import Problem
from mirage_core.worlds.maze import maze_from_rows

OPTIONS = {"A": "Action Success.", "B": "Action Failed. Falling into a hole.", "C": "Player safe."}
MATERIALS = {"A": "rubber", "B": "cotton", "C": "kevlar", "D": "leather"}
SIDES = {"A": "left", "B": "right"}
NUMBERS = {"A": "3", "B": "30", "C": "13", "D": "4"}
DRESSES = (
    "{}",
    " {} ",
    "{}.",
    "({})",
    "({}).",
    "[{}]",
    '"{}"',
    "'{}'",
    "**{}**",
    "*{}*",
    "`{}`",
    "```\n{}\n```",
    "{}\n",
    "\n\n{}\n",
    "{})",
    "{}:",
    "{}</s>",
    "{}<|im_end|>",
    "{}<|endoftext|>",
    "{}<end_of_turn>",
    "（{}）",
    "【{}】",
    "「{}」",
    "${}$",
    "\\({}\\)",
    "\\[{}\\]",
    "\\boxed{{{}}}",
    "$\\boxed{{{}}}$",
    "\\boxed{{\\text{{{}}}}}",
    "\\boxed{{\\mathrm{{{}}}}}",
    "\\boxed{{\\mathbf{{({})}}}}",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "<b>{}</b>",
    "<p>{}</p>",
    "Answer: {}",
    "**Answer:** {}",
    "Answer: **{}**",
    "The answer is {}.",
    "The correct answer is ({}).",
    "The final answer is: {}",
    "Final answer: {}",
    "#### {}",
    "Option {}",
    '{{"answer": "{}"}}',
    '```json\n{{"answer": "{}"}}\n```',
    "It is {}.",
    "So the answer is {}",
    "I choose {}.",
    "答案是{}",
    "答案：{}。",
    "正确答案是（{}）。",
    "正解は{}です。",
    "정답은 {}입니다.",
    "La réponse est {}.",
    "Die Antwort ist {}.",
    "La respuesta es {}.",
    "Ответ: {}",
    "<think>maybe (A) or (C)?</think>{}",
    "<thinking>(C)</thinking>\n\n{}",
    "Was it (C)?</think>\n{}",
    "Let me look closely.\n\n{}",
    "{}\n\nReasoning: it looks so.",
    "{}, since it looks so",
    "> {}",
    "- {}",
    "✅ {}",
    "=> {}",
)
OTHERS_BEFORE = (
    "({}) is wrong. ",
    "Not {}. ",
    "At first ({}) seems possible, but it is not. ",
    "It cannot be {}. ",
    "Is it {}? No. ",
    "({}) was my first idea. ",
    "<think>The answer is {}.</think>",
    "We can rule out {}. ",
    "Unlike ({}), it has no shine. ",
)
OTHERS_AFTER = (
    " ({}) is wrong.",
    " It is not {}.",
    " ({}) is too small.",
    " I considered ({}) as well.",
    " Option {} does not fit.",
    " Why not {}? It shines.",
)
FILLED = [
    "the",
    "glove",
    "picture",
    "shows",
    "small",
    "object",
    "near",
    "wooden",
    "table",
    "while",
    "person",
    "walks",
    "slowly",
    "along",
    "street",
    "under",
    "bright",
    "sky",
]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("so \\boxed{RRD}.", "RRD"),
        ("\\boxed{A} no, \\boxed{B}", "B"),
        ("\\boxed{\\text{R{R}}D}", "\\text{R{R}}D"),
        ("\\boxed{A} then \\boxed{RR", "A"),
        ("\\boxed{one \\boxed{two} three}", "two"),
        ("\\boxed{}", ""),
        ("\\boxed{RR", None),
        ("boxed{RR}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_read(text, inside):
    assert boxed(text) == inside


@given(st.text())
def test_any_text_in_a_box_comes_back_when_its_braces_are_balanced(text):
    plain = text.replace("{", "").replace("}", "")
    assert boxed(f"I think \\boxed{{{plain}}}.") == plain.strip()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{b}", "B"),
        ("\\boxed{A. Action Success.}", "A"),
        ("\\boxed{Action Success}", "A"),
        ("first (A), but no: (C)", "C"),
        ("\\boxed{42} that is (B)", "B"),
        ("The outcome: action failed, no. Falling into a hole", None),
        ("The outcome is: Player safe.", "C"),
        ("\\boxed{B or C}", None),
        ("\\boxed{D}", None),
        ("A", "A"),
        ("", None),
    ],
)
def test_the_letter_is_the_boxs_else_the_one_that_is_chosen(text, letter):
    assert read_letter(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a <think>b</think> c", "c"),
        ("b</think>c", "c"),
        ("a <think>b", "a"),
        ("<think>b", ""),
        ("<THINKING>b</THINKING>c<|im_end|>", "c"),
        ("<think>b</think>", ""),
        ("x <answer>a</answer> then <answer>c</answer>.", "c"),
        ("<|latent_start|><|latent_pad|><|latent_end|>c", "c"),
    ],
)
def test_thoughts_latents_and_tokens_are_struck_out_first(text, answer):
    assert final_answer(text) == answer


def test_there_are_more_than_forty_dresses():
    assert len(set(DRESSES)) >= 40


@pytest.mark.parametrize("dress", DRESSES)
def test_a_right_answer_in_any_dress_is_right(dress):
    for options in (MATERIALS, SIDES, NUMBERS, OPTIONS):
        for letter in options:
            assert read_letter(dress.format(letter), options) == letter, (dress, letter)


@pytest.mark.parametrize("dress", [dress for dress in DRESSES if "ption" not in dress])
def test_an_options_text_in_any_dress_is_right(dress):
    for options in (MATERIALS, SIDES, NUMBERS):
        for letter, text in options.items():
            assert read_letter(dress.format(text), options) == letter, (dress, text)


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from(OTHERS_BEFORE), st.sampled_from(OTHERS_AFTER))
@settings(deadline=None, max_examples=150)
def test_naming_other_options_before_or_after_changes_nothing(letter, other, before, after):
    assume(letter != other)
    for answer in (f"The answer is {letter}.", f"\\boxed{{{letter}}}", f"The correct answer is ({letter})."):
        for text in (
            before.format(other) + answer,
            answer + after.format(other),
            before.format(other) + answer + after.format(other),
        ):
            assert read_letter(text, MATERIALS) == letter, text


@given(st.lists(st.sampled_from(FILLED), max_size=40))
@settings(deadline=None)
def test_words_that_choose_nothing_are_unparsed(words):
    assert read_letter(" ".join(words), SIDES) is None
    assert read_moves(" ".join(words)) is None


@given(st.text(alphabet=st.characters(exclude_categories=("Lu", "Cs"), exclude_characters="abcdABCD"), max_size=60))
@settings(deadline=None)
def test_random_text_is_unparsed(text):
    assume(not any(character in unicodedata.normalize("NFKC", text).upper() for character in "ABCD"))
    assert read_letter(text, MATERIALS) is None


def test_composed_and_decomposed_answers_are_one():
    options = {"A": "café", "B": "thé"}
    for form in ("NFC", "NFD"):
        assert read_letter(unicodedata.normalize(form, "C'est un café."), options) == "A"
        assert read_letter("café", {key: unicodedata.normalize(form, text) for key, text in options.items()}) == "A"


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("\\boxed{d, l, l, u}", "DLLU"),
        ("\\boxed{down}", "D"),
        ("\\boxed{Down, left}", "DL"),
        ("\\boxed{Down (D), Right (R)}", "DR"),
        ("\\boxed{(D) Down, (R) Right}", "DR"),
        ("\\boxed{(D)(D)(R)}", "DDR"),
        ("\\boxed{↓→→}", "DRR"),
        ("\\boxed{D → R → R}", "DRR"),
        ("\\boxed{\\text{R, R} \\rightarrow D}", "RRD"),
        ("<think>\\boxed{LL}</think>\\boxed{RR}", "RR"),
        ("Action plan: D, D", "DD"),
        ("DDRR", "DDRR"),
        ("\\boxed{Unreachable}", None),
        ("\\boxed{2R, D}", None),
        ("\\boxed{go home}", None),
        ("\\boxed{R, then I stop}", None),
        ("The right way is down.", None),
        ("<think>\\boxed{RR}", None),
    ],
)
def test_moves_are_read_in_any_case_and_junk_has_none(text, moves):
    assert read_moves(text) == moves


@given(
    st.text("UDLR", min_size=1, max_size=12),
    st.sampled_from([",", ", ", "", " ", "\n", "; ", " -> ", "-", " → "]),
    st.booleans(),
)
@settings(deadline=None)
def test_a_plan_is_read_with_any_separators(plan, separator, lower):
    written = separator.join(plan.lower() if lower else plan)
    assert read_moves(f"I go.\n\\boxed{{{written}}}") == plan
    assert read_moves(f"Action plan: {separator.join(plan).replace(chr(10), ' ')}") == plan


def published_faults() -> list[tuple[str, dict[str, object], str, str, bool]]:
    """Outputs that were misread: benchmark, options and answer, output, rule, whether it is right."""
    hr = {"options": ["A white car", "Blue", "Red and blue", "B 12"]}
    mme = {"options": ["7", "17", "27", "37", "The image does not feature it."]}
    four, two = {"options": list(MATERIALS.values())}, {"options": ["left", "right"]}
    three = {"options": list(NUMBERS.values())}
    return [
        ("sat", two, "B", "option-letter", True),
        ("sat", two, "<think>Maybe (A)? No.</think>B", "option-letter", True),
        ("comt", three, "13", "option-letter", False),
        ("comt", three, "30", "option-letter", True),
        ("comt", three, "\\boxed{30}", "option-letter", True),
        ("comt", three, "The answer is B.", "option-letter", True),
        ("vstar", four, '"B"', "option-letter", True),
        ("vstar", four, "It is B.", "option-letter", True),
        ("vstar", four, "Let me look closely.\n\nB", "option-letter", True),
        ("hr-bench-4k", hr, "B\n\nReasoning: the glove looks woven.", "option-letter", True),
        ("hr-bench-4k", four, "\\boxed{\\mathrm{B}}", "option-letter", True),
        ("hr-bench-4k", four, "\\boxed{\\mathbf{B}}", "option-letter", True),
        ("mme-realworld-lite", mme, "The answer is b", "option-letter", True),
        ("mme-realworld-lite", mme, "B, because (A) is too small", "option-letter", True),
        ("mme-realworld-lite", mme, "The answer is b", "official", False),
        ("jigsaw", {"options": ["the second image", "the third image"]}, "B", "option-letter", True),
    ]


@pytest.mark.parametrize(("name", "facts", "output", "rule", "right"), published_faults())
def test_answers_that_were_misread_are_read(name, facts, output, rule, right):
    problem = Problem(
        id="p", benchmark=name, split="test", group="g", question="", images=(), answer="B", facts=facts
    )  # fmt: skip
    assert benchmarks.get(name).score(problem, output, rule=rule).correct is right


def test_vsps_own_marker_is_read_as_strictly_as_its_authors_do():
    maze = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
    problem = vsp_planning.make_problem("p", "test", maze, b"", "DDRR")
    verdicts = {
        "Action Plan: D,D,R,R": True,
        "Action plan: D,D,R,R.": True, "Action plan: D,D,R,R\nThis reaches the goal.": False,
        "Action plan: DDRR": False, "Action plan: Down, Down": False, "Action plan: U\nAction plan: D,D,R,R": False,
        "\\boxed{D,D,R,R}": True,
    }  # fmt: skip
    for output, right in verdicts.items():
        assert vsp_planning.score(problem, output, "vsp").correct is right, output


def test_the_answers_of_the_shared_list_of_faults_come_out_right():
    """The letters of ../shared/faults/answers.jsonl, where this checkout has it beside it."""
    file = Path(__file__).parents[3] / "shared" / "faults" / "answers.jsonl"
    if not file.is_file():
        pytest.skip("no shared list of faults here")
    for line in file.read_text(encoding="utf-8").splitlines():
        fault = json.loads(line)
        row, output = fault["row"], fault["output"]
        if not isinstance(row, dict) or not output or fault["benchmark"] == "mme-realworld-lite":
            continue
        texts = row["options"] if isinstance(row["options"], list) else list(row["options"].values())
        assert read_letter(output, dict(zip("ABCDE", texts, strict=False))) == row["answer"], fault
