"""Looks at the latents that a clean run left, by the model that made them: a few answers in full, all in figures.

Legend: N instances with a span, K latents of a span, D hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_core.analysis.collect import Collected
from mirage_core.analysis.intervened_generation import Asker
from mirage_core.analysis.lens.lens import LatentLook, Seen, WordLook, correlation, cosine_map, picture_look, word_looks
from mirage_core.analysis.lens.patch_matching import Match, fits_of, match
from mirage_core.analysis.lens.pca import Projection, projected
from mirage_core.analysis.lens.results import AUXILIARY, INPUT, LooksResult, PlaceSummary, ShownAnswer
from mirage_core.analysis.results import Estimate
from mirage_core.config import Settings
from mirage_core.evaluation.sample_selection import choose
from mirage_core.evaluation.statistics import wilson
from mirage_core.generation.generator import use_of
from mirage_core.latent.encoder import Encoder
from mirage_core.model.loading import LoadedModel
from mirage_core.types import Problem, Scored

SHOWN = 4


@dataclass(frozen=True, slots=True)
class Material:
    """What looks are made of: latents [N, K, D] and their mean [K, D], the pictures of each instance, mean patches."""

    latents: Tensor
    mean: Tensor
    seen: tuple[tuple[Seen, ...], ...]
    centre: Mapping[str, Tensor]


def collect_looks(
    loaded: LoadedModel,
    settings: Settings,
    collected: Collected,
    problems: Sequence[Problem],
    auxiliary: Mapping[str, bytes],
) -> LooksResult:
    """Look at the latents of a clean run.

    ``problems`` are those collected from, ``auxiliary`` their auxiliary pictures by problem id, where there are any.
    """
    used = [int(index) for index in collected.with_span()]
    instances = collected.instances(problems)
    if not used:
        return LooksResult(
            instances=len(instances), used=0, num_latents=0, shown=(), summary=(), matches=(), projection=None
        )
    with torch.inference_mode():
        seen = [pictures_seen(loaded, settings, instances[at], auxiliary.get(instances[at].id)) for at in used]
        material = material_of(collected.latents[used].to(loaded.backbone.device), seen)
        words = words_of(loaded, material.latents, material.mean)
        scored = [collected.scored[at] for at in used]
        return LooksResult(
            instances=len(instances),
            used=len(used),
            num_latents=collected.num_latents,
            shown=_shown(scored, material, words, settings),
            summary=tuple(_summary(index, material, words) for index in range(collected.num_latents)),
            matches=tuple(_matches(material, settings.analysis.seed)),
            projection=_projection(collected, used, settings.analysis.seed),
        )


def pictures_seen(
    loaded: LoadedModel, settings: Settings, problem: Problem, auxiliary: bytes | None
) -> tuple[Seen, ...]:
    """A problem's pictures, and its auxiliary one, as the model's own vision tower sees them."""
    use = use_of(loaded, settings)
    encoder = Encoder(loaded.processor, use.latent, use.prompt, use.variant)
    named = [(INPUT if at == 0 else f"{INPUT} {at + 1}", image) for at, image in enumerate(problem.images)]
    named += [(AUXILIARY, auxiliary)] if auxiliary is not None else []
    merge = int(loaded.processor.image_processor.merge_size)
    found: list[Seen] = []
    for name, image in named:
        pixels, grids = encoder.pixels((image,), f"the picture {name!r} of problem {problem.id}")
        features = loaded.backbone.image_features(pixels, grids)[0]
        rows, columns = int(grids[0, 1]) // merge, int(grids[0, 2]) // merge
        found.append(Seen(name=name, patches=loaded.backbone.merged(features).float(), grid=(rows, columns)))
    return tuple(found)


def material_of(latents: Tensor, seen: Sequence[tuple[Seen, ...]], mean: Tensor | None = None) -> Material:
    """Latents [N, K, D] and pictures with their means: of inputs and of auxiliary pictures each for themselves.

    ``mean`` [K, D]: the mean latent at each place, where it is not that of these latents.
    """
    kinds = {_kind(picture.name) for pictures in seen for picture in pictures}
    centre = {
        kind: torch.cat([each.patches for pictures in seen for each in pictures if _kind(each.name) == kind]).mean(0)
        for kind in sorted(kinds)
    }
    floats = latents.float()
    return Material(latents=floats, mean=floats.mean(0) if mean is None else mean, seen=tuple(seen), centre=centre)


def latent_looks(material: Material, at: int, words: Sequence[WordLook]) -> tuple[LatentLook, ...]:
    """The looks at each latent of one instance."""
    return tuple(
        LatentLook(
            index=index,
            pictures=tuple(
                picture_look(latent, material.mean[index], seen, material.centre[_kind(seen.name)])
                for seen in material.seen[at]
            ),
            words=words[index],
        )
        for index, latent in enumerate(material.latents[at])
    )


def words_of(loaded: LoadedModel, latents: Tensor, mean: Tensor) -> list[list[WordLook]]:
    """The words nearest to latents [N, K, D] and to their means [K, D], by the model's head and embedding table."""
    backbone = loaded.backbone
    table = backbone.embed_text(torch.arange(backbone.vocab_size, device=backbone.device)[None])[0]

    def logits(states: Tensor) -> Tensor:
        return backbone.logits(states.to(backbone.dtype))

    def decoded(token: int) -> str:
        return str(loaded.processor.tokenizer.decode([token]))

    return word_looks(latents, mean, logits, table, decoded)


def shown_anew(
    looks: LooksResult,
    asker: Asker,
    settings: Settings,
    collected: Collected,
    instances: Sequence[Problem],
    chosen: Sequence[Problem],
    auxiliary: Mapping[str, bytes],
) -> LooksResult:
    """The same looks, with the answers to ``chosen`` shown in full in place of those it shows.

    They are asked again; means are those of the clean run, and of its pictures.
    """
    used = [int(index) for index in collected.with_span()]
    said = [one for one in asker.ask(chosen) if one.latents is not None and len(one.latents) == looks.num_latents]
    if not used or not said:
        return looks.model_copy(update={"shown": ()})
    loaded, known = asker.loaded, {problem.id: problem for problem in chosen}
    with torch.inference_mode():
        pictures = [pictures_seen(loaded, settings, instances[at], None) for at in used]
        clean = material_of(collected.latents[used].to(loaded.backbone.device), pictures)
        seen = [
            pictures_seen(loaded, settings, known[one.prediction.problem_id], auxiliary.get(one.prediction.problem_id))
            for one in said
        ]
        latents = torch.stack([one.latents for one in said if one.latents is not None]).to(clean.mean.device)
        material = material_of(latents, seen, mean=clean.mean)
        centred = Material(material.latents, material.mean, material.seen, {**material.centre, **clean.centre})
        words = words_of(loaded, centred.latents, centred.mean)
        scored = [(one.prediction, one.score) for one in said]
        shown = tuple(shown_answer(pair, latent_looks(centred, at, words[at])) for at, pair in enumerate(scored))
    return looks.model_copy(update={"shown": shown})


def answer_start(scored: Scored) -> str:
    """What an answer begins with, as its scorer read it: the first move of a plan, the letter of an option."""
    parsed = scored[1].parsed
    return parsed[:1] if parsed else "(none read)"


def _shown(
    scored: Sequence[Scored], material: Material, words: Sequence[Sequence[WordLook]], settings: Settings
) -> tuple[ShownAnswer, ...]:
    """The answers shown in full: those a report would show, by its rule."""
    places = {prediction.problem_id: at for at, (prediction, _) in enumerate(scored)}
    shown = [(places[pair[0].problem_id], pair) for pair in choose(scored, SHOWN, settings.seed)]
    return tuple(shown_answer(pair, latent_looks(material, at, words[at])) for at, pair in shown)


def shown_answer(scored: Scored, latents: tuple[LatentLook, ...]) -> ShownAnswer:
    """An answer with the looks at its latents."""
    prediction, score = scored
    return ShownAnswer(
        problem_id=prediction.problem_id,
        benchmark=prediction.benchmark,
        group=prediction.group,
        output=prediction.output,
        verdict="right" if score.correct else "unparsed" if score.parsed is None else "wrong",
        latents=latents,
    )


def _summary(index: int, material: Material, words: Sequence[Sequence[WordLook]]) -> PlaceSummary:
    first = Counter(row[index].head[0].text for row in words)
    same = sum(row[index].shows_nothing for row in words)
    low, high = wilson(same, len(words))
    common, count = first.most_common(1)[0]
    return PlaceSummary(
        index=index,
        n=len(words),
        same_word=Estimate(value=same / len(words), low=low, high=high, n=len(words)),
        distinct_words=len(first),
        common_word=common,
        common_share=count / len(words),
        like_mean={kind: _like_mean(index, kind, material) for kind in material.centre},
    )


def _like_mean(index: int, kind: str, material: Material) -> float | None:
    """Mean correlation of the maps of all instances with the mean latent's on the same picture."""
    found = [
        correlation(
            cosine_map(latents[index], seen.patches, seen.grid),
            cosine_map(material.mean[index], seen.patches, seen.grid),
        )
        for latents, pictures in zip(material.latents, material.seen, strict=True)
        for seen in pictures
        if seen.name == kind
    ]
    known = [value for value in found if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def _matches(material: Material, seed: int) -> list[Match]:
    rng = np.random.default_rng(seed)
    found: list[Match] = []
    for picture in (INPUT, AUXILIARY):
        rows = [
            (
                at,
                torch.cat([each.patches for each in pictures if _kind(each.name) == picture])
                - material.centre[picture],
            )
            for at, pictures in enumerate(material.seen)
            if any(_kind(each.name) == picture for each in pictures)
        ]
        if not rows:
            continue
        centred = (material.latents - material.mean)[[at for at, _ in rows]]
        pictures_PD = [patches for _, patches in rows]
        found += [
            match(picture, index, fits_of(centred[:, index], pictures_PD), rng) for index in range(centred.shape[1])
        ]
    return found


def _projection(collected: Collected, used: Sequence[int], seed: int) -> Projection | None:
    if len(used) < 3:
        return None
    scored = [collected.scored[at] for at in used]
    labels = {
        "answer start": [answer_start(pair) for pair in scored],
        "group": [f"{pair[0].benchmark}, {pair[0].group}" for pair in scored],
        "verdict": ["right" if pair[1].correct else "wrong" for pair in scored],
    }
    return projected(collected.latents[list(used)].flatten(1).double().numpy(), labels, seed)


def _kind(name: str) -> str:
    return AUXILIARY if name == AUXILIARY else INPUT
