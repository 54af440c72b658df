"""The model card, README.md of a model folder: a function of what mirage.json says, and of scores where there are any.

The front matter is what the Hugging Face hub reads. No date, no host, no path of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

CARD_FILE = "README.md"
UNKNOWN = "unknown"
_APACHE = {"license": "apache-2.0"}
_RESEARCH = {
    "license": "other",
    "license_name": "qwen-research",
    "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
}
# Of the models' own cards on the hub; from scratch: this project's licence.
LICENCES: dict[str, dict[str, str]] = {
    "from_scratch": _APACHE,
    "Qwen/Qwen2.5-VL-3B-Instruct": _RESEARCH,
    "Qwen/Qwen2.5-VL-7B-Instruct": _APACHE,
    "Qwen/Qwen2.5-VL-32B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-2B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-4B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-8B-Instruct": _APACHE,
}
NAMES = {
    "base": "base model",
    "warmup": "warm-up from scratch",
    "text": "supervised fine-tuning on text",
    "capimagine": "imagination as text",
    "grounding": "stage 1, grounding",
    "relaxation": "stage 2, relaxation",
    "grpo": "stage 3, GRPO",
}
NOT_EVALUATED = "Not evaluated yet. `mirage export` and `mirage push` add the newest evaluation's scores."

_USE = """With latents, by this project (settings are read from `mirage.json`):

```bash
mirage answer FOLDER picture.png "What is asked about it?"
```

For text alone, by stock transformers:

```python
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained("FOLDER")
```"""
_ADAPTER_TOO = (
    "The weights hold what the last stage's adapters learnt; `adapter/` has them alone, in peft's form, for the model "
    "that this stage began with."
)
_ADAPTER_ONLY = """Adapters alone, for the model that the last stage below began with:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(begun_with, "FOLDER")
```"""


def model_card(about: Mapping[str, Any]) -> str:
    """The card of a model out of its mirage.json.

    ``about["scores"]``: rows of the score table, as evaluations keep them (``metrics.run_scores``).
    ``about["licence"]``: an identifier of the hub's list; by default that of the base model where it is known.
    """
    scores: Sequence[Mapping[str, Any]] = about.get("scores", ())
    parts = [
        f"---\n{_front_matter(about, scores)}---",
        f"# {_title(about)}",
        _what_it_is(about),
        "## Use\n\n" + _use(about),
        "## Scores\n\n" + (_score_table(scores) if scores else NOT_EVALUATED),
        "## Data\n\n" + _data(about),
        "## Making\n\n" + _making(about),
        "## Made with\n\n" + _made_with(about),
    ]
    return "\n\n".join(parts) + "\n"


def licence_of(about: Mapping[str, Any]) -> dict[str, str]:
    """The licence as the hub's front matter has it: the one chosen, or that of the model it all began with."""
    if "licence" in about:
        return {"license": str(about["licence"])}
    return LICENCES.get(str(about.get("source")), {"license": UNKNOWN})


def _front_matter(about: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> str:
    source = str(about.get("source", "from_scratch"))
    matter: dict[str, Any] = {
        **licence_of(about),
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["mirage", "latent-visual-tokens"],
    }
    if source != "from_scratch":
        matter |= {"base_model": source, "base_model_relation": "finetune"}
    if scores:
        matter["model-index"] = [{"name": _title(about), "results": [_result(row) for row in scores]}]
    text: str = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    return text


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["interval"]
    name = f"{row['benchmark']}, level {row['level']}, {row['method']}"
    return {
        "task": {"type": "image-text-to-text"},
        "dataset": {"name": name, "type": row["benchmark"]},
        "metrics": [
            {
                "type": "accuracy",
                "value": round(row["accuracy"], 4),
                "name": f"accuracy (95 % interval {low:.4f} to {high:.4f}, n = {row['n']})",
            }
        ],
    }


def _title(about: Mapping[str, Any]) -> str:
    recipe = about.get("recipe", "a model")
    return f"Mirage: {recipe}, {NAMES.get(str(about.get('stage')), 'a model folder')}"


def _what_it_is(about: Mapping[str, Any]) -> str:
    latent, source = about.get("latent"), about.get("source", "")
    made = "random weights" if source == "from_scratch" else str(source) or "a model folder"
    text = f"A vision-language model made from {made} by Mirage"
    if latent is None:
        return f"{text}."
    return (
        f"{text}, which teaches a model to think in latent visual tokens: where it decides to imagine, its own last "
        f"hidden state is the next input, {latent['num_latents']} times (end: {latent['end']}), and then it goes on "
        "in text."
    )


def _use(about: Mapping[str, Any]) -> str:
    told = about.get("adapter", "keep" if _adapted(about) else "drop")
    return {"keep": f"{_USE}\n\n{_ADAPTER_TOO}", "drop": _USE, "only": _ADAPTER_ONLY}[told]


def _adapted(about: Mapping[str, Any]) -> bool:
    """Whether the last stage trained adapters."""
    return any(chapter["model"]["lora"] is not None for chapter in about.get("history", ())[-1:])


def _score_table(scores: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in scores:
        low, high = row["interval"]
        interval = f"{low:.1%} to {high:.1%}"
        cells = [row["benchmark"], row["level"], row["method"], f"{row['accuracy']:.1%}", interval, row["n"]]
        rows.append([*cells, row["unparsed"], row.get("rule") or ""])
    header = ["benchmark", "level", "method", "accuracy", "95 % interval", "n", "unparsed", "rule"]
    return _table(header, rows)


def _data(about: Mapping[str, Any]) -> str:
    rows = [
        [NAMES.get(chapter["stage"], chapter["stage"]), kind, benchmark, _counts(counts), f"`{data['digest'][:16]}`"]
        for chapter in about.get("history", ())
        for kind, data in chapter["data"].items()
        for benchmark, counts in data["counts"].items()
    ]
    if not rows:
        return "No data was used yet by this project."
    return _table(["stage", "kind", "benchmark", "rows", "sha256"], rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _making(about: Mapping[str, Any]) -> str:
    begun = [f"- begun from: {about['source']}" if "source" in about else "- begun from: a model folder"]
    begun += [
        f"- {name} of that: `{about[key]}`"
        for key, name in (("revision", "revision"), ("folder", "sha256"))
        if about.get(key)
    ]
    chapters = [_chapter(number, chapter) for number, chapter in enumerate(about.get("history", ()), start=1)]
    whole = ["All settings of the recipe are in `mirage.json`."] if "settings" in about else []
    return "\n\n".join(["\n".join(begun), *chapters, *whole])


def _chapter(number: int, chapter: Mapping[str, Any]) -> str:
    told = {**chapter["settings"], "seed": chapter["seed"], "model": chapter["model"]}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    begun = f"Begun with the model of sha256 `{chapter['begun_with']}`.\n\n" if chapter.get("begun_with") else ""
    return f"### {number}. {NAMES.get(chapter['stage'], chapter['stage'])}\n\n{begun}```json\n{text}\n```"


def _made_with(about: Mapping[str, Any]) -> str:
    made = about.get("made_with")
    if made is None:
        return "Not noted here: commit and versions stand in the artifact's manifest; `mirage export` joins them."
    versions = [[name, number] for name, number in made["versions"].items()]
    said = f"`{made['commit']}`" if made["commit"] else "not known (an installed package)"
    return f"Commit of this project: {said}.\n\n" + _table(["library", "version"], versions)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
