"""What is fed as a latent, beside a hidden state as it is: by the definition, in decoding, training and GRPO alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.decode import DecodeSettings, Trajectory, decode, sampling_rules
from mirage_core.generation.hf_generate import latent_generate
from mirage_core.generation.interventions import Interventions
from mirage_core.latent.bottleneck import attention_table
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.collate_answers import collate_answers
from mirage_core.latent.encoder import encode_rollout
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.model.backbone import Backbone
from mirage_core.model.codes import CodeReader
from mirage_core.model.forward.feed_norm import own_norms
from mirage_core.model.forward.forward import answers_forward, blank_forward, relaxation_forward, replay_forward
from mirage_core.model.forward.grounding import grounding_forward
from mirage_core.training.grpo.log_probs import text_log_probs
from tests.generation.by_definition import recomputed
from tests.generation.stock import stock_answer
from tests.latent.tiny import HIDDEN, IDS, KINDS, TEXT_IDS, Maker, mixed_examples, tiny_backbone

QUERIES = replace(IDS, latent_queries=(510, 500, 511))
RARE = (*range(14, TEXT_IDS), *QUERIES.latent_queries)
SAMPLED = DecodeSettings(max_new_tokens=16, num_latents=3, max_spans=2, banned=RARE, temperature=1.0, samples=4)
INPUTS = {
    "image_norm": replace(SAMPLED, feed_norm="image"),
    "query": replace(SAMPLED, latent_input="query"),
    "code": replace(SAMPLED, latent_input="code"),
}
BOTTLENECKS = ("none", "latent_only", "image")
CLOSE: dict[str, Any] = {"atol": 3e-5, "rtol": 0.0}


def reader() -> CodeReader:
    """A head and a codebook of nine entries that are far apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return CodeReader(nn.Linear(HIDDEN, 9), 3 * torch.randn(9, HIDDEN), torch.randn(HIDDEN))


def prompts() -> list[EncodedPrompt]:
    """Two images, one, and none; ragged; two of them end in latent_start."""
    make, begun = Maker(11), torch.tensor([IDS.latent_start])
    made = [make.prompt(), make.prompt(9, [(3, 2), (2, 2)], 7), make.prompt(2, [], 1), make.prompt(4, [(4, 4)], 2)]
    return [replace(one, ids=torch.cat([one.ids, begun])) if row % 2 else one for row, one in enumerate(made)]


def drawn(settings: DecodeSettings, kind: str = "qwen2_5_vl") -> list[tuple[EncodedPrompt, Trajectory]]:
    asked, random = prompts(), torch.Generator().manual_seed(5)
    numbers = torch.rand(len(asked) * settings.samples, settings.max_new_tokens, generator=random)
    codes = reader() if settings.latent_input == "code" else None
    found = decode(tiny_backbone(kind=kind), asked, QUERIES, settings, uniform=numbers, readout=codes)
    return [(prompt, one) for prompt, group in zip(asked, found, strict=True) for one in group]


def mean_norm(backbone: Backbone, prompt: EncodedPrompt) -> float | None:
    """The mean length of a prompt's image tokens; None without an image."""
    lengths = [
        float(token.square().sum().sqrt())
        for image in backbone.image_features(prompt.pixel_values, prompt.grid_thw)
        for token in image[:, :HIDDEN]
    ]
    return sum(lengths) / len(lengths) if lengths else None


def feeder(name: str, backbone: Backbone, prompt: EncodedPrompt) -> Callable[[Tensor, int], Tensor]:
    """What is fed of a hidden state, written anew."""
    wanted, codes = mean_norm(backbone, prompt), reader()

    def at_image_norm(state: Tensor, index: int) -> Tensor:
        return state if wanted is None else state * (wanted / state.square().sum().sqrt())

    def query(state: Tensor, index: int) -> Tensor:
        return backbone.embed_text(torch.tensor([QUERIES.latent_queries[index]]))[0]

    def code(state: Tensor, index: int) -> Tensor:
        scores = [float(weight @ state + bias) for weight, bias in zip(codes.head.weight, codes.head.bias, strict=True)]
        return codes.entries[scores.index(max(scores))]

    return {"image_norm": at_image_norm, "query": query, "code": code}[name]


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
@pytest.mark.parametrize("name", INPUTS)
def test_answers_are_those_of_the_definition(name: str, bottleneck: str) -> None:
    settings = replace(INPUTS[name], bottleneck=bottleneck)  # type: ignore[arg-type]
    backbone, answers = tiny_backbone(), drawn(settings)
    assert {len(one.spans) for _, one in answers} == {0, 1, 2}
    rules = sampling_rules(QUERIES, settings)
    with torch.no_grad():
        for prompt, one in answers:
            feed = feeder(name, backbone, prompt)
            latents, logits = recomputed(backbone, prompt, one, attention_table(bottleneck), feed=feed)  # type: ignore[arg-type]
            for mine, its in zip(one.latents, latents, strict=True):
                torch.testing.assert_close(mine, its, **CLOSE)
            for token, own, expected, raw in zip(one.token_ids, one.sampled, one.log_probs, logits, strict=True):
                if own and token != IDS.latent_start:  # how many spans there were decides whether one may start
                    scores = rules.scores(raw[None], torch.tensor([False]), torch.tensor([0]))[0].log_softmax(-1)
                    started = rules.scores(raw[None], torch.tensor([False]), torch.tensor([9]))[0].log_softmax(-1)
                    assert min(abs(float(each[token]) - expected) for each in (scores, started)) < 1e-5


def encoded(answers: list[tuple[EncodedPrompt, Trajectory]]) -> list[EncodedExample]:
    return [encode_rollout(prompt, one.token_ids, one.spans, one.sampled, QUERIES) for prompt, one in answers]


def laid_out(name: str, examples: list[EncodedExample], bottleneck: str) -> LatentBatch:
    tokens = QUERIES.latent_queries if name == "query" else ()
    positions = tiny_backbone().position_ids
    return collate(examples, QUERIES, positions, bottleneck=bottleneck, span_tokens=tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
@pytest.mark.parametrize("name", INPUTS)
def test_training_computes_what_decoding_did(name: str, bottleneck: str) -> None:
    settings = replace(INPUTS[name], bottleneck=bottleneck)  # type: ignore[arg-type]
    backbone, answers = tiny_backbone(), drawn(settings)
    batch, recorded = laid_out(name, encoded(answers), bottleneck), [each for _, one in answers for each in one.latents]
    with torch.no_grad():
        passes = {
            "image_norm": lambda: relaxation_forward(backbone, batch, feed_norm="image").hidden,
            "query": lambda: blank_forward(backbone, batch).hidden,
            "code": lambda: replay_forward(backbone, batch, recorded),
        }
        found = [passes[name](), replay_forward(backbone, batch, recorded)]
        for hidden in found:
            log_probs = text_log_probs(backbone, batch, hidden, sampling_rules(QUERIES, settings))
            for row, (_, one) in enumerate(answers):
                sampled = [number for number, own in zip(one.log_probs, one.sampled, strict=True) if own]
                torch.testing.assert_close(
                    log_probs[row][batch.labels[row] != -100], torch.tensor(sampled), atol=1e-4, rtol=0
                )


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_share_a_prompt_are_fed_at_the_norm_of_its_image(kind: str) -> None:
    backbone, answers = tiny_backbone(kind=kind), drawn(INPUTS["image_norm"], kind)
    grouped: dict[int, list[EncodedExample]] = {}
    for (prompt, _), example in zip(answers, encoded(answers), strict=True):
        grouped.setdefault(id(prompt), []).append(example)
    by_id = {id(prompt): prompt for prompt, _ in answers}
    groups = [(by_id[name], examples) for name, examples in grouped.items()]
    shared = collate_answers(groups, QUERIES, backbone.position_ids)
    whole = collate(encoded(answers), QUERIES, backbone.position_ids)
    with torch.no_grad():
        apart = answers_forward(backbone, shared, feed_norm="image")
        together = relaxation_forward(backbone, whole, feed_norm="image").hidden
    for row in range(whole.rows):
        mine, its = apart[row][shared.answers.labels[row] != -100], together[row][whole.labels[row] != -100]
        torch.testing.assert_close(mine, its, **CLOSE)


def test_gradient_flows_through_the_scale_of_what_is_fed() -> None:
    backbone = tiny_backbone()
    prompt, answer = next((prompt, one) for prompt, one in drawn(INPUTS["image_norm"]) if len(one.spans) == 2)
    batch = laid_out("image_norm", encoded([(prompt, answer)]), "none")

    def gradient(logits: Tensor) -> Tensor:
        chosen = logits.log_softmax(-1).gather(-1, torch.tensor(answer.token_ids)[:, None]).sum()
        return torch.autograd.grad(chosen, backbone.norm_weight)[0]

    _, logits = recomputed(
        backbone, prompt, answer, attention_table("none"), feed=feeder("image_norm", backbone, prompt)
    )
    expected = gradient(torch.stack(logits))
    hidden = relaxation_forward(backbone, batch, feed_norm="image").hidden[0]
    is_text = batch.input_ids[0, len(prompt.ids) :] != IDS.latent_pad
    telling = torch.arange(len(prompt.ids) - 1, len(hidden) - 1)[is_text]  # one column before each token of the answer
    found = gradient(backbone.logits(hidden[telling]))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    fed = [latents.detach() for latents in answer.latents]
    cut = gradient(backbone.logits(replay_forward(backbone, batch, fed)[0][telling]))
    assert (cut - expected).abs().max() > 1e-2 * expected.abs().max()


def test_a_row_is_fed_the_same_alone_and_a_problem_without_an_image_its_own_states() -> None:
    backbone, examples = tiny_backbone(), mixed_examples()
    with torch.no_grad():
        together = collate(examples, IDS, backbone.position_ids)
        hidden = relaxation_forward(backbone, together, feed_norm="image").hidden
        plain = relaxation_forward(backbone, together).hidden
        for row, example in enumerate(examples):
            alone = collate([example], IDS, backbone.position_ids)
            own = relaxation_forward(backbone, alone, feed_norm="image").hidden[0]
            torch.testing.assert_close(hidden[row][together.attention_mask[row]], own, **CLOSE)
            changed = float((hidden[row] - plain[row]).abs().max())
            has_both = bool(len(example.grid_thw)) and IDS.latent_pad in example.ids
            assert (changed > 1e-2) == has_both, row


def test_targets_are_fed_as_they_are_and_own_latents_between_them_at_the_norm() -> None:
    backbone, examples = tiny_backbone(), mixed_examples()[:2]
    batch = collate(examples, IDS, backbone.position_ids)
    with torch.no_grad():
        forced, same = (grounding_forward(backbone, batch, "even", feed_norm=norm) for norm in ("image", "own"))  # type: ignore[arg-type]
        assert torch.equal(forced.hidden, same.hidden)
        free = grounding_forward(backbone, batch, "even", horizon=3, feed_norm="image")
        torch.testing.assert_close(free.hidden, relaxation_forward(backbone, batch, feed_norm="image").hidden, **CLOSE)
        mixed = grounding_forward(backbone, batch, "even", horizon=2, feed_norm="image")
        own = free.predicted[:, 0] / free.predicted[:, 0].norm(dim=-1, keepdim=True)
        norms = [
            mean_norm(backbone, EncodedPrompt(ids=e.ids, pixel_values=e.pixel_values, grid_thw=e.grid_thw))
            for e in examples
        ]
        fed = torch.stack([own * torch.tensor(norms)[:, None], mixed.targets[:, 1], mixed.predicted[:, 2]], dim=1)
        third = mixed.predicted[:, 2]
        fed[:, 2] = third / third.norm(dim=-1, keepdim=True) * torch.tensor(norms)[:, None]
        torch.testing.assert_close(replay_forward(backbone, batch, list(fed)), mixed.hidden, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_of_rescaled_latents_are_found_again_by_the_final_norm(kind: str) -> None:
    backbone = tiny_backbone(kind=kind)
    batch = collate(mixed_examples(), IDS, backbone.position_ids)
    with torch.no_grad():
        states = relaxation_forward(backbone, batch, feed_norm="image").latents
    torch.testing.assert_close(own_norms(states * 7.3, backbone.norm_weight), states, atol=1e-4, rtol=0)


def test_the_gradient_of_query_tokens_is_that_of_their_own_places() -> None:
    backbone = tiny_backbone()
    batch = laid_out("query", [Maker(3).example(latents=2)], "none")
    assert batch.input_ids[batch.input_ids >= TEXT_IDS].tolist().count(QUERIES.latent_queries[0]) == 1
    table = backbone.model.get_input_embeddings().weight
    hidden = blank_forward(backbone, batch).hidden
    logits = backbone.logits(hidden)[batch.labels != -100]
    loss = nn.functional.cross_entropy(logits, batch.labels[batch.labels != -100])
    gradient = torch.autograd.grad(loss, table)[0]
    touched = set(gradient.abs().sum(-1).nonzero()[:, 0].tolist())
    assert touched & {IDS.latent_pad, *QUERIES.latent_queries} == set(QUERIES.latent_queries[:2])
    first, second = gradient[list(QUERIES.latent_queries[:2])]
    assert (first - second).abs().max() > 1e-3 * first.abs().max()
    with pytest.raises(InputError, match="A span has 4 latents, and there are 3 tokens"):
        laid_out("query", [Maker(3).example(latents=4)], "none")


@pytest.mark.parametrize("name", INPUTS)
def test_stock_generate_feeds_alike(name: str) -> None:
    settings, backbone, prompt = replace(INPUTS[name], temperature=0.0, samples=1), tiny_backbone(), prompts()[3]
    codes = reader() if name == "code" else None
    bare = replace(settings, banned=())
    ((expected,),) = decode(backbone, [prompt], QUERIES, bare, readout=codes)
    made = latent_generate(
        backbone,
        QUERIES,
        num_latents=3,
        max_spans=2,
        latent_input=settings.latent_input,
        feed_norm=settings.feed_norm,
        readout=codes,
    )
    found, said = stock_answer(backbone, prompt, made, max_new_tokens=12)
    assert said == expected.token_ids[: len(said)]
    torch.testing.assert_close(found.latents[0][0], expected.latents[0], **CLOSE)


@pytest.mark.parametrize("name", INPUTS)
def test_interventions_replace_what_is_fed(name: str) -> None:
    seen: list[Tensor] = []

    def zeros(rows: object, numbers: object, latents: Tensor) -> Tensor:
        seen.append(latents)
        return torch.zeros_like(latents)

    settings, codes = replace(INPUTS[name], temperature=0.0, samples=1), reader() if name == "code" else None
    backbone, prompt = tiny_backbone(), prompts()[1]
    ((answer,),) = decode(
        backbone, [prompt], QUERIES, settings, interventions=Interventions(latents=zeros), readout=codes
    )
    assert not answer.latents[0].any()
    with torch.no_grad():
        expected = feeder(name, backbone, prompt)(torch.ones(HIDDEN), 0)
    if name == "query":
        torch.testing.assert_close(seen[0][0], expected)
    else:
        wanted = {float(entry.norm()) for entry in reader().entries} if name == "code" else {float(expected.norm())}
        assert min(abs(float(seen[0].norm()) - norm) for norm in wanted) < 1e-3


def test_what_a_model_lacks_is_refused_before_it_answers() -> None:
    with pytest.raises(SettingsError, match="has 0 query tokens for spans of 3"):
        decode(tiny_backbone(), prompts(), IDS, INPUTS["query"])
    with pytest.raises(SettingsError, match="no head that chooses codes"):
        latent_generate(tiny_backbone(), IDS, num_latents=3, latent_input="code")
    with pytest.raises(InputError, match="feed_norm is one of"):
        decode(tiny_backbone(), prompts(), IDS, replace(SAMPLED, feed_norm="half"))  # type: ignore[arg-type]
    without = replace(INPUTS["code"], latents="off", temperature=0.0, samples=1)
    assert decode(tiny_backbone(), prompts()[:1], IDS, without)[0][0].token_ids  # a text model needs none
