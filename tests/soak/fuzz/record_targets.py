"""What a store, a recipe and a model's folder may hold: manifests, records, settings, checkpoints, headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from flows.trained import find_checkpoint
from mirage_core.config import as_recipe, identity
from mirage_core.errors import ArtifactDamaged
from mirage_core.llm_client.response_cache import StoredResponseCache
from mirage_core.model.card import model_card
from mirage_core.model.codes import HEADS_FILE, load_code_reader
from mirage_core.model.other_authors import authors_readout
from mirage_core.model.readout import READOUT_FILE, LatentReadout, load_readout
from mirage_core.pipeline.run_record import load_record, new_record
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.digests import dump_checked, load_checked
from mirage_core.store.manifest import FileEntry, digest_of, parse_manifest
from mirage_core.studies.loading import load_study
from mirage_core.training.checkpoint.checkpoint import METADATA_FILE, read_checkpoint, shard_file, write_common
from mirage_core.training.checkpoint.sharded_state import Piece, Shard, write_shard
from mirage_core.training.logging.curves import Curves
from tests.soak.fuzz.mutate import mutated_bytes, mutated_json, mutated_value
from tests.soak.fuzz.target import Target

Prepared = tuple[Callable[[Random], Any], Callable[[Any], object]]
YAML_PIECES = (
    "&a [*a]",
    "*a",
    "!!python/object:os.system x",
    "? [a]\n: b",
    "<<: *a",
    "2001-13-45",
    "!!binary x",
    "!!set {a, b}",
    "0o9",
    "1:2:3:60",
    "extends: tiny",
    "extends: a.yaml",
    "- - - -",
    "{",
    "\t",
    "!!timestamp 1",
    "!!float x",
    "? {}\n",
    "a: &a {b: 1}\nc: {<<: *a}",
    "!!int ''",
    "!!omap [a]",
    "!!merge x",
    "<<: [1]",
    "=",
    "\u0085",
    "%TAG",
    "---\n---",
)


def _manifests(_: Path) -> Prepared:
    files = (FileEntry(name="a/b.bin", size=3, sha256="0" * 64), FileEntry(name="c.json", size=1, sha256="1" * 64))
    plain = {"kind": "model", "fingerprint": "f" * 64, "digest": digest_of(files), "summary": {"a": 1}, "about": {}}
    value = {**plain, "format": 1, "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in files]}
    return lambda chance: _checked(value, chance), lambda data: parse_manifest(data, "manifest.json")


def _checked(value: dict[str, Any], chance: Random) -> bytes:
    """A record as written, with other bytes; or another record with a sha256 that is right; or without one."""
    way = chance.randrange(3)
    if way == 0:
        data = dump_checked(value)
        return mutated_bytes(data, data, chance)
    if way == 1:
        try:
            return dump_checked(changed) if isinstance(changed := mutated_value(value, chance), dict) else b"{}"
        except UnicodeEncodeError:
            return b"{}"
    return mutated_json(value, chance)


def _records(folder: Path) -> Prepared:
    store = Store.open(folder / "store")
    record = new_record("tiny", {"seed": 1}, "0" * 36).model_dump(mode="json")
    stage = {"name": "problems", "state": "Cached", "cached": True, "seconds": 1.5, "digest": "0" * 64, "path": "p/q"}
    score = {"benchmark": "sat", "method": "m", "level": "all", "accuracy": 0.5, "interval": [0.1, 0.9], "n": 3}
    value = {**record, "stages": [stage], "scores": [{**score, "unparsed": 0}]}

    def read(data: bytes) -> object:
        store.backend.write("runs/x.json", data)
        return load_record(store, "runs/x.json")

    return lambda chance: _checked(value, chance), read


def _pointers(folder: Path) -> Prepared:
    store = Store.open(folder / "store")
    target = {"artifact": {"kind": "model", "path": "model/x", "digest": "0" * 64, "summary": {}}, "since": "2026"}
    value = {**target, "about": {}, "history": [{**target, "about": {}}]}

    def read(data: bytes) -> object:
        store.backend.write("pointers/nightly.json", data)
        return store.pointer("nightly")

    return lambda chance: _checked(value, chance), read


def _kept_answers(folder: Path) -> Prepared:
    store, digest = Store.open(folder / "store"), "0" * 64
    value = {
        "format": 1,
        "request": digest,
        "problem": "p",
        "template": "t",
        "attempt": 1,
        "model": "m",
        "served": "m",
        "text": "A",
        "finish": "stop",
        "prompt_tokens": 3,
        "completion_tokens": None,
        "trajectory": {"output": "A", "token_ids": [1], "spans": [{"position": 0, "num_latents": 2}]},
    }
    key = f"answers/m/{digest}.json"
    store.backend.write(key, b"{}")
    cache = StoredResponseCache(store, "m")

    def read(data: bytes) -> object:
        store.backend.write(key, data)
        return cache.find(digest)

    return lambda chance: _checked(value, chance), read


def _yaml(values: list[dict[str, Any]], chance: Random) -> bytes:
    """A YAML text of a mutated mapping, with pieces that YAML treats apart."""
    changed = mutated_value(chance.choice(values), chance)
    try:
        text = yaml.dump(changed, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    except (UnicodeEncodeError, yaml.YAMLError):
        text = "seed: \ufffd\n"
    if chance.random() < 0.4:
        lines = text.splitlines()
        lines.insert(
            chance.randrange(len(lines) + 1), chance.choice(("", "seed: ", "grounding: ")) + chance.choice(YAML_PIECES)
        )
        text = "\n".join(lines)
    data = text.encode("utf-8", "replace")
    return mutated_bytes(data, data, chance) if chance.random() < 0.2 else data


def _recipes(folder: Path) -> Prepared:
    file = folder / "recipe.yaml"
    small = {
        "recipe": "mine",
        "seed": 3,
        "grounding": {"steps": 5},
        "latent": {"num_latents": 4},
        "grpo": {"enabled": False},
    }
    values = [
        small,
        {**small, "runtime": {"timeouts": {"grounding": 3}}, "model": {"source": "x/y"}},
        as_recipe(load("micro")),
    ]

    def read(data: bytes) -> object:
        file.write_bytes(data)
        return load(file)

    return lambda chance: _yaml(values, chance), read


def _overrides(_: Path) -> Prepared:
    names = (
        "seed",
        "grounding.steps",
        "latent.num_latents",
        "runtime.timeouts",
        "model.source",
        "a.b",
        "",
        ".",
        "evaluation.methods",
    )
    values = ("1", "-1", "[1, 2]", "{a: b}", "null", "x", "1e400", "''", "\u0661", "\ud800", "2030-01-02", *YAML_PIECES)

    def draw(chance: Random) -> list[str]:
        return [
            f"{chance.choice(names)}{chance.choice(('=', '=', '=', ''))}{chance.choice(values)}"
            for _ in range(chance.randint(1, 3))
        ]

    return draw, lambda sets: load("micro", sets)


def _studies(folder: Path) -> Prepared:
    file = folder / "study.yaml"
    cells = [
        {"name": "a", "method": "stage-2", "label": "A", "overrides": {"latent.num_latents": 2}},
        {"sweep": "latent.num_latents", "values": [1, 2], "method": "stage-2", "label": "{setting} {value}"},
    ]
    value = {
        "name": "mine",
        "recipe": "micro",
        "seeds": [1, 2],
        "baseline": "a",
        "cells": cells,
        "measures": ["probes"],
    }

    def read(data: bytes) -> object:
        file.write_bytes(data)
        return load_study(file).all_cells()

    return lambda chance: _yaml([value], chance), read


def _mirage_json(folder: Path) -> Prepared:
    settings = load("micro")
    chapter = {
        "stage": "grounding",
        "seed": 1,
        "settings": {"steps": 2},
        "model": {"lora": None},
        "begun_with": "0" * 64,
        "data": {"examples": {"digest": "0" * 64, "counts": {"vsp-planning": {"train": 3}}}},
    }
    value = {
        "prompt": identity(settings.prompt),
        "latent": identity(settings.latent),
        "variant": "direct",
        "recipe": "micro",
        "stage": "grounding",
        "stages": ["base", "grounding"],
        "source": "from_scratch",
        "history": [chapter],
        "made_with": {"commit": "0" * 40, "versions": {"torch": "2"}},
    }
    (folder / "config.json").write_text("{}")
    store = Store.open(folder / "store")

    def read(data: bytes) -> object:
        (folder / "mirage.json").write_bytes(data)
        return find_checkpoint(str(folder), None, store), model_card(_object(data))

    return lambda chance: mutated_json(value, chance), read


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    return value if isinstance(value, dict) else {}


def _backbone() -> Any:
    return SimpleNamespace(hidden_size=4, device=torch.device("cpu"), dtype=torch.float32)


def _headers(folder: Path) -> Prepared:
    """The safetensors of a model's folder: read-outs, code readers, weights of other authors."""
    readout = LatentReadout(4, "mlp", 8, stops=True)
    save_file(dict(readout.state_dict()), folder / READOUT_FILE, metadata={"head": "mlp"})
    parts = {
        "what.weight": torch.ones(3, 4),
        "what.bias": torch.ones(3),
        "codes": torch.ones(3, 4),
        "centre": torch.ones(4),
    }
    save_file(parts, folder / HEADS_FILE, metadata={"about": "{}"})
    save_file(
        {"lvr_head.ln_q.weight": torch.ones(4), "lvr_latent_end_emb": torch.ones(4)}, folder / "model.safetensors"
    )
    names = (READOUT_FILE, HEADS_FILE, "model.safetensors")
    good = {name: (folder / name).read_bytes() for name in names}
    readers = {
        READOUT_FILE: load_readout,
        HEADS_FILE: lambda place, _: load_code_reader(place),
        "model.safetensors": authors_readout,
    }

    def read(case: tuple[str, bytes]) -> object:
        name, data = case
        (folder / name).unlink()  # a new file: the old one may be mapped
        (folder / name).write_bytes(data)
        return readers[name](folder, _backbone())

    def draw(chance: Random) -> tuple[str, bytes]:
        name = chance.choice(names)
        return name, mutated_header(good[name], chance)

    return draw, read


def mutated_header(data: bytes, chance: Random) -> bytes:
    """A safetensors file with another header, its length right; or with other bytes."""
    if chance.random() < 0.4:
        return mutated_bytes(data, data, chance)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutated_json(json.loads(data[8 : 8 + length]), chance)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _checkpoints(folder: Path) -> Prepared:
    values = torch.arange(6, dtype=torch.float32)
    shard = Shard(
        3, {"w": (2, 3)}, {f"{kind}/w": Piece(0, values.clone()) for kind in ("master", "exp_avg", "exp_avg_sq")}
    )
    write_shard(shard_file(folder, 0), shard)
    write_common(folder, "grounding", 3, shard, Curves())
    names = (shard_file(folder, 0).name, METADATA_FILE)
    good = {name: (folder / name).read_bytes() for name in names}

    def draw(chance: Random) -> tuple[str, bytes]:
        name = chance.choice(names)
        return name, mutated_header(good[name], chance) if name == names[0] else mutated_json(
            json.loads(good[name]), chance
        )

    def read(case: tuple[str, bytes]) -> None:
        name, data = case
        (folder / name).unlink()
        (folder / name).write_bytes(data)
        try:
            _, state, _ = read_checkpoint(folder, "grounding")
            state.check({"w": (2, 3)})
            state.tensor("master", "w")
            state.close()
        finally:
            (folder / name).unlink()
            (folder / name).write_bytes(good[name])

    return draw, read


def _own_sha256(_: Path) -> Prepared:
    def read(data: bytes) -> None:
        try:
            load_checked(data)
        except ValueError as error:
            raise ArtifactDamaged(str(error)) from error

    return lambda chance: _checked({"a": [1, {"b": None}], "c": "d"}, chance), read


RECORD_TARGETS = (
    Target("manifests", _manifests),
    Target("records with their sha256", _own_sha256),
    Target("run records", _records),
    Target("pointers", _pointers),
    Target("kept answers", _kept_answers),
    Target("recipes", _recipes, 1_000),
    Target("overrides", _overrides, 1_000),
    Target("studies", _studies, 1_000),
    Target("mirage.json", _mirage_json, 1_000),
    Target("safetensors headers", _headers, 5_000),
    Target("training checkpoints", _checkpoints, 5_000),
)
