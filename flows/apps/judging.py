"""``mirage evaluate``, ``answer``, ``diagnose``, ``score``, ``compare``: judge a model or the answers of any system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import (
    CheckpointOption,
    DirectOption,
    JsonOption,
    RecipeOption,
    SaveOption,
    SetsOption,
    StoreOption,
)

RuleOption = Annotated[
    str | None, typer.Option(help="The scoring rule; official: the authors' own. [default: the benchmark's first]")
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Score by the official rule, and ask a judge model at this endpoint where that rule does not decide.",
    ),
]
JudgeModelOption = Annotated[str | None, typer.Option(help="With --judge: the judge's name at the endpoint.")]

PromptOption = Annotated[
    str | None,
    typer.Option(
        help="With --endpoint: official (the benchmark's own), benchmark or short (our models'). "
        "[default: what a model behind `mirage serve` was trained on; else benchmark]"
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(help="With --endpoint: cot asks for a chain of thought first. [default: as for --prompt; else cot]"),
]


def evaluate(
    benchmark: Annotated[
        str,
        typer.Option(help="The benchmark: vsp-planning, sat, vstar, hr-bench-8k, ..., own, or your custom task."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Its rows in the published layout: a file, a folder or a hub id. [default: the test problems]"
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    method: Annotated[
        str | None, typer.Option(help="The method that answers. [default: the one the checkpoint was trained by]")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Judge a model behind an OpenAI-compatible API instead.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --endpoint: the model's name there. [default: the only one it lists]")
    ] = None,
    prompt: PromptOption = None,
    variant: VariantOption = None,
    blank: Annotated[
        bool, typer.Option("--blank", help="With --endpoint: grey pictures, to see what accuracy needs no picture.")
    ] = False,
    rule: RuleOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    levels: Annotated[
        str | None,
        typer.Option(metavar="7,8", help="New VSP problems of these levels (3 to 16), instead of the test problems."),
    ] = None,
    per_level: Annotated[int, typer.Option(min=1, help="With --levels: problems of each.")] = 100,
    sets: SetsOption = None,
    save: SaveOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a model on a benchmark: accuracy with 95 % intervals for every level.

    Example: mirage evaluate --benchmark vsp-planning --save answers.parquet
    """
    from flows.commands import evaluate as command

    if endpoint is not None:
        command.evaluate_hosted(
            endpoint, model, benchmark, data, prompt=prompt, variant=variant, blank=blank, rule=rule, judge=judge,
            judge_model=judge_model, sets=sets or [], save=save, store=store, as_json=as_json,
        )  # fmt: skip
        return
    if sets or model or blank:
        raise typer.BadParameter("--set, --model and --blank belong to --endpoint")
    sizes = [int(level) for level in (levels or "").split(",") if level.strip().isdecimal()]
    if levels and (data is not None or len(sizes) != len(levels.split(","))):
        raise typer.BadParameter(f"--levels is {levels}: expected numbers such as 7,8, and no --data")
    command.evaluate(
        benchmark, data, checkpoint, method, store, rule=rule, judge=judge, judge_model=judge_model, levels=sizes,
        per_level=per_level, save=save, as_json=as_json,
    )  # fmt: skip


def answer(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] IMAGE [QUESTION]",
            help="A model folder, the image (PNG or JPEG), and the question. "
            "[default: the furthest trained model of the newest run; the benchmark's own prompt]",
        ),
    ],
    benchmark: Annotated[
        str | None,
        typer.Option(help="The benchmark whose prompt and rules apply. [default: the one the model was trained on]"),
    ] = None,
    checkpoint: CheckpointOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Ask again with the latents changed, and write a page about it.")
    ] = False,
    page: Annotated[Path, typer.Option(help="With --explain: the file of the page.")] = Path("mirage-answer.html"),
    open_page: Annotated[bool, typer.Option("--open", help="With --explain: open the page in a browser.")] = False,
    store: StoreOption = None,
) -> None:
    """Ask a model one question about one image; print its answer, with a mark for every latent span.

    Example: mirage answer .mirage/models/tiny map.png
    """
    from flows.commands import answer as command

    model, image, question = command.parse_words(words, checkpoint)
    command.answer(image, question, benchmark, model, store, page=page if explain else None, open_page=open_page)


def diagnose(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model: an artifact, the start of its digest, a pointer, or a folder. [default: the recipe's]",
        ),
    ] = None,
    recipe: RecipeOption = "tiny",
    sets: SetsOption = None,
    method: Annotated[
        str | None, typer.Option(help="The method whose model is used. [default: the furthest with latents]")
    ] = None,
    problems: Annotated[str | None, typer.Option(help="Problems: an artifact. [default: the model's own]")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Or the rows of this benchmark, such as vstar.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --benchmark: its rows in the published layout. [default: its hub id]")
    ] = None,
    measures: Annotated[
        str | None, typer.Option(metavar="A,B", help="Measures to take. [default: those of analysis.measures]")
    ] = None,
    direct: DirectOption = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether a model's latents carry the input and drive the answer; write a page.

    Every figure has an interval and a control. Example: mirage diagnose nightly --measures interventions --direct.
    A folder, of LVR or Monet too, is copied into the store: mirage diagnose FOLDER --benchmark vstar --direct
    """
    from flows.commands import diagnose as command

    command.diagnose(
        model, recipe, sets or [], method, problems, measures, store, benchmark=benchmark, data=data, direct=direct,
        as_json=as_json, open_page=open_page,
    )  # fmt: skip


def score(
    benchmark: Annotated[str, typer.Option(help="The benchmark of the problems, rows and rules.")],
    predictions: Annotated[Path, typer.Option(help="A JSONL file of {row, output}; rows count from 0.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The benchmark's rows: a file, a folder or a hub id. [default: the test problems]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="The name of the system. [default: the file's name]")] = None,
    rule: RuleOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    partial: Annotated[bool, typer.Option("--partial", help="Score the rows given; others may be missing.")] = False,
    save: SaveOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score the answers of another system, with the scorers and intervals of every evaluation.

    Example: mirage score --benchmark vsp-planning --data rows.parquet --predictions answers.jsonl
    """
    from flows.commands import score as command

    command.score(
        benchmark, data, predictions, method=method, rule=rule, judge=judge, judge_model=judge_model, partial=partial,
        save=save, store=store, as_json=as_json,
    )  # fmt: skip


def compare(
    first: Annotated[str, typer.Argument(help="An evaluation, a model, a parquet or JSONL file of predictions.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    benchmark: Annotated[str | None, typer.Option(help="The benchmark that JSONL files answer.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The benchmark's rows; also shows the problems of parquet files on the page.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="The scoring rule of JSONL files. [default: the first]")] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare only the problems that both answered.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write a page with the trajectories side by side.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Problems on the page.")] = 24,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two systems on the same problems: accuracies, McNemar's test, and which problems flipped.

    Example: mirage compare direct.parquet latent.parquet --page compare.html
    """
    from flows.commands import compare as command

    command.compare(
        (first, second), benchmark, data, rule=rule, common=common, page=page, shown=shown, store=store, as_json=as_json
    )
