"""Run in vLLM's environment: `python answer_jobs.py JOB.json OUT.json LATENTS.safetensors` answers prompts greedily.

The job names the model, the engine's settings, prompts (text, picture file, further arguments), and runs: the prompts'
numbers, and how many are asked at once.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from vllm import LLM, SamplingParams


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(
        job["model"], dtype="float32", enforce_eager=True, disable_log_stats=False, limit_mm_per_prompt={"video": 0},
        **job["engine"],
    )  # fmt: skip
    latents = _Latents(llm)
    out: dict[str, Any] = {"runs": {}}
    for name, run in job["runs"].items():
        answers = []
        for first in range(0, len(run["prompts"]), run["at_once"]):
            numbers = run["prompts"][first : first + run["at_once"]]
            part = _answer(llm, [job["prompts"][number] for number in numbers])
            latents.keep([one.pop("request") for one in part], [f"{name}/{number}" for number in numbers])
            answers += part
        out["runs"][name] = {"answers": answers, **_counters(llm)}
    Path(sys.argv[2]).write_text(json.dumps(out))
    save_file(latents.kept, sys.argv[3])


def _answer(llm: Any, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    inputs = [
        {
            "prompt": one["text"],
            "multi_modal_data": {"image": Image.open(io.BytesIO(Path(one["picture"]).read_bytes()))},
        }
        for one in prompts
    ]
    params = [
        SamplingParams(temperature=0.0, max_tokens=256, extra_args=one["arguments"], detokenize=False)
        for one in prompts
    ]
    return [
        {
            "request": found.request_id,
            "prompt": list(found.prompt_token_ids),
            "answer": list(found.outputs[0].token_ids),
        }
        for found in llm.generate(inputs, params, use_tqdm=False)
    ]


class _Latents:
    """The latents that each request was fed: read when it leaves its seat, or while it still has it."""

    def __init__(self, llm: Any) -> None:
        worker = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
        self._state = worker.model_runner.model_state
        self._leave = self._state.remove_request
        self._state.remove_request = self._remove
        self._left: dict[str, torch.Tensor] = {}
        self.kept: dict[str, torch.Tensor] = {}

    def _remove(self, request: str) -> None:
        latents = self._state.latents_of(request)
        if latents is not None:
            self._left[request] = latents.clone()
        self._leave(request)

    def keep(self, requests: list[str], names: list[str]) -> None:
        """Keep those of the requests of the last call; the engine adds letters to their names."""
        for inner in [*self._state.requests]:
            self._remove(inner)
        found = {inner.rpartition("-")[0]: latents for inner, latents in self._left.items()}
        self.kept |= {name: found[request] for request, name in zip(requests, names, strict=True)}
        self._left.clear()


def _counters(llm: Any) -> dict[str, int]:
    found = {metric.name: getattr(metric, "value", 0) for metric in llm.get_metrics()}
    return {name: int(found[f"vllm:{name}"]) for name in ("prefix_cache_hits", "num_preemptions")}


if __name__ == "__main__":
    main()
