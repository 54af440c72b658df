"""Each verdict, on results built for it: yes, no, and everything that is neither."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.analysis.verdict import RULES, carries_input, drives_answer, judge
from tests.analysis import made


def exchange(name: str = "permute", way: str = "vectors", **figures: Any) -> Any:
    return made.run(name, way=way, **figures)


def answered(*runs: Any, n: int = 200) -> str:
    return drives_answer(made.interventions(*runs, n=n), "present").outcome


def test_answers_that_follow_their_latents_are_driven_by_them() -> None:
    verdict = drives_answer(made.interventions(exchange(**made.CAUSAL)), "present")
    assert verdict.outcome == "yes"
    assert verdict.n == 200
    assert "another problem's latents give another problem's answer" in verdict.said
    assert "-75.0 points" in verdict.because[0] and "77.5 %" in verdict.because[0] and "n = 200" in verdict.because[0]


def test_one_way_of_exchanging_is_enough_for_a_yes() -> None:
    assert answered(exchange(**made.USELESS), exchange("permute", "states", **made.CAUSAL)) == "yes"


def test_latents_that_change_nothing_on_many_problems_do_not_drive_the_answer() -> None:
    useless = exchange(n=2000, clean=1600, only_clean=8, only_here=7, changed=30, follow=120, follow_clean=120)
    verdict = drives_answer(made.interventions(useless, n=2000), "present")
    assert verdict.outcome == "no"
    assert "less than 2 points" in verdict.said


def test_the_same_on_few_problems_is_not_shown() -> None:
    verdict = drives_answer(made.interventions(exchange(n=50, clean=40, follow=3, follow_clean=3)), "present")
    assert verdict.outcome == "not shown"
    assert "by n = 50" in verdict.said


def test_a_fall_without_following_is_a_disturbance_not_a_drive() -> None:
    verdict = drives_answer(made.interventions(exchange(only_clean=80, changed=120, follow=13)), "present")
    assert verdict.outcome == "not shown"
    assert "do not follow the donor" in verdict.said


def test_following_without_a_fall_is_not_enough() -> None:
    assert answered(exchange(only_clean=1, only_here=1, follow=60)) == "not shown"


def test_a_fall_must_survive_the_number_of_exchanges() -> None:
    weak = exchange(only_clean=10, only_here=2, follow=60)
    assert weak.p_value < 0.05
    assert answered(weak) == "yes"
    assert answered(weak, *[exchange("swap", "states", **made.USELESS)] * 2) == "not shown"


def test_a_model_that_answers_nothing_right_cannot_show_a_no() -> None:
    nothing = exchange(n=2000, clean=0, changed=1900, follow=0, follow_clean=0)
    verdict = drives_answer(made.interventions(nothing, n=2000), "present")
    assert verdict.outcome == "not shown"
    assert "nothing could fall" in verdict.said


def test_one_wide_exchange_spoils_a_no() -> None:
    useless = exchange(n=2000, clean=1600, only_clean=8, only_here=7, follow=120, follow_clean=120)
    wide = exchange("swap", "states", n=100, clean=80, only_clean=1, only_here=1, follow=6, follow_clean=6)
    assert answered(useless, wide) == "not shown"


def test_without_an_exchange_nothing_is_shown() -> None:
    assert answered() == "not shown"


def test_each_state_of_the_picture_has_its_own_verdict() -> None:
    both = made.interventions(exchange(**made.USELESS), exchange(seen="cut", **made.CAUSAL))
    edges = judge(both, None).edges
    assert [(edge.seen, edge.outcome) for edge in edges] == [("present", "not shown"), ("cut", "yes")]
    assert judge(both, None).edge("Z -> Y").seen == "present"


def test_a_probe_above_its_controls_shows_the_input() -> None:
    verdict = carries_input(made.probes(made.probe("start", 80), made.probe("next-move", 150)), made.similarity())
    assert verdict.outcome == "yes"
    assert "next-move" in verdict.said and "start" not in verdict.said
    assert "75.0 %" in verdict.said and "40.0 %" in verdict.said
    assert any("description only" in sentence for sentence in verdict.because)


def test_a_probe_must_survive_the_number_of_probes() -> None:
    weak = made.probe("goal", 93)
    assert carries_input(made.probes(weak)).outcome == "yes"
    nothing = [made.probe(f"fact-{number}", 80) for number in range(6)]
    assert carries_input(made.probes(weak, *nothing)).outcome == "not shown"


def test_a_probe_below_a_shuffled_one_shows_nothing() -> None:
    lucky = made.probe("goal", 110)
    lucky = lucky.model_copy(update={"shuffled": lucky.shuffled.model_copy(update={"high": 0.6})})
    assert carries_input(made.probes(lucky)).outcome == "not shown"


@pytest.mark.parametrize("seen_in_the_picture", [True, False])
def test_a_fact_is_absent_only_where_the_same_probe_finds_it_in_the_picture(seen_in_the_picture: bool) -> None:
    absent = made.probe("start", 800, test=2000)
    picture = made.probe("start", 1900 if seen_in_the_picture else 800, test=2000, states="image-features")
    verdict = carries_input(made.probes(absent, picture))
    assert verdict.outcome == ("no" if seen_in_the_picture else "not shown")


def test_a_probe_of_few_answers_excludes_nothing() -> None:
    verdict = carries_input(
        made.probes(made.probe("start", 20, test=50), made.probe("start", 48, 50, states="text-before"))
    )
    assert verdict.outcome == "not shown"
    assert "by n = 50" in verdict.said


def test_no_probe_at_all_is_not_shown() -> None:
    assert carries_input(made.probes()).outcome == "not shown"


def test_the_headline_says_both_and_what_was_not_measured() -> None:
    both = judge(made.interventions(exchange(**made.CAUSAL)), made.probes(made.probe("next-move", 150)))
    assert both.headline == "Do latents carry the input? Yes. Do they drive the answer? Yes."
    half = judge(None, made.probes(made.probe("next-move", 82)))
    assert half.headline == (
        "Do latents carry the input? Not shown by n = 200. Do they drive the answer? Not measured."
    )
    assert judge(None, None).headline == "Neither edge was measured."
    assert both.rules == RULES


def test_a_chain_in_words_is_judged_by_what_another_problems_chain_does() -> None:
    driven = judge(None, None, None, made.text_chain())
    assert driven.headline == "Do the words before the answer drive it? Yes."
    (edge,) = driven.edges
    assert (edge.edge, edge.outcome, edge.n) == ("chain -> Y", "yes", 200)
    assert edge.said == "The chain in words drives the answer: another problem's chain gives another problem's answer."
    other = made.run("other", n=1000, clean=800, **made.USELESS)
    idle = made.text_chain().model_copy(update={"runs": (made.run("own"), other)})
    (edge,) = judge(None, None, None, idle).edges
    assert (edge.outcome, edge.because[0].partition(":")[0]) == ("no", "other")
    nothing = made.text_chain().model_copy(update={"runs": ()})
    assert judge(None, None, None, nothing).headline == ("Do the words before the answer drive it? Not shown by n = 0.")
    with_latents = judge(None, made.probes(made.probe("next-move", 150)), None, made.text_chain())
    assert with_latents.headline.endswith("Not measured. Do the words before the answer drive it? Yes.")
