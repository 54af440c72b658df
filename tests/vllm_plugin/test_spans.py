"""The plug-in's state of spans, without vLLM: answers under any order of steps are those of ``decode``."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mirage_vllm.readout import load_readout
from mirage_vllm.settings import READOUT_FILE, SettingsError
from mirage_vllm.spans import NO_LIMIT, AnswerSpans, RowOptions
from safetensors.torch import save_file

from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.model.readout import HeadKind, new_readout, saved_readout
from mirage_core.model.weights import no_gather
from tests.latent.tiny import IDS, TEXT_IDS, Maker, tiny_backbone
from tests.vllm_plugin.engine import Engine, Request, settings_of

RARE = tuple(range(14, TEXT_IDS))
BASE = DecodeSettings(max_new_tokens=14, num_latents=3, max_latents=4, max_spans=2, banned=RARE)
MODELS = {
    "exact": BASE,
    "open": replace(BASE, end="open"),
    "free": replace(BASE, end="free"),
    "blank": replace(BASE, latent_input="blank"),
    "never": replace(BASE, latents="off"),
}
"""What models and requests differ in."""


def prompts(settings: DecodeSettings) -> list[EncodedPrompt]:
    """Of different lengths; every other one ends in latent_start, where latents are on."""
    make, begun = Maker(11), torch.tensor([IDS.latent_start])
    sizes = [(5, [(2, 2)], 3), (9, [(3, 2), (2, 2)], 7), (2, [(2, 2)], 1), (4, [(4, 4)], 2), (3, [], 2)]
    made = [make.prompt(*size) for size in sizes]
    begins = settings.latents == "on"
    return [
        replace(one, ids=torch.cat([one.ids, begun])) if row % 2 and begins else one for row, one in enumerate(made)
    ]


def request(number: int, prompt: EncodedPrompt, settings: DecodeSettings) -> Request:
    options = RowOptions(imagines=settings.latents == "on", max_text_tokens=settings.max_new_tokens, temperature=0.0)
    return Request(str(number), prompt, options, prompt.ids.tolist())


def expected(settings: DecodeSettings) -> list[Trajectory]:
    """What ``decode`` gives for all prompts."""
    return [answers[0] for answers in decode(tiny_backbone(), prompts(settings), IDS, settings)]


def check(found: Request, answer: Trajectory, *, blank: bool = False) -> None:
    """The same text, the same latents in the same places; an answer that was cut ends in a forced end of turn."""
    spans = {span.position: span.num_latents for span in answer.spans}
    tokens: list[int] = []
    for place, token in enumerate(answer.token_ids):
        tokens += [IDS.latent_pad] * spans.get(place, 0) + [token]
    assert found.answer == (tokens if answer.finished else [*tokens, IDS.end_of_turn])
    if answer.latents and not blank:  # else what was fed is the embedding of latent_pad
        assert found.latents is not None
        torch.testing.assert_close(found.latents, torch.cat(answer.latents), atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_answers_as_decode_does(kind: str) -> None:
    settings = MODELS[kind]
    engine = Engine(tiny_backbone(), settings_of(settings), 5)
    rows = [request(number, prompt, settings) for number, prompt in enumerate(prompts(settings))]
    for row in rows:
        engine.begin(row)
    answered(engine, rows)
    answers = expected(settings)
    assert sum(len(answer.spans) for answer in answers) >= (0 if kind == "never" else 4)
    for row, answer in zip(rows, answers, strict=True):
        check(row, answer, blank=kind == "blank")


def answered(engine: Engine, rows: list[Request]) -> None:
    """Run all rows to their ends."""
    while any(not row.ended for row in rows):
        running = [row for row in rows if not row.ended]
        engine.step([(row, len(row.tokens) - len(row.inputs)) for row in running])
    for row in rows:
        engine.leave(row)


def shuffled(engine: Engine, rows: list[Request]) -> int:
    """Run all rows to their ends, three at a time, in chunks, preempted by chance; returns how often they were."""
    chance = random.Random(5)
    waiting, running, preempted = list(rows), list[Request](), 0
    while waiting or running:
        while waiting and len(running) < 3:
            running.append(waiting.pop(0))
            row = running[-1]
            engine.begin(row, chance.randrange(min(len(row.inputs), len(row.tokens) - 1) + 1))
        engine.step([(row, chance.randint(1, len(row.tokens) - len(row.inputs))) for row in running])
        for row in [row for row in running if row.ended]:
            running.remove(row)
            engine.leave(row)
        if len(running) > 1 and chance.random() < 0.3:  # the last one, as vLLM does
            engine.leave(running[-1])
            waiting.insert(0, running.pop())
            preempted += 1
    return preempted


@pytest.mark.parametrize("kind", ["exact", "open", "free", "blank"])
def test_answers_do_not_depend_on_chunks_joins_and_preemptions(kind: str) -> None:
    settings = MODELS[kind]
    engine = Engine(tiny_backbone(), settings_of(settings), 3)
    rows = [request(number, prompt, settings) for number, prompt in enumerate(prompts(settings) * 2)]
    assert shuffled(engine, rows) >= 10
    for row, answer in zip(rows, expected(settings) * 2, strict=True):
        check(row, answer, blank=kind == "blank")


@pytest.mark.parametrize("head", ["none", "simple", "glu"])
def test_heads_and_stop_vectors_of_a_folder_answer_as_in_the_core(head: HeadKind, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    made = new_readout(backbone.hidden_size, 16, head, stops=True, seed=2, dtype=torch.float32)
    assert made.stop is not None
    longest = decode(backbone, prompts(BASE), IDS, replace(BASE, num_latents=5), readout=made)
    latents = torch.cat([span for each in longest for span in each[0].latents])
    distances = (latents - made.stop.weight.detach()).square().mean(-1)
    near = float(distances.quantile(0.2))  # some of them are near
    settings = replace(BASE, end="near", max_latents=5, near=near)
    saved_readout(made).save(tmp_path, no_gather, write=True)
    own = load_readout(tmp_path / READOUT_FILE, torch.float32, torch.device("cpu"))
    engine = Engine(backbone, settings_of(settings), 3, own)
    rows = [request(number, prompt, settings) for number, prompt in enumerate(prompts(settings))]
    shuffled(engine, rows)
    answers = [each[0] for each in decode(backbone, prompts(settings), IDS, settings, readout=made)]
    for row, answer in zip(rows, answers, strict=True):
        check(row, answer)
    assert len({span.num_latents for answer in answers for span in answer.spans}) > 1


def test_a_file_that_is_no_readout_is_refused(tmp_path: Path) -> None:
    save_file({"head.0.weight": torch.zeros(3)}, tmp_path / "file", metadata={"head": "glu"})
    with pytest.raises(SettingsError, match="is no latent readout"):
        load_readout(tmp_path / "file", torch.float32, torch.device("cpu"))


def test_a_folder_without_the_vector_that_ends_its_spans_is_refused() -> None:
    with pytest.raises(SettingsError, match="no vector that ends spans"):
        Engine(tiny_backbone(), settings_of(replace(BASE, end="near")), 1)


@pytest.mark.parametrize("lost", [False, True])
def test_a_preempted_answer_goes_on_from_its_latents_alone(lost: bool) -> None:
    """That it changes without them shows that the tests above would not pass for a state that keeps none."""
    engine = Engine(tiny_backbone(), settings_of(BASE), 1)
    row = request(0, prompts(BASE)[1], BASE)
    engine.begin(row)
    while IDS.latent_end not in row.answer:
        engine.step([(row, len(row.tokens) - len(row.inputs))])
    before, count = engine.hidden(row), len(row.inputs)
    engine.leave(row)
    if lost:
        engine.spans.latents(row.seat).zero_()
    engine.begin(row)
    engine.step([(row, count)])
    assert torch.allclose(engine.hidden(row), before, atol=1e-5) == (not lost)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["exact", "open", "free"])
def test_sampled_tokens_have_the_probabilities_of_decode(kind: str, temperature: float) -> None:
    settings = replace(BASE, end=kind, temperature=temperature, banned=(7,))  # type: ignore[arg-type]
    spans = AnswerSpans(settings_of(settings), 6, 4, torch.float32, torch.device("cpu"))
    opened = {"exact": [-1], "open": [-1, settings.num_latents], "free": [-1, 1, settings.max_latents - 1]}[kind]
    for used in (0, settings.max_spans):
        for count in opened:
            prompt = [1, *([IDS.latent_start, IDS.latent_end] * (used - (count >= 0)))]
            row = [*prompt, *([IDS.latent_start] if count >= 0 else []), *[IDS.latent_pad] * max(0, count), 2]
            if used - (count >= 0) < 0:
                continue
            options = RowOptions(max_text_tokens=NO_LIMIT, temperature=temperature)
            spans.begin(0, row, 1, 0, options)
            logits = torch.randn(1, 512, generator=torch.Generator().manual_seed(3)) * 3
            rules, may_end = sampling_rules(IDS, settings), torch.tensor([count >= 0])
            scores = rules.scores(logits.clone(), may_end, torch.tensor([used])).softmax(-1)
            spans.constrain(logits, torch.tensor([0]), torch.tensor([len(row) - 2]))
            found = (logits / temperature).softmax(-1)
            if kind == "free" and count >= 0:
                assert found[0, IDS.latent_end].item() == pytest.approx(scores[0, IDS.latent_end].item(), abs=1e-6)
                assert found[0, IDS.latent_pad].item() == pytest.approx(1 - scores[0, IDS.latent_end].item(), abs=1e-6)
            else:
                torch.testing.assert_close(found, scores, atol=1e-6, rtol=0)


def test_rows_of_one_batch_follow_their_own_options() -> None:
    engine = Engine(tiny_backbone(), settings_of(BASE), 3)
    prompt = prompts(BASE)[0]
    kinds = [BASE, replace(BASE, latents="off"), replace(BASE, max_new_tokens=2)]
    rows = [request(number, prompt, kind) for number, kind in enumerate(kinds)]
    for row in rows:
        engine.begin(row)
    answered(engine, rows)
    for row, kind in zip(rows, kinds, strict=True):
        check(row, decode(tiny_backbone(), [prompt], IDS, kind)[0][0])
