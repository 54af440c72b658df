"""The small byte-level tokenizer of a from-scratch model: Qwen's format, a few hundred tokens, no hub.

Every byte is a token, so any text can be encoded. Merges are learned from the texts below, which are split so that
moves, option letters, digits and brackets are never merged: in ``\\boxed{RRD}`` each move is one token.
"""

from __future__ import annotations

import json
import re

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from mirage_core.errors import SettingsError

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<|latent_pad|>", "<|latent_start|>", "<|latent_end|>",
)  # fmt: skip
BYTES = 256

# The Qwen2.5-VL turn layout. A system turn only where the caller passes one: the stock default sentence would be a
# fifth of a tiny model's tokens without information.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Moves, options and brackets are never part of a merge.
_NEVER_MERGED = re.compile(r"[{}\[\]()<>/]|\b[UDLR]+\b|\b[A-D]\b|\d")

# Words of every turn of the direct variant: repeated often, so that each becomes one token.
_FRAME = """
system
user
assistant
\\boxed
\\boxed
Plan
Map
Walk
think
"""

_PROSE = """
Plan the path from the start to the goal. Give the plan. Read the map. Read the path. Copy the map. Walk the path.
What is the outcome of the plan? Does the plan reach the goal? Action plan: Answer: Map: Path: Walk: Grid: Plan:
You are a helpful assistant. You are a professional maze solver.
Your task is to analyze a grid map and devise an action plan that enables a player to reach the goal from the start
without falling into any holes, using the fewest possible moves. Each grid square is either safe or contains a hole.
The player starts at a grid square, with the goal located elsewhere on the map. A move transfers the player.
Moving off the edge of the map has no effect. The player will remain at the same square. Reaching the goal is victory.
Here is the map: Please provide your action plan. The final answer MUST BE put in \\boxed
You FIRST think about the reasoning process as an internal monologue and then provide the final answer.
The reasoning process MUST BE enclosed within think think tags.
Success: the player reaches the goal. The player falls into a hole. The player is safe but not at the goal.
Let me picture the map with the path drawn on it. I imagine the map after the first moves. Following the arrows,
the start is in row , column , the goal is in row , column . I go left, right, up, down, then left, right, up, down.
There are holes at row column and row column . The path avoids the holes. So the plan is . So the answer is .
After step the player stands in row , column . The next moves lead to the cell at row column , which is a hole.
start goal hole safe ice player arrow left right up down row column cell step move moves path map plan answer option
"""

CORPUS = _FRAME * 20 + _PROSE * 2


def build_tokenizer(vocab_size: int) -> Qwen2Tokenizer:
    """Build a Qwen2 tokenizer of exactly ``vocab_size`` tokens: bytes, merges, Qwen's special and the latent tokens.

    Deterministic. Raises SettingsError when ``vocab_size`` is too small, or needs more merges than the corpus gives.
    """
    count = vocab_size - BYTES - len(SPECIAL_TOKENS)
    merges = _learn_merges(count) if count > 0 else []
    if count < 0 or len(merges) < count:
        low, high = BYTES + len(SPECIAL_TOKENS), BYTES + len(SPECIAL_TOKENS) + len(merges)
        way_out = f"set model.architecture.vocab_size to at least {low}" if count < 0 else f"set it to at most {high}"
        raise SettingsError(f"A from-scratch tokenizer of {vocab_size} tokens cannot be built; {way_out}.")
    return _qwen_tokenizer(merges)


def _qwen_tokenizer(merges: list[tuple[str, str]]) -> Qwen2Tokenizer:
    """Return a Qwen2Tokenizer over the byte alphabet and the merges, with the special tokens last."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges), *SPECIAL_TOKENS]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _learn_merges(count: int) -> list[tuple[str, str]]:
    """Learn at most ``count`` merges of byte-level BPE from the corpus, in order of learning."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=BYTES + count,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_NEVER_MERGED.sub("\n", CORPUS).split("\n"), trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
