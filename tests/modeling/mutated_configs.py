"""Configurations with something changed in each, loaded and built one after the other in a process of their own.

Prints one JSON line for each: what was changed, the keys on the way there, and the error, if any.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel

import highmmt  # noqa: F401 - registers the Auto classes

Place = tuple[Any, ...]

NUMBERS = [0, 1, -1, 2, 3, 1000, 10**6, 10**7, 10**9, 2**63, 10**30, 0.5, -0.5, 1e-300, 1e308]
ODD_NUMBERS = [float("nan"), float("inf"), -float("inf")]
TEXTS = ["", "x", "null", "128", "../up", "a/b", "a+b", "\u00e4\u4e2d\u0000", "x" * 100_000, "one_hot", "learned"]


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def any_value(rng: random.Random) -> Any:
    return rng.choice(
        [
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(ODD_NUMBERS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice([None, True, False]),
            lambda: rng.choice([[], {}, [1, 2], {"a": 1}, [[]], [None], list(range(5000))]),
            lambda: nested(rng.choice([3, 50, 300]), rng.choice([list, dict])),
        ]
    )()


def places(value: Any, path: Place = ()) -> list[Place]:
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def parent_of(config: Any, path: Place) -> Any:
    for key in path[:-1]:
        config = config[key]
    return config


def mutated(original: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str, list[Any]]:
    """A changed copy, what was done, and the keys on the way to the change."""
    config = copy.deepcopy(original)
    all_places = places(config)
    # Settings of their own as often as what lies within modalities, tasks and groups.
    path = rng.choice([place for place in all_places if len(place) == 1] if rng.random() < 0.4 else all_places)
    if path == ("model_type",):  # by this one transformers tells whose configuration it is
        return mutated(original, rng)
    parent, key = parent_of(config, path), path[-1]
    kind = rng.choice(["replace"] * 6 + ["delete", "rename", "add", "swap", "scale"])
    if kind == "delete":
        del parent[key]
        return config, f"delete {path}", [*path]
    if kind == "rename" and isinstance(parent, dict):
        name = rng.choice([f"{key}s", f"{key}"[:-1], "a/b", "", "x" * 10_000, f" {key}", str(key).upper()])
        parent[name] = parent.pop(key)
        return config, f"rename {path} to {name[:40]!r}", [*path, name]
    if kind == "add" and isinstance(parent, dict):
        name, value = (
            rng.choice(
                ["num_labels", "id2label", "zzz", "vocab_size", "groups", "group_modalities", "group_adapter_rank"]
            ),
            any_value(rng),
        )
        parent[name] = value
        return config, f"add {(*path[:-1], name)}={str(value)[:40]}", [*path[:-1], name]
    if kind == "swap":
        other = rng.choice(all_places)
        value = copy.deepcopy(parent_of(config, other)[other[-1]])
        parent[key] = value
        return config, f"put {other} in place of {path}", [*path, *other]
    if kind == "scale" and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice([10, 1000, 10**5, 10**6, -1, 0.5])
        return config, f"scale {path} to {parent[key]}", [*path]
    parent[key] = any_value(rng)
    return config, f"replace {path} by {str(parent[key])[:40]}", [*path]


def main(original: Path, folder: Path, count: int, seed: int) -> None:
    """Mutate, load, build, report."""
    config = json.loads(original.read_text(encoding="utf-8"))
    rng = random.Random(seed)
    # The address space may grow by 1 GB and no more: what asks for more fails with an error that is not ours.
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))
    for _ in range(count):
        changed, what, keys = mutated(config, rng)
        (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        try:
            AutoModel.from_config(AutoConfig.from_pretrained(folder))
            error = None
        except Exception as caught:  # noqa: BLE001 - whatever comes is what is asked for
            error = [[kind.__name__ for kind in type(caught).__mro__], str(caught)]
        sys.stdout.write(json.dumps({"what": what, "keys": keys, "error": error}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
