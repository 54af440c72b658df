"""The latent lens applied to a clean run, by the model that generated it: some answers in full, all in figures.

Legend: N instances with a span, K latents of a span, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mirage_core.analysis.bootstrap import share
from mirage_core.analysis.collect import CleanRun
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.intervened_generation import InterventionRunner
from mirage_core.analysis.lens.lens import (
    EncodedImage,
    LatentLens,
    WordLens,
    correlation,
    cosine_map,
    image_lens,
    word_lenses,
)
from mirage_core.analysis.lens.patch_matching import Match, fits_of, match
from mirage_core.analysis.lens.pca import Projection, project
from mirage_core.analysis.lens.results import (
    AUXILIARY,
    INPUT,
    LensResult,
    PositionSummary,
    ShownAnswer,
    named_images,
)
from mirage_core.config import InferenceSettings, Settings
from mirage_core.evaluation.pictures import Units, picture_units, subset
from mirage_core.evaluation.sample_selection import select_samples
from mirage_core.latent.encoder import Encoder
from mirage_core.model.loading import LoadedModel
from mirage_core.types import Problem, Scored

NUM_SHOWN = 4


@dataclass(frozen=True, slots=True)
class LensInputs:
    """Latents [N, K, D], the mean latents [K, D], the images of each instance, and the mean patch [D] by image kind."""

    latents: Tensor
    mean: Tensor
    images: tuple[tuple[EncodedImage, ...], ...]
    mean_patch: Mapping[str, Tensor]


def collect_lens(
    loaded: LoadedModel,
    settings: Settings,
    clean_run: CleanRun,
    problems: Sequence[Problem],
    auxiliary: Mapping[str, bytes],
    reader: ImaginationReader | None = None,
) -> LensResult:
    """Apply the lens to the latents of a clean run.

    ``problems`` are those collected from; ``auxiliary``: auxiliary images by problem id, where there are any;
    ``reader`` reads the films of the answers shown in full.
    """
    used = [int(index) for index in clean_run.with_span()]
    instances = clean_run.instances(problems)
    if not used:
        return LensResult(
            instances=len(instances), used=0, num_latents=0, shown=(), summary=(), matches=(), projection=None
        )
    with torch.inference_mode():
        images = [encode_images(loaded, settings, instances[at], auxiliary.get(instances[at].id)) for at in used]
        inputs = lens_inputs(clean_run.latents[used].to(loaded.backbone.device), images)
        words = nearest_words(loaded, inputs.latents, inputs.mean)
        scored = [clean_run.scored[at] for at in used]
        units, seed = picture_units([instances[at] for at in used]), settings.analysis.seed
        return LensResult(
            instances=len(instances),
            used=len(used),
            num_latents=clean_run.num_latents,
            shown=_shown(scored, inputs, words, settings, _films(reader, [instances[at] for at in used])),
            summary=tuple(_summary(index, inputs, words, units) for index in range(clean_run.num_latents)),
            matches=tuple(_matches(inputs, seed, units)),
            projection=_projection(clean_run, used, seed, units),
        )


def with_shown_answers(
    result: LensResult,
    runner: InterventionRunner,
    settings: Settings,
    clean_run: CleanRun,
    instances: Sequence[Problem],
    chosen: Sequence[Problem],
    auxiliary: Mapping[str, bytes],
    reader: ImaginationReader | None = None,
) -> LensResult:
    """Replace the answers that a lens result shows in full by new answers to ``chosen``.

    The mean latents and the mean patches of input images stay those of the clean run.
    """
    used = [int(index) for index in clean_run.with_span()]
    num_latents = result.num_latents
    generated = runner.generate(chosen)
    answers = [each for each in generated if each.latents is not None and len(each.latents) == num_latents]
    if not used or not answers:
        return result.model_copy(update={"shown": ()})
    loaded, known = runner.loaded, {problem.id: problem for problem in chosen}
    with torch.inference_mode():
        clean_images = [encode_images(loaded, settings, instances[at], None) for at in used]
        clean = lens_inputs(clean_run.latents[used].to(loaded.backbone.device), clean_images)
        ids = [answer.prediction.problem_id for answer in answers]
        images = [encode_images(loaded, settings, known[name], auxiliary.get(name)) for name in ids]
        latents = torch.stack([answer.latents for answer in answers if answer.latents is not None])
        inputs = lens_inputs(latents.to(clean.mean.device), images, mean=clean.mean)
        inputs = replace(inputs, mean_patch={**inputs.mean_patch, **clean.mean_patch})
        words = nearest_words(loaded, inputs.latents, inputs.mean)
        film = _films(reader, [known[name] for name in ids])
        shown = tuple(
            shown_answer((answer.prediction, answer.score), latent_lenses(inputs, at, words[at]), film(at, inputs))
            for at, answer in enumerate(answers)
        )
    return result.model_copy(update={"shown": shown})


def encode_images(
    loaded: LoadedModel, settings: Settings, problem: Problem, auxiliary: bytes | None
) -> tuple[EncodedImage, ...]:
    """Encode the images of a problem, and its auxiliary image, by the model's own vision tower."""
    inference = InferenceSettings.from_metadata(loaded.about, settings)
    encoder = Encoder(loaded.processor, inference.latent, inference.prompt, inference.variant)
    merge = int(loaded.processor.image_processor.merge_size)
    encoded: list[EncodedImage] = []
    for name, image in named_images(problem, auxiliary).items():
        pixels, grids = encoder.pixels((image,), f"the image {name!r} of problem {problem.id}")
        features = loaded.backbone.image_features(pixels, grids)[0]
        grid = (int(grids[0, 1]) // merge, int(grids[0, 2]) // merge)
        encoded.append(EncodedImage(name=name, patches=loaded.backbone.merged(features).float(), grid=grid))
    return tuple(encoded)


def lens_inputs(latents: Tensor, images: Sequence[tuple[EncodedImage, ...]], mean: Tensor | None = None) -> LensInputs:
    """Latents [N, K, D] and images with their means; patches of input and auxiliary images have means of their own.

    ``mean`` [K, D]: the mean latents, where they are not those of ``latents``.
    """
    kinds = {_kind(image.name) for own in images for image in own}
    mean_patch = {
        kind: torch.cat([image.patches for own in images for image in own if _kind(image.name) == kind]).mean(0)
        for kind in sorted(kinds)
    }
    floats = latents.float()
    mean = floats.mean(0) if mean is None else mean
    return LensInputs(latents=floats, mean=mean, images=tuple(images), mean_patch=mean_patch)


def latent_lenses(inputs: LensInputs, at: int, words: Sequence[WordLens]) -> tuple[LatentLens, ...]:
    """The lens on each latent of instance ``at``, with its words."""
    return tuple(
        LatentLens(
            index=index,
            pictures=tuple(
                image_lens(latent, inputs.mean[index], image, inputs.mean_patch[_kind(image.name)])
                for image in inputs.images[at]
            ),
            words=words[index],
        )
        for index, latent in enumerate(inputs.latents[at])
    )


def nearest_words(loaded: LoadedModel, latents: Tensor, mean: Tensor) -> list[list[WordLens]]:
    """The words nearest to latents [N, K, D] and to their means [K, D], by the model's head and embedding table."""
    backbone = loaded.backbone
    table = backbone.embed_text(torch.arange(backbone.vocab_size, device=backbone.device)[None])[0]

    def logits(states: Tensor) -> Tensor:
        return backbone.logits(states.to(backbone.dtype))

    def token_text(token: int) -> str:
        return str(loaded.processor.tokenizer.decode([token]))

    return word_lenses(latents, mean, logits, table, token_text)


def answer_start(scored: Scored) -> str:
    """The first character of an answer as parsed: the first move of a plan, the letter of an option."""
    parsed = scored[1].parsed
    return parsed[:1] if parsed else "(none read)"


def shown_answer(
    scored: Scored, latents: tuple[LatentLens, ...], imagined: tuple[ImaginedStep, ...] = ()
) -> ShownAnswer:
    """An answer with the lens on its latents, and its film."""
    prediction, score = scored
    return ShownAnswer(
        problem_id=prediction.problem_id,
        benchmark=prediction.benchmark,
        group=prediction.group,
        output=prediction.output,
        verdict="right" if score.correct else "unparsed" if score.parsed is None else "wrong",
        latents=latents,
        imagined=imagined,
    )


def _films(
    reader: ImaginationReader | None, problems: Sequence[Problem]
) -> Callable[[int, LensInputs], tuple[ImaginedStep, ...]]:
    """Return what reads the film of the instance of an index; without a reader films are empty."""

    def film(at: int, inputs: LensInputs) -> tuple[ImaginedStep, ...]:
        return () if reader is None else reader.read([problems[at]], [inputs.latents[at]])[0]

    return film


def _shown(
    scored: Sequence[Scored],
    inputs: LensInputs,
    words: Sequence[Sequence[WordLens]],
    settings: Settings,
    film: Callable[[int, LensInputs], tuple[ImaginedStep, ...]],
) -> tuple[ShownAnswer, ...]:
    """The answers shown in full: those that a report would show, by its rule."""
    index = {prediction.problem_id: at for at, (prediction, _) in enumerate(scored)}
    shown = [(index[pair[0].problem_id], pair) for pair in select_samples(scored, NUM_SHOWN, settings.seed)]
    return tuple(shown_answer(pair, latent_lenses(inputs, at, words[at]), film(at, inputs)) for at, pair in shown)


def _summary(index: int, inputs: LensInputs, words: Sequence[Sequence[WordLens]], units: Units) -> PositionSummary:
    """The lens on the latents at one index, over all instances."""
    first = Counter(row[index].head[0].text for row in words)
    common, count = first.most_common(1)[0]
    return PositionSummary(
        index=index,
        n=len(words),
        same_word=share([row[index].matches_mean_latent for row in words], units),
        distinct_words=len(first),
        common_word=common,
        common_share=count / len(words),
        like_mean={kind: _like_mean(index, kind, inputs) for kind in inputs.mean_patch},
    )


def _like_mean(index: int, kind: str, inputs: LensInputs) -> float | None:
    """Mean correlation, over all instances, of a latent's map with the mean latent's on the same image."""
    correlations = [
        correlation(
            cosine_map(latents[index], image.patches, image.grid),
            cosine_map(inputs.mean[index], image.patches, image.grid),
        )
        for latents, images in zip(inputs.latents, inputs.images, strict=True)
        for image in images
        if image.name == kind
    ]
    known = [value for value in correlations if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _matches(inputs: LensInputs, seed: int, units: Units) -> list[Match]:
    """How well latents match their own images, by image kind and latent index."""
    rng = np.random.default_rng(seed)
    matches: list[Match] = []
    for kind in (INPUT, AUXILIARY):
        patches_by_instance = {
            at: torch.cat([image.patches for image in images if _kind(image.name) == kind]) - inputs.mean_patch[kind]
            for at, images in enumerate(inputs.images)
            if any(_kind(image.name) == kind for image in images)
        }
        if not patches_by_instance:
            continue
        chosen, patches = list(patches_by_instance), list(patches_by_instance.values())
        centred, own = (inputs.latents - inputs.mean)[chosen], subset(units, chosen)
        matches += [
            match(kind, index, fits_of(centred[:, index], patches), rng, own) for index in range(centred.shape[1])
        ]
    return matches


def _projection(clean_run: CleanRun, used: Sequence[int], seed: int, units: Units) -> Projection | None:
    """The latents of each answer as one point, with labels of the answers; None for fewer than three answers."""
    if len(used) < 3:
        return None
    scored = [clean_run.scored[at] for at in used]
    labels = {
        "answer start": [answer_start(pair) for pair in scored],
        "group": [f"{pair[0].benchmark}, {pair[0].group}" for pair in scored],
        "verdict": ["right" if pair[1].correct else "wrong" for pair in scored],
    }
    return project(clean_run.latents[list(used)].flatten(1).double().numpy(), labels, seed, units)


def _kind(name: str) -> str:
    return AUXILIARY if name == AUXILIARY else INPUT
