"""Requests as other programs send them are honoured by a served model, field by field.

The bodies are those of lmms-eval 0.7.3 (models/chat/openai.py) and VLMEvalKit (vlmeval/api/gpt.py, in 2026).
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import httpx
import yaml
from openai import OpenAI

from tests.serving.conftest import KEY, Served
from tests.serving.test_serve import picture

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def content(kind: str, **more: Any) -> list[dict[str, Any]]:
    url = f"data:image/{kind};base64,{base64.b64encode(picture(0)).decode()}"
    return [{"type": "image_url", "image_url": {"url": url, **more}}, {"type": "text", "text": "Which way?"}]


def test_lmms_eval_reads_text_and_counts(served: Served) -> None:
    (config,) = yaml.safe_load((EXAMPLES / "lmms-eval.yaml").read_text())
    arguments = dict(part.split("=") for part in config["model_args"].split(","))
    assert set(arguments) <= {"model_version", "base_url", "num_concurrent"}
    assert config["model"] == "openai"
    client = OpenAI(api_key=KEY, base_url=served.url)
    reply = client.chat.completions.create(
        messages=[{"role": "user", "content": content("png")}],  # type: ignore[misc,list-item]
        model="imagines", max_tokens=16, temperature=0, top_p=1.0, seed=3, n=1, frequency_penalty=0,
    )  # fmt: skip
    assert isinstance(reply.choices[0].message.content, str)
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == sum(reply.choices[0].message.latents)  # type: ignore[attr-defined]


def test_vlmevalkit_reads_the_content(served: Served) -> None:
    model = json.loads((EXAMPLES / "vlmevalkit.json").read_text())["model"]["mirage"]
    assert model["api_base"].endswith("/v1/chat/completions") and model["class"] == "GPT4V"
    body = {
        "model": "imagines", "n": 1, "temperature": model["temperature"], "max_tokens": model["max_tokens"],
        "messages": [{"role": "user", "content": content("jpeg", detail=model["img_detail"])}],
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{served.url}/chat/completions", headers=headers, content=json.dumps(body), timeout=120)
    assert reply.status_code == 200
    assert isinstance(reply.json()["choices"][0]["message"]["content"].strip(), str)


def test_the_data_of_both_clients_are_the_same_problems_with_their_pictures(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "client_mazes.py"), "tiny", "6", str(tmp_path / "data")]
    subprocess.run(command, check=True, cwd=EXAMPLES.parents[1])
    rows = datasets.Dataset.from_parquet(str(tmp_path / "data" / "mazes.parquet"), cache_dir=str(tmp_path / "cache"))
    with (tmp_path / "data" / "Mazes.tsv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(lines) == 8  # as many of each of four levels
    columns = datasets.Image(decode=False)
    for row, line in zip(rows.cast_column("image", columns), lines, strict=True):
        assert base64.b64decode(line["image"]) == row["image"]["bytes"]
        assert line["answer"] == row["answer"] and line[row["answer"]]
        assert line["question"].split()[1].rstrip(".") in row["question"]
    (task,) = (yaml.safe_load(file.read_text()) for file in (EXAMPLES / "lmms-tasks").glob("*.yaml"))
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).name == "mazes.parquet"
