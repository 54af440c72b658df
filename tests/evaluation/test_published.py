"""The papers' figures: complete, marked, and matched to the nearest method of ours."""

from __future__ import annotations

from mirage_core.evaluation.published import NUMBERS, nearest, numbers


def test_every_published_figure_names_its_paper_and_is_a_share() -> None:
    assert all("arXiv" in number.source for number in NUMBERS)
    assert all(0 < number.accuracy <= 1 for number in NUMBERS)


def test_the_papers_main_table_is_here() -> None:
    planning = {number.label: number.accuracy for number in numbers("vsp-planning")}
    reasoning = {number.label: number.accuracy for number in numbers("vsp-reasoning")}
    assert (planning["zero-shot"], planning["direct SFT"], planning["Mirage direct"]) == (0.06, 0.72, 0.76)
    assert (reasoning["Mirage CoT"], reasoning["Mirage CoT + GRPO"], reasoning["CoT SFT + GRPO"]) == (0.87, 0.89, 0.85)
    assert {number.label: number.accuracy for number in numbers("vstar")}["CapImagine"] == 0.859


def test_the_nearest_figure_follows_the_variant() -> None:
    direct, cot = nearest("vsp-planning", "stage-2", "direct"), nearest("vsp-planning", "stage-2", "cot")
    assert direct is not None
    assert cot is not None
    assert (direct.label, direct.accuracy) == ("Mirage direct", 0.76)
    assert (cot.label, cot.accuracy) == ("Mirage CoT", 0.58)


def test_a_method_or_benchmark_nobody_published_has_no_figure() -> None:
    assert nearest("vsp-planning", "my-own", "direct") is None
    assert numbers("my-benchmark") == ()


def test_figures_of_a_part_stand_beside_the_whole_with_the_parts_name() -> None:
    labels = {number.label: number.accuracy for number in numbers("sat")}

    assert labels["Mirage (sat-real)"] == 0.89 and labels["Mirage (sat-synthetic)"] == 0.85
    assert [number.label for number in numbers("blink-jigsaw")] == ["direct SFT", "ViGoRL", "Mirage"]
    assert numbers("jigsaw")[-1].label == "Mirage (blink-jigsaw)"
