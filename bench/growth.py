"""How a stage-2 step grows with k, batch and image tokens: its time, and the activations it saves.

``python -m bench.growth --json growth.json --plot docs/images/growth.png``. Float32, CPU, one thread, the model of
bench/model.py; 180 labelled tokens a row. Three steps are compared at every point: plain fine-tuning, stage 2, and
stage 2 with gradient checkpointing. Times are medians of interleaved rounds; memory is what a forward pass allocated
and did not free when it ends (counted by the profiler), without the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.latent import step
from bench.model import IDS, IMAGE, Rows, random_backbone
from mirage_core.latent.collate import collate
from mirage_core.model.backbone import Backbone
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.losses import relaxation_loss, text_loss

PROMPT_TEXT = 188  # tokens of a prompt besides its image
POINTS: dict[str, list[dict[str, Any]]] = {
    "k": [{"k": k} for k in (1, 2, 4, 8, 16)],
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8)],
    "image tokens": [{"image": image} for image in ((6, 8), (12, 16), (18, 24), (24, 32))],
}


def measure(repeats: int, on_row: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Measure a row for each point and method: {axis, value, method, median_ms, activations_mib}."""
    torch.set_num_threads(1)
    backbone, rows = random_backbone(), []
    for axis, points in POINTS.items():
        for point in points:
            rows += measured(axis, losses(backbone, **point), value_of(point), backbone, repeats)
            on_row(rows[-1])
    return rows


def losses(
    backbone: Backbone, k: int = 4, batch: int = 1, image: tuple[int, int] = IMAGE
) -> dict[str, Callable[[], LossParts]]:
    """Return the three losses on the same rows."""
    source = Rows(image=image)
    prompt = PROMPT_TEXT + image[0] * image[1]
    examples = [source.example(k, before=60 + 10 * row, prompt=prompt) for row in range(batch)]
    plain = collate(examples, IDS, backbone.position_ids, align=False)
    aligned = collate(examples, IDS, backbone.position_ids)
    return {
        "plain fine-tuning": partial(text_loss, backbone, plain),
        "stage 2": partial(relaxation_loss, backbone, aligned),
        "stage 2, checkpointed": partial(relaxation_loss, backbone, aligned, checkpointing=True),
    }


def measured(
    axis: str, losses: dict[str, Callable[[], LossParts]], value: int, backbone: Backbone, repeats: int
) -> list[dict[str, Any]]:
    """Measure the rows of one point."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    for round_ in range(repeats + 1):
        for name, loss in losses.items():
            start = time.perf_counter()
            step(backbone, loss)
            if round_:
                times[name].append(time.perf_counter() - start)
    return [
        {
            "axis": axis,
            "value": value,
            "method": name,
            "median_ms": round(1e3 * statistics.median(times[name]), 1),
            "activations_mib": round(saved_bytes(loss) / 2**20, 1),
        }
        for name, loss in losses.items()
    ]


def saved_bytes(loss: Callable[[], LossParts]) -> int:
    """Return the bytes that a forward pass leaves allocated for the backward pass, checkpoints included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        parts = loss()
    memory = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    parts.total.backward()
    return sum(memory)


def value_of(point: dict[str, Any]) -> int:
    """Return the number on the axis."""
    (value,) = point.values()
    return value[0] * value[1] if isinstance(value, tuple) else int(value)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot time above and activations below, one column for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(POINTS), figsize=(12, 6), sharex="col", layout="constrained")
    for column, axis in enumerate(POINTS):
        for line, (name, label) in enumerate((("median_ms", "ms a step"), ("activations_mib", "MiB saved"))):
            panel = panels[line][column]
            for method in dict.fromkeys(row["method"] for row in rows):
                points = [row for row in rows if row["axis"] == axis and row["method"] == method]
                panel.plot([row["value"] for row in points], [row[name] for row in points], marker="o", label=method)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.set_ylabel(label if column == 0 else "")
            panel.set_xlabel(axis if line else "")
    panels[0][0].legend(frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds a point")
    parser.add_argument("--json", type=Path, help="where the rows go; printed when absent")
    parser.add_argument("--plot", type=Path, help="where the plot goes, a PNG")
    arguments = parser.parse_args()
    rows = measure(arguments.repeats, lambda row: print(row, flush=True))
    text = json.dumps(rows, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    else:
        print(text)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
