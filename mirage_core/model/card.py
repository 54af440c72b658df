"""The model card (README.md of a model folder): a function of mirage.json and, where there are any, of scores.

The front matter is metadata of the Hugging Face hub. A card is part of a model artifact, so its bytes enter the model's
digest: it contains no date, host or local path, and its wording must not change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mirage_core.errors import SettingsError
from mirage_core.methods import programs

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

ABOUT_FILE = "mirage.json"
CARD_FILE = "README.md"
UNKNOWN = "unknown"
_APACHE = {"license": "apache-2.0"}
_RESEARCH = {
    "license": "other",
    "license_name": "qwen-research",
    "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
}
# As stated on the models' own hub cards; models trained from scratch have this project's licence.
LICENCES: dict[str, dict[str, str]] = {
    "from_scratch": _APACHE,
    "Qwen/Qwen2.5-VL-3B-Instruct": _RESEARCH,
    "Qwen/Qwen2.5-VL-7B-Instruct": _APACHE,
    "Qwen/Qwen2.5-VL-32B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-2B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-4B-Instruct": _APACHE,
    "Qwen/Qwen3-VL-8B-Instruct": _APACHE,
}
_FRONT_MATTER_ORDER = (
    "license",
    "license_name",
    "license_link",
    "library_name",
    "pipeline_tag",
    "tags",
    "base_model",
    "base_model_relation",
)
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
_USE_WITH_ADAPTER = (
    "The weights hold what the last stage's adapters learnt; `adapter/` has them alone, in peft's form, for the model "
    "that this stage began with."
)
_USE_ADAPTER_ONLY = """Adapters alone, for the model that the last stage below began with:

```python
from peft import PeftModel
model = PeftModel.from_pretrained(begun_with, "FOLDER")
```"""


def model_card(about: Mapping[str, Any]) -> str:
    """Return the card of a model, given the content of its mirage.json.

    ``about["scores"]``: rows of the score table, as evaluations store them (``metrics.run_scores``).
    ``about["licence"]``: a licence identifier of the hub; default: the licence of the base model, if known.
    SettingsError for a mirage.json that is none of this project's.
    """
    try:
        return _card(about)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"mirage.json of the model cannot be described ({type(error).__name__}: {str(error)[:200]}): take the "
            "model folder as it was saved"
        ) from error


def _card(about: Mapping[str, Any]) -> str:
    scores: Sequence[Mapping[str, Any]] = about.get("scores", ())
    parts = [
        f"---\n{_front_matter(about, scores)}\n---",
        f"# {_title(about)}",
        _description(about),
        "## Use\n\n" + _use(about),
        "## Scores\n\n" + (_score_table(scores) if scores else NOT_EVALUATED),
        "## Data\n\n" + _data(about),
        "## Making\n\n" + _training(about),
        "## Made with\n\n" + _made_with(about),
    ]
    return "\n\n".join(parts) + "\n"


def licence_fields(about: Mapping[str, Any]) -> dict[str, str]:
    """Return the licence fields of the front matter: the chosen licence, or that of the base model."""
    if "licence" in about:
        return {"license": str(about["licence"])}
    return LICENCES.get(str(about.get("source")), {"license": UNKNOWN})


def _front_matter(about: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> str:
    """Return the hub's metadata as YAML, keys in a fixed order."""
    from huggingface_hub import ModelCardData

    source = str(about.get("source", "from_scratch"))
    fields: dict[str, Any] = {**licence_fields(about)}
    if source != "from_scratch":
        fields |= {"base_model": source, "base_model_relation": "finetune"}
    data = ModelCardData(
        **fields,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["mirage", "latent-visual-tokens"],
        model_name=_title(about) if scores else None,
        eval_results=[_eval_result(row) for row in scores] or None,
    )
    return data.to_yaml(original_order=list(_FRONT_MATTER_ORDER))


def _eval_result(row: Mapping[str, Any]) -> EvalResult:
    from huggingface_hub import EvalResult

    low, high = row["interval"]
    return EvalResult(
        task_type="image-text-to-text",
        dataset_type=row["benchmark"],
        dataset_name=f"{row['benchmark']}, level {row['level']}, {row['method']}",
        metric_type="accuracy",
        metric_value=round(row["accuracy"], 4),
        metric_name=f"accuracy (95 % interval {low:.4f} to {high:.4f}, n = {row['n']})",
    )


def _stage_title(stage: str, unknown: str | None = None) -> str:
    """Return the name of a stage of mirage.json on the card; an unknown one keeps its own, or is ``unknown``."""
    titles = {"base": "base model", "warmup": "warm-up from scratch"}
    titles |= {name: program.title for name, program in programs().items()}
    return titles.get(stage, unknown or stage)


def _title(about: Mapping[str, Any]) -> str:
    recipe = about.get("recipe", "a model")
    return f"Mirage: {recipe}, {_stage_title(str(about.get('stage')), 'a model folder')}"


_FED = {
    "own": "its own last hidden state",
    "blank": "a blank token",
    "query": "a learned token of that place",
    "code": "the entry that it chooses from a codebook of image features",
}
"""What is fed as a latent, by the stored value of latent.input."""


def _description(about: Mapping[str, Any]) -> str:
    latent, source = about.get("latent"), about.get("source", "")
    origin = "random weights" if source == "from_scratch" else str(source) or "a model folder"
    text = f"A vision-language model made from {origin} by Mirage"
    if latent is None:
        return f"{text}."
    return (
        f"{text}, which teaches a model to think in latent visual tokens: where it decides to imagine, "
        f"{_FED[latent.get('fed', 'own')]} is the next input, {latent['num_latents']} times (end: {latent['end']}), "
        "and then it goes on in text."
    )


def _use(about: Mapping[str, Any]) -> str:
    adapter = about.get("adapter", "keep" if _trained_adapters(about) else "drop")
    return {"keep": f"{_USE}\n\n{_USE_WITH_ADAPTER}", "drop": _USE, "only": _USE_ADAPTER_ONLY}[adapter]


def _trained_adapters(about: Mapping[str, Any]) -> bool:
    """Return whether the last stage trained adapters."""
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
        [_stage_title(chapter["stage"]), kind, benchmark, _counts(counts), f"`{data['digest'][:16]}`"]
        for chapter in about.get("history", ())
        for kind, data in chapter["data"].items()
        for benchmark, counts in data["counts"].items()
    ]
    if not rows:
        return "No data was used yet by this project."
    return _table(["stage", "kind", "benchmark", "rows", "sha256"], rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _training(about: Mapping[str, Any]) -> str:
    origin = [f"- begun from: {about['source']}" if "source" in about else "- begun from: a model folder"]
    origin += [
        f"- {name} of that: `{about[key]}`"
        for key, name in (("revision", "revision"), ("folder", "sha256"))
        if about.get(key)
    ]
    chapters = [_training_stage(number, chapter) for number, chapter in enumerate(about.get("history", ()), start=1)]
    settings = ["All settings of the recipe are in `mirage.json`."] if "settings" in about else []
    return "\n\n".join(["\n".join(origin), *chapters, *settings])


def _training_stage(number: int, chapter: Mapping[str, Any]) -> str:
    settings = {**chapter["settings"], "seed": chapter["seed"], "model": chapter["model"]}
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    origin = f"Begun with the model of sha256 `{chapter['begun_with']}`.\n\n" if chapter.get("begun_with") else ""
    origin += f"Arithmetic: {chapter['arithmetic']}.\n\n" if "arithmetic" in chapter else ""
    return f"### {number}. {_stage_title(chapter['stage'])}\n\n{origin}```json\n{text}\n```"


def _made_with(about: Mapping[str, Any]) -> str:
    provenance = about.get("made_with")
    if provenance is None:
        return "Not noted here: commit and versions stand in the artifact's manifest; `mirage export` joins them."
    versions = [[name, version] for name, version in provenance["versions"].items()]
    commit = f"`{provenance['commit']}`" if provenance["commit"] else "not known (an installed package)"
    return f"Commit of this project: {commit}.\n\n" + _table(["library", "version"], versions)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
