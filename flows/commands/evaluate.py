"""``mirage evaluate``: judge a trained model, or one behind an endpoint, on a benchmark's problems."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from rich.table import Table

from flows.commands.printing import console, log_progress, no_progress, print_line, stderr
from flows.commands.session import connect_to_prefect
from flows.trained import artifact_of, find_checkpoint, newest_trained, use_task
from mirage_core import benchmarks
from mirage_core.benchmarks.auxiliary_input import has_auxiliary_input
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.benchmarks.judge import judged_again
from mirage_core.config import ProblemSettings, Settings, as_recipe
from mirage_core.errors import DataError, InputError
from mirage_core.evaluation.endpoint import Form, HostedModel, evaluate_endpoint, listed_model
from mirage_core.evaluation.judge_model import JudgeModel, judge_by_model
from mirage_core.evaluation.summary import metrics_of
from mirage_core.llm_client.secrets import use_key_reader
from mirage_core.llm_client.served_model import ServedModel
from mirage_core.methods import get_method
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions, load_problems, save_predictions
from mirage_core.types import Problem, Scored, Variant
from tasks.paths import open_store
from tasks.secrets import read_key

ENDPOINT_RECIPE = "qwen2.5-vl-7b"
"""The recipe whose settings apply to a model behind an endpoint, unless --set says otherwise: greedy, 1,024 tokens."""

GENERATED = ("vsp_planning", "vsp_reasoning")
"""The sections whose problems are generated, level by level."""


def evaluate(
    benchmark: str,
    data: Path | None,
    reference: str | None,
    method: str | None,
    store: str | None,
    *,
    rule: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    levels: Sequence[int] = (),
    per_level: int = 100,
    save: Path | None = None,
    as_json: bool,
) -> None:
    """Answer the problems with a trained model, judge, and print accuracy with its interval for every level.

    ``levels``: not those of the run, but new ones of these levels, ``per_level`` each.
    """
    opened = open_store(store)
    use_task(benchmark, reference, opened)
    known = None if levels else problems_of(benchmark, data, opened)
    checkpoint = find_checkpoint(reference, method, opened)
    problems, source = known or new_problems(benchmark, levels, per_level, checkpoint.settings)
    check_auxiliary_input(checkpoint.method, problems)
    stderr.print(f"{checkpoint.name} ({checkpoint.method}) on {len(problems)} problems of {source}", markup=False)

    from mirage_core.evaluation.evaluate import evaluate as answer_all

    use = Rescoring.of(benchmark, rule, judge, judge_model, [], opened)
    with tempfile.TemporaryDirectory(prefix="mirage-evaluate-") as folder:
        metrics = answer_all(
            checkpoint.folder,
            problems,
            settings=checkpoint.settings,
            method=checkpoint.method,
            latents=get_method(checkpoint.method).latents,
            output=Path(folder) / "output",
            scratch=Path(folder) / "scratch",
            progress=log_progress,
        )
        if use is not None:
            scored, extra = use.applied(load_predictions(Path(folder) / "output"), problems)
            save_predictions(Path(folder) / "output" / PREDICTIONS_FILE, scored)
            metrics = {**metrics, **metrics_of(scored, method=metrics["method"], latents=metrics["latents"]), **extra}
        if save is not None:
            shutil.copyfile(Path(folder) / "output" / PREDICTIONS_FILE, save)
    show({"benchmark": benchmark, "checkpoint": checkpoint.name, "data": source, **metrics}, as_json=as_json)


def evaluate_hosted(
    endpoint: str,
    model: str | None,
    benchmark: str,
    data: Path | None,
    *,
    prompt: str | None,
    variant: str | None,
    blank: bool = False,
    rule: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    sets: list[str],
    save: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Ask a model behind an OpenAI-compatible endpoint every problem, judge, and print the metrics."""
    with use_key_reader(read_key):
        hosted, settings = hosted_model(endpoint, model, prompt, variant, sets)
        hosted = replace(hosted, blank=blank)
        opened = open_store(store)
        use_task(benchmark, None, opened)
        problems, source = problems_of(benchmark, data, opened)
        stderr.print(f"{hosted.model} at {endpoint} on {len(problems)} problems of {source}", markup=False)
        use = Rescoring.of(benchmark, rule, judge, judge_model, sets, opened)
        result = evaluate_endpoint(hosted, problems, settings.runtime.teacher, opened, log_progress)
        scored, metrics = result.scored, result.metrics
        if use is not None:
            scored, extra = use.applied(scored, problems)
            metrics = {**metrics, **metrics_of(scored, method=hosted.method, latents=metrics["latents"]), **extra}
    if save is not None:
        save_predictions(save, scored)
    show({"benchmark": benchmark, "model": hosted.model, "data": source, **metrics}, as_json=as_json)


def hosted_model(
    endpoint: str, model: str | None, prompt: str | None, variant: str | None, sets: list[str]
) -> tuple[HostedModel, Settings]:
    """Return the hosted model and the settings of its endpoint; InputError for an unknown prompt or variant.

    Without ``model`` or ``prompt`` the endpoint is asked for its models, and one of this project for how it is used.
    """
    for word, known in ((prompt, get_args(Form)), (variant, get_args(Variant))):
        if word not in (None, *known):
            raise InputError(f"got {word!r}, expected one of {', '.join(known)}")
    address = f"runtime.teacher.base_url={endpoint}"
    settings, listed = load(ENDPOINT_RECIPE, [*sets, address]), None
    if settings.runtime.teacher.api_key_block is not None:
        connect_to_prefect()
    if model is None or prompt is None:
        listed = listed_model(settings.runtime.teacher, model)
    served = listed.mirage if listed else None
    settings = load(ENDPOINT_RECIPE, [*(own_use(served) if served else ()), *sets, address])
    hosted = HostedModel(
        model=model or listed.id,  # type: ignore[union-attr]  # listed, or an error, without a name
        form=prompt or (served.prompt if served else "benchmark"),  # type: ignore[arg-type]  # checked above
        variant=variant or (served.variant if served else "cot"),  # type: ignore[arg-type]
        evaluation=settings.evaluation,
        seed=None if settings.teacher.seed is None else settings.seed,
        revision=f"started at {listed.created}" if listed and served else settings.teacher.revision,
        max_tokens_field=settings.teacher.max_tokens_field,
        served=served,
    )
    return hosted, settings


def own_use(served: ServedModel) -> list[str]:
    """Return the overrides by which a model of this project is evaluated as its own settings say."""
    use = {
        "max_new_tokens": served.max_tokens, "temperature": served.temperature, "top_p": served.top_p,
        "planning_rule": served.planning_rule,
    }  # fmt: skip
    return [f"evaluation.{name}={value}" for name, value in use.items()]


@dataclass(frozen=True, slots=True)
class Rescoring:
    """Another rule than the default, or the official one with a judge model, for answers that are there."""

    rule: str
    judge: JudgeModel | None
    store: Store

    @classmethod
    def of(
        cls, benchmark: str, rule: str | None, url: str | None, model: str | None, sets: list[str], store: Store
    ) -> Rescoring | None:
        """The rescoring that the options ask for, None if they ask for none; InputError if they do not fit together."""
        if (url is None) != (model is None):
            raise InputError("--judge needs --judge-model, the judge's name at that endpoint, and the other way round")
        if url is None or model is None:
            return None if rule is None else cls(benchmarks.get(benchmark).rule_of(rule), None, store)
        official = benchmarks.get(benchmark).rule_of(benchmarks.OFFICIAL)
        if rule not in (None, benchmarks.OFFICIAL, official):
            raise InputError(f"--judge belongs to the official rule ({official}), got --rule {rule}")
        if benchmarks.get(benchmark).undecided is None:
            raise InputError(f"the authors of {benchmark} ask no judge model: leave --judge out")
        runtime = load(ENDPOINT_RECIPE, [*sets, f"runtime.teacher.base_url={url}"]).runtime.teacher
        return cls(official, JudgeModel(model, runtime), store)

    def applied(self, scored: Sequence[Scored], problems: Sequence[Problem]) -> tuple[list[Scored], dict[str, Any]]:
        """The scores under the rule, and the judge's account under the key ``judge``."""
        if self.judge is None:
            return judged_again(scored, problems, self.rule), {}
        with use_key_reader(read_key):
            judged = judge_by_model(scored, problems, self.judge, self.store, log_progress)
        return judged.scored, {"judge": judged.account}


def check_auxiliary_input(method: str, problems: Sequence[Problem]) -> None:
    """InputError where a method that needs the auxiliary image as an input gets problems without one."""
    if get_method(method).problems != "problems" and not all(has_auxiliary_input(problem) for problem in problems):
        raise InputError(
            f"the method {method} needs the auxiliary image as an input, and some of these problems have none: get "
            f"its scores with `mirage run --set 'evaluation.methods=[{method}]'`, or with a study"
        )


def show(metrics: dict[str, Any], *, as_json: bool) -> None:
    """Print the metrics; also the score over all orders of the options where the benchmark asks in several."""
    if as_json:
        console.print_json(json.dumps(metrics))
        return
    console.print(metrics_table(metrics))
    for row in metrics.get("protocols", []):
        if row["group"] == "all":
            print_line(protocol_line(row))
    if "judge" in metrics:
        print_line(judge_line(metrics["judge"]))


def judge_line(judge: dict[str, Any]) -> str:
    """Return what a judge model was asked, decided and cost as one line."""
    account = judge["account"]
    tokens = account["prompt_tokens"] + account["completion_tokens"]
    return (
        f"judge {judge['model']}: asked about {judge['asked']} answers, decided {judge['decided']}; {tokens:,} tokens, "
        f"{account['kept_answers']} from the cache, cost {account['cost_now']:g} now, {account['cost']:g} in all"
    )


def protocol_line(row: dict[str, Any]) -> str:
    """Return a protocol score as one line."""
    low, high = row["interval"]
    return (
        f"{row['protocol']}: mean over {row['orders']} orders {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) of "
        f"{row['questions']} questions; right in every order {row['consistent']:.1%}"
    )


def problems_of(benchmark: str, data: Path | None, store: Store) -> tuple[list[Problem], str]:
    """Return the problems to answer, and their source; DataError when there are none."""
    rules = benchmarks.get(benchmark)
    if data is not None:
        return rules.load(data), str(data)
    if benchmark in benchmarks.PUBLIC and rules.source:
        return rules.load(Path(rules.source)), rules.source
    record = newest_trained(store)
    artifact = artifact_of(store, record, "problems")
    problems = [each for each in load_problems(store.fetch(artifact), split="test") if each.benchmark == benchmark]
    if not problems:
        raise DataError(f"{artifact.path} holds no test problems of {benchmark}: give a file with --data")
    return problems, f"{artifact.path} (test)"


def new_problems(
    benchmark: str, levels: Sequence[int], per_level: int, settings: Settings
) -> tuple[list[Problem], str]:
    """Generate test problems of these levels, as the settings' seed and sizes give them, and say so.

    InputError for a benchmark whose problems are not generated level by level, and for levels outside of it.
    """
    section = benchmark.replace("-", "_")
    if section not in GENERATED:
        known = ", ".join(name.replace("_", "-") for name in GENERATED)
        raise InputError(f"--levels makes new problems of {known}; got {benchmark}: give its rows with --data")
    base = getattr(settings.problems, section) or getattr(ProblemSettings(), section)
    few = {"test_levels": tuple(levels), "test_per_level": per_level, "train": 0, "validation": 0}
    alone: dict[str, Any] = dict.fromkeys(GENERATED)
    try:
        alone[section] = type(base).model_validate({**as_recipe(base), **few})
    except ValidationError as error:
        raise InputError(f"--levels {','.join(map(str, levels))}: {error.errors()[0]['msg']}") from error
    problems = generate_problems(settings.problems.model_copy(update=alone), settings.seed, no_progress)
    return problems, f"{len(problems)} new problems of levels {', '.join(map(str, levels))}"


def metrics_table(metrics: dict[str, Any]) -> Table:
    """Return one row per level."""
    table = Table(
        "level", "accuracy", "95 % interval", "n", "unparsed", "used latents", "rule", box=None, pad_edge=False
    )
    for row in metrics["rows"]:
        low, high = row["interval"]
        table.add_row(
            str(row["group"]).removeprefix("level-"), f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}",
            str(row["n"]), str(row["unparsed"]), f"{row['latent_share']:.0%}", row["rule"],
        )  # fmt: skip
    return table
