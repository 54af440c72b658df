"""The card of a data set: its content, sources, rejections, and what it shares with the test problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mirage_core.dataset_card.duplicates import Duplicate, ProblemKey, shared_with_test
from mirage_core.dataset_card.statistics import Tally
from mirage_core.types import Rejection

SOURCES: dict[str, tuple[str, str]] = {
    "vsp-planning": ("generated mazes, drawn with FrozenLake's art of gymnasium", "art: MIT (gymnasium)"),
    "vsp-reasoning": ("generated mazes, drawn with FrozenLake's art of gymnasium", "art: MIT (gymnasium)"),
    "mental-rotation": ("generated patterns, drawn here", "that of this project"),
    "paper-folding": ("generated sheets, drawn here", "that of this project"),
    "jigsaw": ("cut from the pictures that the settings name", "that of the pictures"),
    "sat": ("huggingface.co/datasets/array/SAT", "as its page says"),
    "comt": ("huggingface.co/datasets/czh-up/comt", "as its page says"),
    "own": ("the user's own file", "that of the file"),
}
EXAMPLES_PER_REASON = 3


def data_card(
    tally: Tally,
    rejections: Sequence[Rejection],
    tests: Sequence[ProblemKey],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Return the card as JSON; ``settings``: those the data depends on, ``inputs``: digests of its sources."""
    benchmarks = sorted({benchmark for benchmark, _, _ in tally.groups})
    return {
        "examples": tally.total,
        "counts": _counts(tally),
        "test_problems": dict(sorted(Counter(key.benchmark for key in tests).items())),
        "chains_by": dict(sorted(tally.writers.items())),
        "variants": dict(sorted(tally.variants.items())),
        "auxiliary_images": dict(sorted(tally.styles.items())),
        "rejections": _rejections(rejections),
        "left_out": sum(rejection.left_out for rejection in rejections),
        "shared_with_test": [_as_json(duplicate) for duplicate in shared_with_test(tally.keys, tests)],
        "sources": {name: _source(name) for name in benchmarks},
        "settings": dict(settings),
        "made_from": dict(inputs),
    }


def _counts(tally: Tally) -> list[dict[str, Any]]:
    """Return the number of examples of each benchmark, group and split."""
    return [
        {"benchmark": benchmark, "group": group, "split": split, "examples": count}
        for (benchmark, group, split), count in sorted(tally.groups.items())
    ]


def _rejections(rejections: Sequence[Rejection]) -> list[dict[str, Any]]:
    """Return the count of each reason, and a few cases to look up in rejections.parquet."""
    reasons = Counter(rejection.reason for rejection in rejections)
    return [
        {
            "reason": reason,
            "answers": count,
            "for_example": [r.problem_id for r in rejections if r.reason == reason][:EXAMPLES_PER_REASON],
        }
        for reason, count in reasons.most_common()
    ]


def _source(benchmark: str) -> dict[str, str]:
    where, licence = SOURCES.get(benchmark, ("a task of the user's own", "its author's"))
    return {"from": where, "licence": licence}


def _as_json(duplicate: Duplicate) -> dict[str, Any]:
    return {"example": duplicate.example_id, "test": duplicate.test_id, "how": duplicate.how}


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown."""
    lines = [
        "# Data card",
        "",
        f"{card['examples']} examples; chains by {_listed(card['chains_by'])}; variants {_listed(card['variants'])}; "
        f"auxiliary images: {_listed(card['auxiliary_images'])}.",
        "",
        "| benchmark | group | split | examples |",
        "|---|---|---|---:|",
        *(f"| {row['benchmark']} | {row['group']} | {row['split']} | {row['examples']} |" for row in card["counts"]),
        "",
        "## Rejected",
        "",
        *(_rejected_lines(card)),
        "",
        "## Shared with the test problems",
        "",
        *(_shared_lines(card["shared_with_test"])),
        "",
        "## Where it is from",
        "",
        *(f"- {name}: {source['from']}; licence: {source['licence']}" for name, source in card["sources"].items()),
        *(f"- made from {name} {digest[:12]}" for name, digest in card["made_from"].items()),
        "",
    ]
    return "\n".join(lines)


def _rejected_lines(card: Mapping[str, Any]) -> list[str]:
    if not card["rejections"]:
        return ["No answer of the teacher was rejected."]
    reasons = [
        f"- {r['reason']}: {r['answers']} answers, such as {', '.join(r['for_example'])}" for r in card["rejections"]
    ]
    return [*reasons, f"- {card['left_out']} problems were left out. Every rejected answer: rejections.parquet"]


def _shared_lines(shared: Sequence[Mapping[str, Any]]) -> list[str]:
    if not shared:
        return ["Nothing: no map, picture (perceptual hash) or question of the test stands among the examples."]
    lines = [f"- {pair['example']} and {pair['test']}: {pair['how']}" for pair in shared[:20]]
    return lines + ([f"- and {len(shared) - 20} more: card.json"] if len(shared) > 20 else [])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
