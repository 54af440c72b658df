"""Prompt templates: which words a task gets, how they are known, and what a wrong file says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mirage_core import benchmarks
from mirage_core.errors import DataError, SettingsError
from mirage_core.llm_client.messages import data_url
from mirage_core.teacher.prompt_templates import FOLDER, load_prompt, templates_identity
from mirage_core.teacher.prompts import first_messages, next_messages
from tests.teacher.conftest import Pairs


@pytest.mark.parametrize("benchmark", [*benchmarks.NAMES, "something-new"])
def test_every_benchmark_has_a_prompt_that_shows_all_and_asks_for_one_place(benchmark: str) -> None:
    prompt = load_prompt("mirage", "cot", benchmark)
    text = prompt.question(question="What $is {this}? <image>", answer="\\frac{1}{2} $5")
    assert "What $is {this}? <image>" in text
    assert "\\frac{1}{2} $5" in text
    assert text.count("<auxiliary_image>") == 1
    assert "<output_image>" in text and "\\boxed{" in text and "</think>" in text
    assert "the box was wrong" in prompt.complaint("the box was wrong")
    named = f"cot.{benchmark}@1.1" if (FOLDER / f"mirage/cot.{benchmark}.yaml").is_file() else "cot@1"
    assert prompt.label == f"mirage/{named}"


def test_a_message_holds_question_pictures_answer_and_the_picture_to_imagine_in_their_places(pairs: Pairs) -> None:
    problem, image = pairs[0]
    system, user = first_messages(load_prompt("mirage", "cot", problem.benchmark), problem, image, "cot")
    assert (system["role"], user["role"]) == ("system", "user")
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    assert user["content"][1]["image_url"]["url"] == data_url(problem.images[0], "x")
    assert user["content"][3]["image_url"]["url"] == data_url(image.image, "x")
    assert f"The right answer is: {problem.answer}" in user["content"][2]["text"]
    assert "<image>" not in "".join(part.get("text", "") for part in user["content"])


def test_a_re_ask_quotes_the_answer_and_its_faults_and_never_an_empty_text(pairs: Pairs) -> None:
    prompt = load_prompt("mirage", "cot", "vsp-planning")
    first = first_messages(prompt, *pairs[0], "cot")
    again = next_messages(first, prompt, "x" * 10_000, "no box")
    assert again[:2] == first
    assert again[2] == {"role": "assistant", "content": "x" * 4000}
    assert "no box" in again[3]["content"]
    assert next_messages(first, prompt, " ", "empty")[2]["content"] == "(no text)"


def test_a_question_whose_marks_do_not_fit_its_pictures_is_refused(pairs: Pairs) -> None:
    import dataclasses

    problem, image = pairs[0]
    prompt = load_prompt("mirage", "cot", problem.benchmark)
    for changes in ({"images": problem.images * 2}, {"answer": "<auxiliary_image>"}):
        with pytest.raises(DataError, match=problem.id):
            first_messages(prompt, dataclasses.replace(problem, **changes), image, "cot")
    with pytest.raises(DataError, match="neither PNG, JPEG nor WebP"):
        first_messages(prompt, dataclasses.replace(problem, images=(b"GIF89a",)), image, "cot")


def test_templates_count_by_content_and_version_not_by_place(tmp_path: Path) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(FOLDER / "mirage", copy)
    assert templates_identity(str(copy), "cot") == templates_identity("mirage", "cot")
    frame = copy / "cot.yaml"
    frame.write_text(frame.read_text().replace("version: 1", "version: 2"))
    assert templates_identity(str(copy), "cot") != templates_identity("mirage", "cot")
    assert load_prompt(str(copy), "cot", "sat").label == "mine/cot.sat@2.1"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("cot.yaml", "version: 1\nuser: $question", "lacks again"),
        ("cot.yaml", "user: a\nagain: b", "whole number `version`"),
        ("cot.yaml", "version: 1\nuser: a\nagain: b\nsytem: c", "whole number `version`, and of"),
        ("cot.yaml", "version: [", "cannot be read"),
        ("cot.yaml", "- a", "must hold"),
        ("cot.sat.yaml", "version: one", "must hold"),
    ],
)
def test_a_wrong_template_is_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    shutil.copytree(FOLDER / "mirage", tmp_path / "mine")
    (tmp_path / "mine" / file).write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        templates_identity(str(tmp_path / "mine"), "cot")
    assert file in str(caught.value)


def test_an_unknown_set_variant_or_placeholder_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected one of mirage"):
        load_prompt("mirrage", "cot", "sat")
    with pytest.raises(SettingsError, match=r"none for the variant 'poem'; they have: .*cot"):
        load_prompt("mirage", "poem", "sat")
    (tmp_path / "cot.yaml").write_text("version: 1\nuser: $facts\nagain: cost $ 5")
    prompt = load_prompt(str(tmp_path), "cot", "sat")
    with pytest.raises(SettingsError, match=r"'facts' is no placeholder; known here: \$question"):
        prompt.question(question="", answer="")
    with pytest.raises(SettingsError, match=r"a dollar sign is written \$\$"):
        prompt.complaint("")
