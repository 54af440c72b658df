"""Published accuracies, shown beside ours. None of these is a result of this project."""

from __future__ import annotations

from dataclasses import dataclass, replace

MIRAGE = "Mirage, arXiv 2506.17218, Qwen2.5-VL 7B"
MIRAGE_3B = "Mirage, arXiv 2506.17218, Qwen2.5-VL 3B"
CAPIMAGINE = "CapImagine, arXiv 2602.22766"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """One number of a paper.

    ``method``: the nearest method of this project, None without one; ``variant``: that of the training chains (direct
    or cot), None where it does not apply. ``swept``: the setting (dotted) and its value, where a paper varies one.
    """

    benchmark: str
    label: str
    accuracy: float
    source: str
    method: str | None = None
    variant: str | None = None
    swept: tuple[str, float] | None = None


def _mirage(
    label: str, reasoning: float, planning: float, method: str | None = None, variant: str | None = None
) -> tuple[PublishedNumber, ...]:
    return tuple(
        PublishedNumber(
            benchmark=benchmark, label=label, accuracy=accuracy, source=MIRAGE, method=method, variant=variant
        )
        for benchmark, accuracy in (("vsp-reasoning", reasoning), ("vsp-planning", planning))
    )


_OURS = {"Qwen2.5-VL-7B": "zero-shot", "direct SFT": "direct-sft", "CapImagine": "capimagine", "Mirage": "stage-2"}


def _column(
    benchmark: str, source: str, figures: dict[str, float], *, of_a_part: bool = False
) -> tuple[PublishedNumber, ...]:
    """Return one benchmark's numbers by system; numbers ``of_a_part`` of our benchmark match no method."""
    return tuple(
        PublishedNumber(
            benchmark=benchmark,
            label=label,
            accuracy=accuracy,
            source=source,
            method=None if of_a_part else _OURS.get(label),
        )
        for label, accuracy in figures.items()
    )


def _swept(setting: str, label: str, figures: dict[float, float]) -> tuple[PublishedNumber, ...]:
    """Return spatial reasoning of Mirage over one setting (paper, ablation); ``label`` has a placeholder for it."""
    return tuple(
        PublishedNumber(
            benchmark="vsp-reasoning",
            label=label.format(value),
            accuracy=accuracy,
            source=MIRAGE,
            method="stage-2",
            variant="cot",
            swept=(setting, value),
        )
        for value, accuracy in figures.items()
    )


_ABLATION = (
    PublishedNumber(
        benchmark="vsp-planning",
        label="Mirage CoT, without stage 2 (stage 1 alone)",
        accuracy=0.21,
        source=MIRAGE,
        method="stage-1",
        variant="cot",
    ),
    PublishedNumber(
        benchmark="vsp-planning",
        label="Mirage CoT, without stage 1",
        accuracy=0.52,
        source=MIRAGE,
        method="without-stage-1",
        variant="cot",
    ),
    *_swept("latent.num_latents", "k = {:g}, gamma = 0.1", {2: 0.86, 4: 0.87, 6: 0.88, 8: 0.75}),
    *_swept("grounding.text_weight", "k = 4, gamma = {:g}", {0.1: 0.87, 0.5: 0.84, 1.0: 0.83}),
    *_mirage("auxiliary image given as input (close to)", 1.00, 1.00, "auxiliary-input"),
)

NUMBERS: tuple[PublishedNumber, ...] = (
    *_mirage("zero-shot", 0.32, 0.06, "zero-shot"),
    *_mirage("direct SFT", 0.83, 0.72, "direct-sft", "direct"),
    *_mirage("CoT SFT + GRPO", 0.85, 0.51, "direct-sft-grpo", "cot"),
    *_mirage("Anole", 0.52, 0.01),
    *_mirage("MVoT", 0.61, 0.11),
    *_mirage("Aurora", 0.71, 0.13),
    *_mirage("Mirage direct", 0.86, 0.76, "stage-2", "direct"),
    *_mirage("Mirage CoT", 0.87, 0.58, "stage-2", "cot"),
    *_mirage("Mirage CoT + GRPO", 0.89, 0.60, "grpo", "cot"),
    *_ABLATION,
    *_column("blink-jigsaw", MIRAGE_3B, {"direct SFT": 0.80, "ViGoRL": 0.56, "Mirage": 0.85}),
    *_column(
        "sat-synthetic",
        MIRAGE_3B,
        {"direct SFT": 0.82, "ViGoRL": 0.75, "MindJourney": 0.84, "Mirage": 0.85},
        of_a_part=True,
    ),
    *_column(
        "sat-real",
        MIRAGE_3B,
        {"direct SFT": 0.83, "ViGoRL": 0.67, "MindJourney": 0.73, "Mirage": 0.89},
        of_a_part=True,
    ),
    *_column("comt-geometry", MIRAGE_3B, {"Mirage": 0.77}, of_a_part=True),
    *_column(
        "vstar",
        CAPIMAGINE,
        {"Qwen2.5-VL-7B": 0.764, "LVR": 0.817, "Monet": 0.833, "DeepEyes": 0.900, "CapImagine": 0.859}
        | {"CapImagine without rewriting": 0.827, "CapImagine without filtering": 0.827},
    ),
    *_column(
        "hr-bench-8k",
        CAPIMAGINE,
        {"Qwen2.5-VL-7B": 0.638, "LVR": 0.630, "Monet": 0.680, "DeepEyes": 0.726, "CapImagine": 0.707}
        | {"CapImagine without rewriting": 0.698, "CapImagine without filtering": 0.693},
    ),
    *_column(
        "mme-realworld-lite",
        CAPIMAGINE,
        {"Qwen2.5-VL-7B": 0.458, "LVR": 0.506, "Monet": 0.469, "DeepEyes": 0.532, "CapImagine": 0.548},
    ),
    *_column(
        "blink-multi-view",
        CAPIMAGINE,
        {"Qwen2.5-VL-7B": 0.429, "LVR": 0.466, "Monet": 0.474, "CapImagine": 0.496},
    ),
)


# Benchmarks of papers that are a part of ours, or ours with other wording.
PARTS = {"sat": ("sat-real", "sat-synthetic"), "comt": ("comt-geometry",), "jigsaw": ("blink-jigsaw",)}


def numbers(benchmark: str) -> tuple[PublishedNumber, ...]:
    """Return the published numbers of one benchmark, in the papers' order.

    Numbers of a part of it are labelled with the part's name.
    """
    parts = PARTS.get(benchmark, ())
    return tuple(
        replace(number, label=f"{number.label} ({number.benchmark})") if number.benchmark in parts else number
        for number in NUMBERS
        if number.benchmark in (benchmark, *parts)
    )


def nearest(
    benchmark: str, method: str, variant: str, swept: tuple[str, float] | None = None
) -> PublishedNumber | None:
    """Return the published number of a method (same variant first), or None.

    ``swept``: the setting and its value, where a study varies one; then only numbers of that value match.
    """
    candidates = [number for number in numbers(benchmark) if number.method == method and number.swept == swept]
    return min(candidates, key=lambda number: number.variant not in (variant, None), default=None)
