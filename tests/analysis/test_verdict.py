"""Each verdict, on results built for it: yes, no, and everything that is neither."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.analysis.verdict import RULES, carries_input, derive_verdict, drives_answer
from tests.analysis import fake_results


def exchange(name: str = "permute", way: str = "vectors", **figures: Any) -> Any:
    return fake_results.run(name, way=way, **figures)


def answered(*runs: Any, n: int = 200) -> str:
    return drives_answer(fake_results.interventions(*runs, n=n), "present").outcome


def test_answers_that_follow_their_latents_are_driven_by_them() -> None:
    verdict = drives_answer(fake_results.interventions(exchange(**fake_results.CAUSAL)), "present")
    assert verdict.outcome == "yes"
    assert verdict.n == 200
    assert "another problem's latents give another problem's answer" in verdict.said
    assert "-75.0 points" in verdict.because[0] and "77.5 %" in verdict.because[0] and "n = 200" in verdict.because[0]


def test_one_way_of_exchanging_is_enough_for_a_yes() -> None:
    assert answered(exchange(**fake_results.USELESS), exchange("permute", "states", **fake_results.CAUSAL)) == "yes"


def test_latents_that_change_nothing_on_many_problems_do_not_drive_the_answer() -> None:
    useless = exchange(n=2000, clean=1600, only_clean=8, only_here=7, changed=30, follow=120, follow_clean=120)
    verdict = drives_answer(fake_results.interventions(useless, n=2000), "present")
    assert verdict.outcome == "no"
    assert "less than 2 points" in verdict.said


def test_the_same_on_few_problems_is_not_shown() -> None:
    verdict = drives_answer(fake_results.interventions(exchange(n=50, clean=40, follow=3, follow_clean=3)), "present")
    assert verdict.outcome == "not shown"
    assert "by n = 50" in verdict.said


def test_a_fall_without_following_is_a_disturbance_not_a_drive() -> None:
    verdict = drives_answer(fake_results.interventions(exchange(only_clean=80, changed=120, follow=13)), "present")
    assert verdict.outcome == "not shown"
    assert "do not follow the donor" in verdict.said


def test_following_without_a_fall_is_not_enough() -> None:
    assert answered(exchange(only_clean=1, only_here=1, follow=60)) == "not shown"


def test_a_fall_must_survive_the_number_of_exchanges() -> None:
    weak = exchange(only_clean=10, only_here=2, follow=60)
    assert weak.p_value < 0.05
    assert answered(weak) == "yes"
    assert answered(weak, *[exchange("swap", "states", **fake_results.USELESS)] * 2) == "not shown"


def test_a_model_that_answers_nothing_right_cannot_show_a_no() -> None:
    nothing = exchange(n=2000, clean=0, changed=1900, follow=0, follow_clean=0)
    verdict = drives_answer(fake_results.interventions(nothing, n=2000), "present")
    assert verdict.outcome == "not shown"
    assert "too rarely" in verdict.said


def test_one_wide_exchange_spoils_a_no() -> None:
    useless = exchange(n=2000, clean=1600, only_clean=8, only_here=7, follow=120, follow_clean=120)
    wide = exchange("swap", "states", n=100, clean=80, only_clean=1, only_here=1, follow=6, follow_clean=6)
    assert answered(useless, wide) == "not shown"


def test_without_an_exchange_nothing_is_shown() -> None:
    assert answered() == "not shown"


def test_each_state_of_the_picture_has_its_own_verdict() -> None:
    both = fake_results.interventions(exchange(**fake_results.USELESS), exchange(seen="cut", **fake_results.CAUSAL))
    edges = derive_verdict(both, None).edges
    assert [(edge.seen, edge.outcome) for edge in edges] == [("present", "not shown"), ("cut", "yes")]
    assert derive_verdict(both, None).edge("Z -> Y").seen == "present"


def test_a_probe_above_its_controls_shows_the_input() -> None:
    verdict = carries_input(
        fake_results.probes(fake_results.probe("start", 80), fake_results.probe("next-move", 150)),
        fake_results.similarity(),
    )
    assert verdict.outcome == "yes"
    assert "next-move" in verdict.said and "start" not in verdict.said
    assert "75.0 %" in verdict.said and "40.0 %" in verdict.said
    assert any("description only" in sentence for sentence in verdict.because)


def test_a_probe_must_survive_the_number_of_probes() -> None:
    weak = fake_results.probe("goal", 93)
    assert carries_input(fake_results.probes(weak)).outcome == "yes"
    nothing = [fake_results.probe(f"fact-{number}", 80) for number in range(6)]
    assert carries_input(fake_results.probes(weak, *nothing)).outcome == "not shown"


def test_a_probe_below_a_shuffled_one_shows_nothing() -> None:
    lucky = fake_results.probe("goal", 110)
    lucky = lucky.model_copy(update={"shuffled": lucky.shuffled.model_copy(update={"high": 0.6})})
    assert carries_input(fake_results.probes(lucky)).outcome == "not shown"


@pytest.mark.parametrize("seen_in_the_picture", [True, False])
def test_a_fact_is_absent_only_where_the_same_probe_finds_it_in_the_picture(seen_in_the_picture: bool) -> None:
    absent = fake_results.probe("start", 800, test=2000)
    picture = fake_results.probe("start", 1900 if seen_in_the_picture else 800, test=2000, states="image-features")
    verdict = carries_input(fake_results.probes(absent, picture))
    assert verdict.outcome == ("no" if seen_in_the_picture else "not shown")


def test_a_probe_of_few_answers_excludes_nothing() -> None:
    verdict = carries_input(
        fake_results.probes(
            fake_results.probe("start", 20, test=50), fake_results.probe("start", 48, 50, states="text-before")
        )
    )
    assert verdict.outcome == "not shown"
    assert "by n = 50" in verdict.said


def test_no_probe_at_all_is_not_shown() -> None:
    assert carries_input(fake_results.probes()).outcome == "not shown"


def test_the_headline_says_both_and_what_was_not_measured() -> None:
    both = derive_verdict(
        fake_results.interventions(exchange(**fake_results.CAUSAL)),
        fake_results.probes(fake_results.probe("next-move", 150)),
    )
    assert both.headline == "Do latents carry the input? Yes. Do they drive the answer? Yes."
    half = derive_verdict(None, fake_results.probes(fake_results.probe("next-move", 82)))
    assert half.headline == (
        "Do latents carry the input? Not shown by n = 200. Do they drive the answer? Not measured."
    )
    assert derive_verdict(None, None).headline == "Neither edge was measured."
    assert both.rules == RULES


def test_a_chain_in_words_is_judged_by_what_another_problems_chain_does() -> None:
    driven = derive_verdict(None, None, None, fake_results.text_chain())
    assert driven.headline == "Do the words before the answer drive it? Yes."
    (edge,) = driven.edges
    assert (edge.edge, edge.outcome, edge.n) == ("chain -> Y", "yes", 200)
    assert edge.said == "The chain in words drives the answer: another problem's chain gives another problem's answer."
    other = fake_results.run("other", n=1000, clean=800, **fake_results.USELESS)
    idle = fake_results.text_chain().model_copy(update={"runs": (fake_results.run("own"), other)})
    (edge,) = derive_verdict(None, None, None, idle).edges
    assert (edge.outcome, edge.because[0].partition(":")[0]) == ("no", "other")
    nothing = fake_results.text_chain().model_copy(update={"runs": ()})
    headline = derive_verdict(None, None, None, nothing).headline
    assert headline == "Do the words before the answer drive it? Not shown by n = 0."
    with_latents = derive_verdict(
        None, fake_results.probes(fake_results.probe("next-move", 150)), None, fake_results.text_chain()
    )
    assert with_latents.headline.endswith("Not measured. Do the words before the answer drive it? Yes.")
