"""How a stage-2 step grows with k, batch and image tokens: its time, and what it keeps for the backward pass.

``python -m bench.growth --json growth.json --plot docs/images/growth.png``. Float32, CPU, one thread, the model of
benchmarks/model.py; 180 labelled tokens a row. Three steps stand side by side at every point: plain fine-tuning,
stage 2, and stage 2 with gradient checkpointing. Times are medians of interleaved rounds; memory is what one forward
pass has allocated and not freed when it ends (the profiler's count), the weights left out.
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
from mirage_core.training.sft.losses import LossParts, relaxation_loss, text_loss

PROMPT_TEXT = 188  # tokens of a prompt beside its picture
POINTS: dict[str, list[dict[str, Any]]] = {
    "k": [{"k": k} for k in (1, 2, 4, 8, 16)],
    "batch": [{"batch": batch} for batch in (1, 2, 4, 8)],
    "image tokens": [{"image": image} for image in ((6, 8), (12, 16), (18, 24), (24, 32))],
}


def measure(repeats: int, told: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """A row a point and method: {axis, value, method, median_ms, activations_mib}."""
    torch.set_num_threads(1)
    backbone, rows = random_backbone(), []
    for axis, points in POINTS.items():
        for point in points:
            rows += measured(axis, losses(backbone, **point), value_of(point), backbone, repeats)
            told(rows[-1])
    return rows


def losses(
    backbone: Backbone, k: int = 4, batch: int = 1, image: tuple[int, int] = IMAGE
) -> dict[str, Callable[[], LossParts]]:
    """The three losses on the same rows."""
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
    axis: str, found: dict[str, Callable[[], LossParts]], value: int, backbone: Backbone, repeats: int
) -> list[dict[str, Any]]:
    """The rows of one point."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for round_ in range(repeats + 1):
        for name, loss in found.items():
            began = time.perf_counter()
            step(backbone, loss)
            if round_:
                times[name].append(time.perf_counter() - began)
    return [
        {
            "axis": axis,
            "value": value,
            "method": name,
            "median_ms": round(1e3 * statistics.median(times[name]), 1),
            "activations_mib": round(kept_bytes(loss) / 2**20, 1),
        }
        for name, loss in found.items()
    ]


def kept_bytes(loss: Callable[[], LossParts]) -> int:
    """Bytes that a forward pass leaves allocated for the backward pass, also what checkpointing holds on to."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        found = loss()
    memory = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    found.total.backward()
    return sum(memory)


def value_of(point: dict[str, Any]) -> int:
    """The number on the axis."""
    (value,) = point.values()
    return value[0] * value[1] if isinstance(value, tuple) else int(value)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Time above, activations below; a column an axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(POINTS), figsize=(12, 6), sharex="col", layout="constrained")
    for column, axis in enumerate(POINTS):
        for line, (name, label) in enumerate((("median_ms", "ms a step"), ("activations_mib", "MiB kept"))):
            panel = panels[line][column]
            for method in dict.fromkeys(row["method"] for row in rows):
                drawn = [row for row in rows if row["axis"] == axis and row["method"] == method]
                panel.plot([row["value"] for row in drawn], [row[name] for row in drawn], marker="o", label=method)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.set_ylabel(label if column == 0 else "")
            panel.set_xlabel(axis if line else "")
    panels[0][0].legend(frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds a point")
    parser.add_argument("--json", type=Path, help="where the rows go; printed when absent")
    parser.add_argument("--plot", type=Path, help="where the plot goes, a PNG")
    chosen = parser.parse_args()
    rows = measure(chosen.repeats, lambda row: print(row, flush=True))
    text = json.dumps(rows, indent=1)
    if chosen.json:
        chosen.json.write_text(text + "\n")
    else:
        print(text)
    if chosen.plot:
        plot(rows, chosen.plot)


if __name__ == "__main__":
    main()
