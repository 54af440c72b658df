"""Direct SFT with the heads of stepwise grounding on the tokens of the plan: a control without latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import StepwiseSettings
from mirage_core.errors import InputError, SettingsError
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import load_model
from mirage_core.store.records import load_examples
from mirage_core.training.sft.examples import example_encoder
from mirage_core.training.stepwise.batch import token_batch
from mirage_core.training.stepwise.plan_tokens import PlanTokens, plan_in
from mirage_core.training.stepwise.setup import make_stepwise
from mirage_core.training.stepwise.targets import StepTargets
from mirage_core.types import Problem
from tests.training.small_world import small_settings
from tests.training.test_stepwise_training import curve, trained

SECTION = {"steps": 4, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2}


def problem(benchmark: str, plan: str) -> Problem:
    facts: dict[str, Any] = {"plan": plan} if benchmark == vsp_reasoning.NAME else {}
    answer = "A" if facts else plan
    return Problem(
        id="p", benchmark=benchmark, group="level-3", split="train", question="?", images=(), answer=answer, facts=facts
    )


@pytest.mark.parametrize(
    ("benchmark", "text", "ends"),
    [
        (vsp_reasoning.NAME, "Right?\nPlan: UDR\nOutcome: \\boxed{A}", "U,UD,UDR"),
        (vsp_reasoning.NAME, "Full Action Plan: UP, DOWN, RIGHT \\boxed{B}", "UP,UP, DOWN,UP, DOWN, RIGHT"),
        (vsp_planning.NAME, "Plan: R\n\\boxed{UDR}", "U,UD,UDR"),
        (vsp_planning.NAME, "\\boxed{U, D, R}", "U,U, D,U, D, R"),
    ],
    ids=["short question", "published question", "letters", "letters with commas"],
)
def test_a_plan_is_found_where_it_stands(benchmark: str, text: str, ends: str) -> None:
    found = plan_in(text, problem(benchmark, "UDR"))
    assert len(found) == 3 and found == sorted(found)
    begin = text.index("boxed{") + 6 if benchmark == vsp_planning.NAME else text.index("Plan: ") + 6
    assert ends.startswith(text[begin : found[0]]) and ends.endswith(text[begin : found[-1]])


def test_a_text_without_the_plan_is_refused_with_the_way_out() -> None:
    for benchmark in (vsp_planning.NAME, "jigsaw"):
        with pytest.raises(SettingsError, match=r"none was found in the text of problem p .* set it to null"):
            plan_in("the answer is \\boxed{B}", problem(benchmark, "UDR"))


def test_the_columns_of_real_examples_are_those_of_their_moves(inputs: Path) -> None:
    examples = load_examples(inputs / "examples", split="train")
    model = load_model(inputs / "model")
    settings = small_settings(auxiliary_images={"film": "forward"})
    encode, tokenizer = example_encoder("text", settings, model, examples), model.processor.tokenizer
    plans, kinds = PlanTokens(examples, tokenizer), set()
    for index, example in enumerate(examples):
        ids = encode(index).ids
        moves = example.problem.facts.get("plan", example.problem.answer)
        said = [tokenizer.decode([int(ids[column])]).strip(" ,")[:1] for column in plans.columns(index, ids)]
        assert "".join(said) == moves
        kinds.add(example.problem.benchmark)
    assert vsp_planning.NAME in kinds


def test_the_heads_train_beside_the_text_and_are_not_kept(inputs: Path, tmp_path: Path) -> None:
    heads = {**SECTION, "stepwise": {"where": "cell", "what": "kind"}}
    output = trained(inputs, tmp_path / "held", "text", direct_sft=heads, auxiliary_images={"film": "forward"})
    plain = trained(inputs, tmp_path / "plain", "text", direct_sft=SECTION)
    assert not (output / HEADS_FILE).exists()
    assert len(curve(output, "where")) == len(curve(output, "what_accuracy")) == 4
    assert curve(output, "text")[0] == pytest.approx(curve(plain, "text")[0], rel=1e-5)
    assert curve(output, "text")[-1] != curve(plain, "text")[-1]
    expected = [a + b + c for a, b, c in zip(*(curve(output, name) for name in ("text", "where", "what")), strict=True)]
    assert curve(output, "loss") == pytest.approx(expected, rel=1e-4)
    assert curve(plain, "where") == []


def test_targets_and_tokens_must_be_as_many() -> None:
    targets = [StepTargets(where=torch.ones(2, 3), what=torch.ones(2, 2))]
    with pytest.raises(InputError, match=r"rows have \[2\] targets for \[3\] tokens"):
        token_batch(None, targets, [[4, 5, 6]], None, (3, 2))  # type: ignore[arg-type]


def test_it_needs_a_film() -> None:
    sections = {"direct_sft": {"stepwise": {}}, "evaluation": {"methods": ["direct-sft"]}}
    with pytest.raises(ValueError, match=r"direct_sft\.stepwise needs a film: set auxiliary_images\.film to forward"):
        small_settings(**sections)
    assert small_settings(**sections, auxiliary_images={"film": "forward"}).direct_sft.stepwise == StepwiseSettings()


@pytest.mark.parametrize(
    ("film", "frames", "message"),
    [
        ("wave", "film", r"auxiliary_images\.film is wave: set it to forward"),
        ("backward", "film", r"auxiliary_images\.film is backward: set it to forward"),
        ("forward", "other", r"the tokens of a plan \(direct_sft\.stepwise\) cannot be held to it"),
    ],
)
def test_moves_are_held_to_their_own_film_in_their_own_order_alone(film: str, frames: Any, message: str) -> None:
    recipe = small_settings(auxiliary_images={"film": film})
    with pytest.raises(SettingsError, match=message):
        make_stepwise(StepwiseSettings(frames=frames), recipe, None, None, 3, latents=False)  # type: ignore[arg-type]
