"""The papers' figures: complete, marked, and matched to the nearest method of ours."""

from __future__ import annotations

from mirage_core.reports.run.published_numbers import NUMBERS, nearest, numbers


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


def test_the_ablations_stand_beside_the_methods_that_repeat_them() -> None:
    def accuracy_of(benchmark: str, method: str, swept: tuple[str, float] | None = None) -> float | None:
        number = nearest(benchmark, method, "cot", swept)
        return None if number is None else number.accuracy

    assert accuracy_of("vsp-planning", "without-stage-1") == 0.52
    assert accuracy_of("vsp-planning", "stage-1") == 0.21
    assert accuracy_of("vsp-reasoning", "direct-sft-grpo") == 0.85
    assert accuracy_of("vsp-reasoning", "auxiliary-input") == 1.0
    ks = [accuracy_of("vsp-reasoning", "stage-2", ("latent.num_latents", k)) for k in (2, 4, 6, 8, 3)]
    gammas = [accuracy_of("vsp-reasoning", "stage-2", ("grounding.text_weight", gamma)) for gamma in (0.1, 0.5, 1.0)]
    assert ks == [0.86, 0.87, 0.88, 0.75, None]
    assert gammas == [0.87, 0.84, 0.83]
    assert accuracy_of("vsp-planning", "stage-2", ("latent.num_latents", 4)) is None, "the paper swept reasoning alone"
    assert accuracy_of("vstar", "capimagine") == 0.859


def test_a_method_or_benchmark_nobody_published_has_no_figure() -> None:
    assert nearest("vsp-planning", "my-own", "direct") is None
    assert numbers("my-benchmark") == ()


def test_figures_of_a_part_stand_beside_the_whole_with_the_parts_name() -> None:
    labels = {number.label: number.accuracy for number in numbers("sat")}

    assert labels["Mirage (sat-real)"] == 0.89 and labels["Mirage (sat-synthetic)"] == 0.85
    assert [number.label for number in numbers("blink-jigsaw")] == ["direct SFT", "ViGoRL", "Mirage"]
    assert numbers("jigsaw")[-1].label == "Mirage (blink-jigsaw)"
