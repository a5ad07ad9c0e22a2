"""The authors' pickled checkpoints: the same logits after conversion, and nothing of a hostile file is ever run."""

from __future__ import annotations

import codecs
import contextlib
import copyreg
import io
import os
import pickle  # noqa: TID251 - hostile pickles are what this file tests
import re
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel

import highmmt  # noqa: F401 - registers the Auto classes
from highmmt.modeling_highmmt import HighMMTModel
from highmmt.modeling_highmmt.convert_highmmt_original_to_hf import convert_original_checkpoint
from highmmt.modeling_highmmt.original_checkpoint import read_original_checkpoint

# --- Small modules under the names of the public code ---------------------------------------------------------------

# Channels, axes, bands, max_freq and the shape of one input. Not in the order of their names, as in the public script.
MODALITIES = {
    "static": (1, 1, 6, 1, (5,)),
    "timeseries": (1, 2, 2, 1, (3, 2)),
    "colorlessimage": (4, 2, 1, 8, (2, 2)),
    "audiospec": (6, 2, 2, 1, (2, 3)),
    "feature1": (3, 1, 3, 1, (4,)),
    "feature2": (7, 1, 3, 1, (4,)),
    "feature3": (5, 1, 3, 1, (6,)),
    "feature4": (8, 1, 3, 1, (2,)),
    "feature5": (2, 1, 3, 1, (3,)),
}
TASKS = {
    "mimic": ["static", "timeseries"],
    "avmnist": ["colorlessimage", "audiospec"],
    "mosei": ["feature1", "feature2", "feature3"],
    "urfunny": ["feature4", "feature5", "feature3"],
}
LABELS = {"mimic": 2, "avmnist": 10, "mosei": 2, "urfunny": 2}


@dataclass
class InputModality:
    name: str
    input_channels: int
    input_axis: int
    num_freq_bands: int
    max_freq: float
    freq_base: int = 2


class MultiModalityPerceiver(nn.Module):
    pass


class PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module, context_dim: int | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(context_dim) if context_dim else None


class Attention(nn.Module):
    def __init__(self, dim: int, context_dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.scale, self.heads = width**-0.5, heads
        self.to_q = nn.Linear(dim, heads * width, bias=False)
        self.to_kv = nn.Linear(context_dim, heads * width * 2, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * width, dim), nn.Dropout(0.0))


class GEGLU(nn.Module):
    pass


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim * 8), GEGLU(), nn.Dropout(0.0), nn.Linear(dim * 4, dim))


class LatentTransformer(nn.Module):
    def __init__(self, blocks: list[nn.ModuleList]) -> None:
        super().__init__()
        self.num_latent_blocks_per_layer = len(blocks)
        self.latent_blocks = nn.ModuleList(blocks)


PUBLIC = {
    "private_test_scripts.perceivers.crossattnperceiver": [MultiModalityPerceiver],
    "perceiver_pytorch.perceiver_pytorch": [PreNorm, Attention, FeedForward, GEGLU],
    "perceiver_pytorch.common": [LatentTransformer],
    "perceiver_pytorch.modalities": [InputModality],
}


@pytest.fixture(scope="module", autouse=True)
def public_names() -> Iterator[None]:
    """The classes above under the module names that the public code has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, classes in PUBLIC.items():
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                parent = ".".join(parts[:end])
                if parent not in sys.modules or end == len(parts):
                    patch.setitem(sys.modules, parent, ModuleType(parent))
            for kind in classes:
                setattr(sys.modules[name], kind.__name__, kind)
                patch.setattr(kind, "__module__", name)
        yield


def perceiver(
    tasks: dict[str, list[str]] = TASKS,
    labels: dict[str, int] = LABELS,
    *,
    seed: int = 0,
    embed: bool = True,
    latents: int = 3,
    dim: int = 8,
    depth: int = 1,
    cross_depth: int = 1,
    blocks: int = 1,
    heads: tuple[int, int, int] = (1, 4, 2),
    widths: tuple[int, int] = (5, 3),
    tied: bool = False,
) -> MultiModalityPerceiver:
    torch.manual_seed(seed)
    root = MultiModalityPerceiver()
    root.modalities = tuple(InputModality(name, *entry[:4]) for name, entry in MODALITIES.items())
    root.embed_size, root.recon = 10, None
    root.modality_encoding_dim = 10 if embed else len(MODALITIES)
    context = max(c + a * (2 * k + 1) for c, a, k, _, _ in MODALITIES.values()) + root.modality_encoding_dim
    root.max_modality_dim = context
    root.latents = nn.Parameter(torch.randn(latents, dim))
    if embed:
        root.embed = nn.Parameter(torch.randn(len(MODALITIES), 10))
    else:
        root.embed = None

    def part(count: int, context_dim: int, cross_heads: int) -> nn.ModuleList:
        layers: list[nn.ModuleList] = []
        for index in range(count):
            cross = PreNorm(dim, Attention(dim, context_dim, cross_heads, widths[0]), context_dim)
            feed_forward = PreNorm(dim, FeedForward(dim))
            if tied and index > 1:  # the public code ties from its second layer on
                cross, feed_forward = layers[1][0], layers[1][1]
            inner = [
                nn.ModuleList([PreNorm(dim, Attention(dim, dim, heads[2], widths[1])), PreNorm(dim, FeedForward(dim))])
                for _ in range(blocks)
            ]
            layers.append(nn.ModuleList([cross, feed_forward, LatentTransformer(inner)]))
        return nn.ModuleList(layers)

    root.layers = part(depth, context, heads[0])
    root.cross_layers = part(cross_depth, dim, heads[1])
    sizes = [
        (len(names) * (len(names) - 1) * dim if len(names) > 1 else latents * dim, labels[task])
        for task, names in tasks.items()
    ]
    root.to_logitslist = nn.ModuleList(
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, count)) for width, count in sizes
    )
    root.to_logits = root.to_logitslist[-1]
    with torch.no_grad():
        # Norms away from 1 and 0, so that a norm left out is seen.
        for module in root.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(0.3 * torch.randn_like(module.weight))
                module.bias.add_(0.3 * torch.randn_like(module.bias))
    return root


def save(module: object, path: Path, **options: Any) -> Path:
    torch.save(module, path, **options)  # noqa: TID251 - as the public code saves its models
    return path


def batch(names: list[str], size: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(names))
    return {name: torch.randn(size, *MODALITIES[name][4], MODALITIES[name][0], generator=generator) for name in names}


# --- The public model's arithmetic, from section 4 of the blueprint, on the modules above ---------------------------


def attend(norm: PreNorm, x: Tensor, context: Tensor | None = None) -> Tensor:
    module, x = norm.fn, norm.norm(x)
    context = x if context is None else norm.norm_context(context)
    key, value = module.to_kv(context).chunk(2, dim=-1)
    query, key, value = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (module.to_q(x), key, value))
    read = torch.softmax(query @ key.transpose(2, 3) * module.scale, dim=-1) @ value
    return module.to_out(read.transpose(1, 2).flatten(2))


def feed(norm: PreNorm, x: Tensor) -> Tensor:
    net = norm.fn.net
    value, gate = net[0](norm.norm(x)).chunk(2, dim=-1)
    return net[3](value * F.gelu(gate))


def run_layers(layers: nn.ModuleList, z: Tensor, context: Tensor) -> Tensor:
    for cross, feed_forward, transformer in layers:
        z = attend(cross, z, context) + z
        z = feed(feed_forward, z) + z
        inner = z
        for attention, block_feed in transformer.latent_blocks:
            inner = attend(attention, inner) + inner
            inner = feed(block_feed, inner) + inner
        z = inner + z
    return z


def element(root: MultiModalityPerceiver, name: str, data: Tensor) -> Tensor:
    index, modality = next((i, m) for i, m in enumerate(root.modalities) if m.name == name)
    bands = torch.logspace(1, torch.log2(torch.tensor(modality.max_freq / 2)).item(), modality.num_freq_bands, base=2)
    parts = []
    for grid in torch.meshgrid(*(torch.linspace(-1, 1, size) for size in data.shape[1:-1]), indexing="ij"):
        angle = grid[..., None] * bands * torch.pi
        parts += [angle.sin(), angle.cos(), grid[..., None]]
    row = torch.eye(len(root.modalities))[index] if root.embed is None else root.embed[index]
    right = torch.cat([*parts, row.expand(*data.shape[1:-1], -1)], dim=-1).expand(len(data), *[-1] * (data.dim() - 1))
    zeros = data.new_zeros(*data.shape[:-1], root.max_modality_dim - data.shape[-1] - right.shape[-1])
    return torch.cat([data, zeros, right], dim=-1).flatten(1, -2)


@torch.no_grad()
def original_logits(root: MultiModalityPerceiver, head: int, inputs: dict[str, Tensor]) -> Tensor:
    latents = []
    for name in sorted(inputs):
        start = root.latents.expand(len(inputs[name]), -1, -1)
        latents.append(run_layers(root.layers, start, element(root, name, inputs[name])))
    if len(latents) == 1:
        return root.to_logitslist[head](latents[0].flatten(1))
    pairs = [run_layers(root.cross_layers, a, b)[:, -1] for a in latents for b in latents if a is not b]
    return root.to_logitslist[head](torch.cat(pairs, dim=1))


# --- Same numbers ----------------------------------------------------------------------------------------------------


def test_the_published_checkpoint_gives_the_published_logits(reference_dir: Path, tmp_path: Path) -> None:
    parity = reference_dir / "parity"
    model = convert_original_checkpoint(parity / "original_checkpoint.pt", tmp_path / "out")
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    expected = load_file(parity / "original_checkpoint.expected.safetensors")
    inputs: dict[str, dict[str, Tensor]] = {}
    for name, value in expected.items():
        task, modality = name.split(".")
        if task != "logits":
            inputs.setdefault(task, {})[modality] = value
    assert list(inputs) and list(loaded.config.tasks)[:3] == ["mimic", "avmnist", "mosei"]
    with torch.no_grad():
        outputs = model(inputs=inputs), loaded(inputs=inputs)
    for task in inputs:
        for output in outputs:
            torch.testing.assert_close(output.logits[task], expected[f"logits.{task}"], atol=1e-5, rtol=0)
    # As counted in the public file, whose first head reads two modalities through two pairs of 32.
    assert loaded.num_parameters() == 147_378
    assert loaded.config.d_all == 388
    assert (loaded.config.num_latents, loaded.config.d_latents, loaded.config.modality_embedding_dim) == (16, 32, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embed": False},
        {"depth": 3, "cross_depth": 3, "blocks": 2},
        {"depth": 4, "cross_depth": 3, "tied": True},
        {"latents": 5, "dim": 6, "heads": (3, 2, 4), "widths": (4, 7)},
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_a_saved_module_gives_its_own_logits_after_conversion(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = perceiver(**changes)
    model = convert_original_checkpoint(save(root, tmp_path / "model.pt"), tmp_path / "out")
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    for head, (task, names) in enumerate(TASKS.items()):
        inputs = batch(names)
        expected = original_logits(root, head, inputs)
        with torch.no_grad():
            for ours in (model, loaded):
                torch.testing.assert_close(ours(inputs={task: inputs}).logits[task], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_heads_are_the_first_tasks_of_the_public_script(tmp_path: Path, count: int) -> None:
    tasks = dict(list(TASKS.items())[:count])
    model = convert_original_checkpoint(save(perceiver(tasks), tmp_path / "model.pt"), tmp_path / "out")
    assert list(model.config.tasks) == list(tasks)
    assert list(model.config.modalities) == list(MODALITIES)


def test_other_tasks_can_be_named(tmp_path: Path) -> None:
    tasks = {"sound": ["audiospec"], "push": ["feature5", "static"]}
    root = perceiver(tasks, {"sound": 3, "push": 1})
    path = save(root, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"its heads \(24 -> 3, 16 -> 1\) are not those of the tasks mimic, avmnist"):
        convert_original_checkpoint(path, tmp_path / "out")
    described = {
        "sound": {"modalities": ["audiospec"]},
        "push": {"modalities": ["feature5", "static"], "problem_type": "regression"},
    }
    model = convert_original_checkpoint(path, tmp_path / "out", described)
    assert [task.problem_type for task in model.config.tasks.values()] == ["single_label_classification", "regression"]
    for head, (task, names) in enumerate(tasks.items()):
        inputs = batch(names)
        with torch.no_grad():
            ours = model(inputs={task: inputs}).logits[task]
        torch.testing.assert_close(ours, original_logits(root, head, inputs), atol=1e-5, rtol=1e-5)


def test_a_module_without_a_list_of_heads_has_one_task(tmp_path: Path) -> None:
    root = perceiver({"mimic": TASKS["mimic"]})
    expected = original_logits(root, 0, batch(TASKS["mimic"]))
    del root.to_logitslist
    model = convert_original_checkpoint(save(root, tmp_path / "model.pt"), tmp_path / "out")
    with torch.no_grad():
        ours = model(inputs={"mimic": batch(TASKS["mimic"])}).logits["mimic"]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_can_write_reads_the_same(tmp_path: Path, protocol: int) -> None:
    root = perceiver()
    weights, _ = read_original_checkpoint(save(root, tmp_path / "model.pt", pickle_protocol=protocol))
    assert torch.equal(weights["group0.latents"], root.latents)
    assert torch.equal(weights["heads.mosei.1.bias"], root.to_logitslist[2][1].bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floating_point_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    root = perceiver().to(dtype)
    weights, _ = read_original_checkpoint(save(root, tmp_path / "model.pt"))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert torch.equal(weights["group0.embed"], root.embed.float())


def test_what_a_forward_pass_leaves_on_a_module_is_of_no_account(tmp_path: Path) -> None:
    root = perceiver()
    before, _ = read_original_checkpoint(save(root, tmp_path / "before.pt"))
    root.attns = {"static": torch.rand(2, 3)}
    root.layers[0][0].fn.printattn = torch.rand(4)
    after, _ = read_original_checkpoint(save(root, tmp_path / "after.pt"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_views_into_one_storage_are_read_where_they_are(tmp_path: Path) -> None:
    root = perceiver()
    shared = torch.randn(10, 10)
    root.embed = nn.Parameter(shared.t()[:9])
    weights, _ = read_original_checkpoint(save(root, tmp_path / "model.pt"))
    assert torch.equal(weights["group0.embed"], shared.t()[:9])


def test_the_card_says_where_the_weights_come_from(tmp_path: Path) -> None:
    convert_original_checkpoint(save(perceiver(), tmp_path / "model.pt"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for part in (
        "library_name: highmmt",
        "`model.pt` (SHA-256 `",
        "`avmnist` (10 labels) from `audiospec`",
        "licence",
    ):
        assert part in card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_conversion_draws_no_random_number(tmp_path: Path) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    torch.manual_seed(7)
    convert_original_checkpoint(path, tmp_path / "out")
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


# --- Where the folder goes -------------------------------------------------------------------------------------------


def test_an_earlier_model_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    out = tmp_path / "out"
    out.mkdir()
    convert_original_checkpoint(path, out)
    convert_original_checkpoint(path, out)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is not empty and holds no HighMMT model"):
        convert_original_checkpoint(path, thesis)
    with pytest.raises(ValueError, match="holds the checkpoint itself"):
        convert_original_checkpoint(path, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        convert_original_checkpoint(path, thesis / "thesis.txt")
    assert (thesis / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert path.is_file()


def test_a_failed_conversion_leaves_nothing_and_the_old_model_as_it_was(tmp_path: Path) -> None:
    good, out = save(perceiver(), tmp_path / "model.pt"), tmp_path / "out"
    convert_original_checkpoint(good, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    bad = write(tmp_path / "bad.pt", b"\x80\x02cos\nsystem\n.")
    for target in (out, tmp_path / "new"):
        with pytest.raises(ValueError, match=r"os\.system"):
            convert_original_checkpoint(bad, target)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt", "model.pt", "out"]


# --- Hostile pickles -------------------------------------------------------------------------------------------------


def write(path: Path, program: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A zip file as torch.save makes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: str | bytes) -> bytes:
    """A call with texts, and with what further instructions put on the stack."""
    inside = b"".join(text(value) if isinstance(value, str) else value for value in arguments)
    return function + b"(" + inside + b"tR"


def stacked(module: str, attribute: str) -> bytes:
    """A name as protocol 4 writes it, which may have dots."""
    return text(module) + text(attribute) + b"\x93"


TWO, FOUR = b"\x80\x02", b"\x80\x04"
MKDIR = name("os", "mkdir")
EXTENSION = 240

# Each makes a folder at the path it is given when Python's own unpickler reads it; and what the refusal must name.
RUNS_CODE: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.mkdir": (lambda c: call(MKDIR, c), "os.mkdir"),
    "os.system": (lambda c: call(name("os", "system"), f"mkdir {c}"), "os.system"),
    "posix.system": (lambda c: call(name("posix", "system"), f"mkdir {c}"), "posix.system"),
    "eval": (lambda c: call(name("builtins", "eval"), f"__import__('os').mkdir('{c}')"), "builtins.eval"),
    "exec": (lambda c: call(name("builtins", "exec"), f"import os; os.mkdir('{c}')"), "builtins.exec"),
    "eval, by its name in Python 2": (
        lambda c: call(name("__builtin__", "eval"), f"__import__('os').mkdir('{c}')"),
        "__builtin__.eval",
    ),
    "getattr of an import": (
        lambda c: call(
            call(name("builtins", "getattr"), call(name("builtins", "__import__"), "os"), "mkdir"),
            c,
        ),
        "builtins.getattr",
    ),
    "import_module": (
        lambda c: call(name("importlib", "import_module"), "os") + b"0" + call(MKDIR, c),
        "importlib.import_module",
    ),
    "subprocess.call": (
        lambda c: call(name("subprocess", "call"), b"](" + text("mkdir") + text(c) + b"e"),
        "subprocess.call",
    ),
    "subprocess.check_output": (
        lambda c: call(name("subprocess", "check_output"), b"](" + text("mkdir") + text(c) + b"e"),
        "subprocess.check_output",
    ),
    "timeit": (
        lambda c: call(
            name("timeit", "timeit"), f"import os; os.mkdir('{c}')", "pass", name("time", "perf_counter"), b"K\x01"
        ),
        "timeit.timeit",
    ),
    "runpy": (
        lambda c: call(
            name("runpy", "_run_code"),
            call(name("builtins", "compile"), f"mkdir('{c}')", "f", "exec"),
            b"}(" + text("mkdir") + MKDIR + b"u",
        ),
        "runpy._run_code",
    ),
    "decoded text": (
        lambda c: call(
            name("builtins", "exec"),
            call(name("codecs", "decode"), codecs.encode(f"import os; os.mkdir('{c}')", "rot13"), "rot13"),
        ),
        "builtins.exec",
    ),
    "names of tokens": (
        lambda c: call(name("_codecs", "encode"), "x", "latin1") + b"0" + call(MKDIR, c),
        "_codecs.encode",
    ),
    "STACK_GLOBAL": (lambda c: call(stacked("os", "mkdir"), c), "os.mkdir"),
    "STACK_GLOBAL from the memo": (
        lambda c: text("mkdir") + b"\x94" + text("os") + b"\x94h\x01h\x00\x93(" + text(c) + b"tR",
        "os.mkdir",
    ),
    "dotted name": (lambda c: call(stacked("os", "path.os.mkdir"), c), "os.path.os.mkdir"),
    "dotted name within an allowed module": (
        lambda c: call(call(stacked("torch._utils", "sys.modules.get"), "os") + b"0" + MKDIR, c),
        "torch._utils.sys.modules.get",
    ),
    "dotted name of an allowed class": (
        lambda c: call(stacked("collections", "OrderedDict.fromkeys"), "x") + b"0" + call(MKDIR, c),
        "collections.OrderedDict.fromkeys",
    ),
    "INST": (lambda c: b"(" + text(c) + b"ios\nmkdir\n", "os.mkdir"),
    "OBJ": (lambda c: b"(" + MKDIR + text(c) + b"o", "os.mkdir"),
    "NEWOBJ": (
        lambda c: name("builtins", "tuple") + name("builtins", "map") + MKDIR + b"](" + text(c) + b"e\x86\x81\x85\x81",
        "builtins.tuple",
    ),
    "NEWOBJ_EX": (
        lambda c: (
            name("builtins", "tuple") + name("builtins", "map") + MKDIR + b"](" + text(c) + b"e\x86}\x92\x85}\x92"
        ),
        "builtins.tuple",
    ),
    "EXT1": (lambda c: call(b"\x82\xf0", c), f"extension {EXTENSION}"),
    "EXT2": (lambda c: call(b"\x83\xf0\x00", c), f"extension {EXTENSION}"),
    "EXT4": (lambda c: call(b"\x84\xf0\x00\x00\x00", c), f"extension {EXTENSION}"),
    "__setstate__ with a function": (
        lambda c: call(
            call(name("functools", "partial"), name("builtins", "print")) + b"(" + MKDIR + text(c) + b"\x85}}tb"
        ),
        "functools.partial",
    ),
    "attributes set on a class": (
        lambda c: call(name("types", "SimpleNamespace")) + b"}" + text("append") + MKDIR + b"sb" + text(c) + b"a",
        "types.SimpleNamespace",
    ),
    "methodcaller": (
        lambda c: (
            name("operator", "methodcaller")
            + b"("
            + text("mkdir")
            + text(c)
            + b"tR("
            + call(name("importlib", "import_module"), "os")
            + b"tR"
        ),
        "operator.methodcaller",
    ),
    "defaultdict": (
        lambda c: call(
            name("operator", "getitem"),
            call(name("collections", "defaultdict"), call(name("functools", "partial"), MKDIR, c)),
            "any",
        ),
        "operator.getitem",
    ),
    "a path's method": (
        lambda c: call(stacked("pathlib", "Path.mkdir"), call(name("pathlib", "Path"), c)),
        "pathlib.Path.mkdir",
    ),
    "a pickle within": (
        lambda c: call(name("pickle", "loads"), _bytes(call(MKDIR, c) + b".")),
        "pickle.loads",
    ),
    "a checkpoint of torch within": (
        lambda c: call(name("torch.storage", "_load_from_bytes"), _bytes(_legacy(call(MKDIR, c) + b"."))),
        "torch.storage._load_from_bytes",
    ),
    "a tensor of another type": (
        lambda c: call(
            name("torch._tensor", "_rebuild_from_type_v2"), MKDIR, name("builtins", "str"), text(c) + b"\x85", b"N"
        ),
        "torch._tensor._rebuild_from_type_v2",
    ),
    "copyreg": (
        lambda c: (
            call(name("copyreg", "_reconstructor"), name("builtins", "object"), name("builtins", "object"), b"N")
            + b"0"
            + call(MKDIR, c)
        ),
        "copyreg._reconstructor",
    ),
    "as a key": (lambda c: b"}" + call(MKDIR, c) + b"K\x01s", "os.mkdir"),
    "behind an allowed call": (lambda c: DICT + call(MKDIR, c), "os.mkdir"),
    "as the state of an allowed class": (lambda c: LINEAR + b")\x81" + call(MKDIR, c) + b"0}b", "os.mkdir"),
    "as a storage's type": (
        lambda c: call(MKDIR, c) + b"0(" + text("storage") + MKDIR + text("0") + text("cpu") + b"K\x01t",
        "os.mkdir",
    ),
}


def _bytes(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def _legacy(program: bytes) -> bytes:
    """The start of torch's file format before zip files, which loads pickles one after the other."""
    magic, protocol = 0x1950A86A20F9469CFC6C, 1001
    return b"".join(pickle.dumps(part, 2) for part in (magic, protocol)) + b"\x80\x02" + program


DICT = call(name("collections", "OrderedDict"))
LINEAR = name("torch.nn.modules.linear", "Linear")


@pytest.fixture
def extension() -> Iterator[None]:
    copyreg.add_extension("os", "mkdir", EXTENSION)
    yield
    copyreg.remove_extension("os", "mkdir", EXTENSION)


@pytest.mark.parametrize("kind", RUNS_CODE)
@pytest.mark.parametrize("header", [TWO, FOUR, b""], ids=["protocol 2", "protocol 4", "no protocol"])
def test_a_pickle_that_runs_code_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, extension: None, kind: str, header: bytes
) -> None:
    program, named = RUNS_CODE[kind]
    canary = tmp_path / "canary"
    hostile = header + program(str(canary)) + b"."
    path = write(tmp_path / "hostile.pt", hostile, {"0": bytes(4)})
    with pytest.raises(ValueError, match=re.escape(named)):
        convert_original_checkpoint(path, tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hostile.pt"]


@pytest.mark.parametrize("kind", RUNS_CODE)
def test_these_pickles_do_run_code_where_nothing_stops_them(tmp_path: Path, extension: None, kind: str) -> None:
    canary = tmp_path / "canary"
    for header in (TWO, FOUR):  # names of Python 2 are known up to protocol 2, dotted names from protocol 4
        with contextlib.suppress(Exception):  # most end in an error, after the folder has been made
            pickle.loads(header + RUNS_CODE[kind][0](str(canary)) + b".")
    assert canary.is_dir()


class Hidden:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "hide",
    [
        lambda root, evil: setattr(root, "attns", {"static": evil}),
        lambda root, evil: setattr(root, "recon", evil),
        lambda root, evil: setattr(root.modalities[3], "name", evil),
        lambda root, evil: setattr(root.layers[0][0].fn, "scale", evil),
        lambda root, evil: root._forward_hooks.__setitem__(0, evil),
        lambda root, evil: root.latents.__dict__.__setitem__("tag", evil),
    ],
    ids=["unused attribute", "recon", "modality name", "scale", "module hook", "attribute of a tensor"],
)
def test_code_hidden_in_a_real_module_is_found(
    tmp_path: Path, hide: Callable[[MultiModalityPerceiver, Hidden], None]
) -> None:
    root = perceiver()
    hide(root, Hidden(tmp_path / "canary"))
    path = save(root, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"posix\.mkdir|_rebuild_parameter_with_state"):
        convert_original_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "canary").exists()


def test_a_named_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "imports_run_code.py").write_text(f"import os; os.mkdir({str(canary)!r})", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for program in (name("imports_run_code", "x"), stacked("imports_run_code", "x"), b"(iimports_run_code\nx\n"):
        with pytest.raises(ValueError, match=r"imports_run_code\.x"):
            read_original_checkpoint(write(tmp_path / "hostile.pt", TWO + program + b"."))
    assert "imports_run_code" not in sys.modules
    assert not canary.exists()


def test_names_of_the_table_are_not_imported_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    for module in PUBLIC:
        monkeypatch.setitem(sys.modules, module, None)  # an import would fail now
    read_original_checkpoint(path)


def storage(key: bytes = text("0"), size: bytes = b"K\x04", kind: bytes = name("torch", "FloatStorage")) -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + size + b"tQ"


def tensor(of: bytes, *rest: bytes) -> bytes:
    parts = rest or (b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", DICT)
    return call(name("torch._utils", "_rebuild_tensor_v2"), of, *parts)


# Nothing of the table may be bent into something else. Program, and what the refusal must say.
BENT: dict[str, tuple[bytes, str]] = {
    "a class is called": (call(LINEAR), "calls torch.nn.modules.linear.Linear"),
    "a storage's type is called": (call(name("torch", "FloatStorage")), "calls torch.FloatStorage"),
    "an object is called": (call(LINEAR + b")\x81"), "calls an object of Linear"),
    "a text is called": (call(text("os.system")), "calls 'os.system'"),
    "a function is called with no tuple": (
        name("collections", "OrderedDict") + b"]R",
        "calls collections.OrderedDict",
    ),
    "a function is made an object": (
        name("collections", "OrderedDict") + b")\x81",
        "object of collections.OrderedDict",
    ),
    "an object is made with arguments": (LINEAR + text("x") + b"\x85\x81", "makes an object of torch.nn.modules"),
    "the state of a class is set": (LINEAR + b"}" + text("kind") + text("x") + b"sb", "the state of torch.nn.modules"),
    "the state of a function is set": (
        name("torch._utils", "_rebuild_parameter") + b"}" + text("__code__") + text("x") + b"sb",
        "the state of torch._utils._rebuild_parameter",
    ),
    "the state of a mapping is set": (DICT + b"}b", "the state of a dict"),
    "the state of a tensor is set": (tensor(storage()) + b"}b", "the state of a _TensorReference"),
    "slots are set": (LINEAR + b")\x81N}" + text("kind") + text("x") + b"s\x86b", "to a tuple"),
    "a state is set twice": (LINEAR + b")\x81}b}b", "the state of an object of Linear"),
    "a state that is a function": (
        LINEAR + b")\x81" + name("collections", "OrderedDict") + b"b",
        "OrderedDict, which",
    ),
    "a set of something": (call(name("builtins", "set"), b"](K\x01e"), "a set that is not empty"),
    "a mapping of something": (
        call(name("collections", "OrderedDict"), b"](" + text("a") + b"K\x01\x86e"),
        "a dict that",
    ),
    "an append to an object": (LINEAR + b")\x81K\x01a", "appends to an object of Linear"),
    "an item of an object": (LINEAR + b")\x81" + text("a") + b"K\x01s", "sets entries of an object of Linear"),
    "an addition to a list": (b"](K\x01\x90", "adds to a list"),
    "a key that is a tuple": (b"}" + b")" + b"\x85" * 200_000 + b"K\x01s", "a key that is a tuple"),
    "a set's tuple": (b"\x8f()" + b"\x85" * 200_000 + b"\x90", "a key that is a tuple"),
    "half an item": (b"}(" + text("a") + b"u", "sets entries of a dict"),
    "whole numbers": (storage(kind=name("torch", "LongStorage")), "torch.LongStorage"),
    "storages of bytes": (storage(kind=name("torch.storage", "UntypedStorage")), "torch.storage.UntypedStorage"),
    "a storage of a class": (storage(kind=LINEAR), "a storage of the type torch.nn.modules.linear.Linear"),
    "a storage of a text": (storage(kind=text("torch.FloatStorage")), "a storage of the type 'torch.FloatStorage'"),
    "a path for a key": (storage(key=text("../../etc/passwd")), "'../../etc/passwd', which is no number"),
    "a key that is a number": (storage(key=b"K\x00"), "a storage with the key 0"),
    "a key that is not there": (storage(key=text("7")), "no entry 'data/7'"),
    "more numbers than there are": (storage(size=b"K\x05"), "storage 0 has 16 bytes, its pickle says 5 numbers"),
    "fewer numbers than there are": (storage(size=b"K\x03"), "storage 0 has 16 bytes, its pickle says 3 numbers"),
    "a negative number of numbers": (storage(size=b"J\xff\xff\xff\xff"), "the size of storage 0 is -1"),
    "numbers without end": (storage(size=b"\x8a\xff" + b"\x7f" * 255), "the size of storage 0 is a number of"),
    "a truth for a size": (storage(size=b"\x88"), "the size of storage 0 is True"),
    "one storage of two types": (
        storage() + storage(kind=name("torch", "HalfStorage"), size=b"K\x08"),
        "storage 0 is of two types",
    ),
    "a persistent id that is a text": (text("storage") + b"Q", "a persistent id that is not"),
    "a persistent id of another kind": (b"(" + text("module") + LINEAR + b"NNNtQ", "a persistent id that is not"),
    "a persistent id as a line": (b"Pstorage\n", "instruction b'P'"),
    "a tensor of a tuple": (tensor(b"(K\x01t"), "of something that is no storage"),
    "a tensor with a hook": (
        tensor(storage(), b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", b"}" + text("a") + LINEAR + b"s"),
        "a tensor with hooks",
    ),
    "a tensor with metadata": (
        tensor(storage(), b"K\x00", b"K\x04\x85", b"K\x01\x85", b"\x89", DICT, b"}"),
        "of something that is no storage",
    ),
    "a parameter of a text": (call(name("torch._utils", "_rebuild_parameter"), "x", b"\x88", DICT), "no tensor"),
    "a parameter with a hook": (
        call(name("torch._utils", "_rebuild_parameter"), tensor(storage()), b"\x88", b"}" + text("a") + LINEAR + b"s"),
        "a tensor with hooks",
    ),
    "axes without strides": (tensor(storage(), b"K\x00", b"K\x04\x85", b")", b"\x89", DICT), "1 axes and 0 strides"),
    "nine axes": (
        tensor(storage(), b"K\x00", b"(" + b"K\x01" * 9 + b"t", b"(" + b"K\x01" * 9 + b"t", b"\x89", DICT),
        "9 axes",
    ),
    "a negative offset": (tensor(storage(), b"J\xff\xff\xff\xff", b"K\x04\x85", b"K\x01\x85", b"\x89", DICT), "is -1"),
    "a buffer outside": (b"\x97", "instruction b'\\x97'"),
    "bytes": (b"C\x02ab", "instruction b'C'"),
    "a line of digits": (b"I" + b"9" * 10_000 + b"\n", "instruction b'I'"),
    "a number of four bytes' length": (b"\x8b\x01\x00\x00\x00\x01", "instruction b'\\x8b'"),
    "a quoted text": (b"S'a'\n", "instruction b'S'"),
    "nothing on the stack": (b"\x85", "an empty stack"),
    "nothing under a mark": (b"(q\x00", "an empty stack"),
    "a mark that was not set": (b"t", "closes what it has not opened"),
    "a mark left open": (b"(N", "does not end with one object"),
    "two objects": (b"NN", "does not end with one object"),
    "more after the end": (b"N.N", "does not end with one object"),
    "an empty memo": (b"h\x05", "refers to an object that it has not made"),
    "another protocol": (b"\x80\x06N", "protocol 6"),
    "a number": (b"K\x01", "the module is 1, expected an object of MultiModalityPerceiver"),
    "a part of a model": (LINEAR + b")\x81}b", "the module is an object of Linear"),
    "a model without attributes": (
        name("private_test_scripts.perceivers.crossattnperceiver", "MultiModalityPerceiver") + b")\x81",
        "the module has no attributes",
    ),
    "a name with a space": (name("torch", "FloatStorage os"), "torch.FloatStorage os"),
    "a name in another module": (name("torch.nn", "Linear"), "torch.nn.Linear"),
    "a name that is no text": (b"K\x01" + text("x") + b"\x93", "a name that is no text"),
    "a name that is not UTF-8": (b"c\xff\xfe\nx\n", r"'\\xff\\xfe.x'"),
    "a text that is not UTF-8": (b"X\x02\x00\x00\x00\xff\xfe", "decode"),
}


@pytest.mark.parametrize("kind", BENT)
def test_a_bent_pickle_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    program, reason = BENT[kind]
    path = write(tmp_path / "bent.pt", TWO + program + b".", {"0": bytes(16)})
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read_original_checkpoint(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\xff.",  # a memo of four thousand million places
        b"\x95" + b"\xff" * 8 + b"N.",  # a frame of 2^64 bytes
        b"X\xff\xff\xff\xffa",  # a text of 4 GiB
        b"\x8b\xff\xff\xff\x7f",  # a number of 2 GiB
        b"\x8e" + b"\xff" * 7 + b"\x00",  # bytes of 2^56
        b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e.",  # a list that holds itself
        b"]" * 500_000,
    ],
    ids=["memo", "frame", "text", "number", "bytes", "itself", "objects"],
)
def test_a_claim_of_size_costs_no_memory(tmp_path: Path, program: bytes) -> None:
    path = write(tmp_path / "bomb.pt", TWO + program)
    tracemalloc.start()
    with pytest.raises(ValueError):
        read_original_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20


def test_the_table_is_as_it_was_after_every_attack(tmp_path: Path) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    before, description = read_original_checkpoint(path)
    for number, (program, _) in enumerate(BENT.values()):
        with pytest.raises(ValueError):
            read_original_checkpoint(write(tmp_path / f"{number}.pt", TWO + program + b".", {"0": bytes(16)}))
    after, again = read_original_checkpoint(path)
    assert again == description
    assert all(torch.equal(before[key], after[key]) for key in before)


# --- Damaged files ---------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path


def entry(entries: dict[str, bytes], end: str) -> str:
    return next(key for key in entries if key.endswith(end))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.pop(entry(e, "/data.pkl")), "this zip file has 0"),
        (lambda e: e.update({"other/data.pkl": b"N."}), "this zip file has 2"),
        (lambda e: e.pop(entry(e, "/data/3")), "no entry 'data/3'"),
        (lambda e: e.update({entry(e, "/data/3"): bytes(8)}), "storage 3 has 8 bytes"),
        (lambda e: e.update({entry(e, "/data/0"): b"\xff" * 96}), "NaN or infinite"),
        (lambda e: e.update({entry(e, "/data.pkl"): b""}), "cut short"),
        (
            lambda e: e.update({entry(e, "/data.pkl"): e[entry(e, "/data.pkl")][:-200]}),
            "cut short|closes|end with one",
        ),
        (lambda e: e.update({entry(e, "/byteorder"): b"middle"}), "'middle'-endian"),
    ],
)
def test_a_changed_archive_is_refused(tmp_path: Path, change: Callable[[dict[str, bytes]], None], reason: str) -> None:
    path = rewrite(save(perceiver(), tmp_path / "model.pt"), change)
    with pytest.raises(ValueError, match=reason):
        read_original_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = rewrite(save(perceiver(), tmp_path / "model.pt"), lambda entries: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="is compressed, which torch.save never does"):
        read_original_checkpoint(path)


def test_a_directory_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(10_001):
            archive.writestr(f"model/{number}", b"")
    with pytest.raises(ValueError, match="more than the 10,000 entries"):
        read_original_checkpoint(path)


def test_a_message_carries_no_control_characters_and_no_endless_names(tmp_path: Path) -> None:
    program = stacked("\x1b[2J" + "a" * 10_000, "b\x07")
    with pytest.raises(ValueError) as caught:
        read_original_checkpoint(write(tmp_path / "hostile.pt", TWO + program + b"."))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = save(perceiver(), tmp_path / "model.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry(dict.fromkeys(archive.namelist(), b""), "/data/0"), bytes(96))
    with pytest.raises(ValueError, match="is there twice"):
        read_original_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02N.", b"x" * 5000, _legacy(b"N.")], ids=len)
def test_what_is_no_zip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a zip file as torch.save writes it"):
        convert_original_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_file_a_folder_and_a_file_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert_original_checkpoint(tmp_path / "none.pt", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        convert_original_checkpoint(tmp_path / "folder", tmp_path / "out")
    with (tmp_path / "large.pt").open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(ValueError, match="larger than the 64 MiB"):
        convert_original_checkpoint(tmp_path / "large.pt", tmp_path / "out")


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    content = save(perceiver(), tmp_path / "model.pt").read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_original_checkpoint(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(perceiver(latents=2, dim=4), tmp_path_factory.mktemp("intact") / "model.pt").read_bytes()


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_is_read_or_refused_and_nothing_else(
    tmp_path: Path, intact: bytes, data: st.DataObject
) -> None:
    with zipfile.ZipFile(io.BytesIO(intact)) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    key = entry(entries, "/data.pkl")
    program = bytearray(entries[key])
    for _ in range(data.draw(st.integers(1, 3))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for other, content in {**entries, key: bytes(program)}.items():
            archive.writestr(other, content)
    with contextlib.suppress(ValueError):
        read_original_checkpoint(path)


@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path: Path, intact: bytes, places: list[tuple[int, int]]
) -> None:
    content = bytearray(intact)
    for place, value in places:
        # Counted from the end, where the zip file's directory is.
        content[-1 - place % len(content)] = value
    path = tmp_path / "damaged.pt"
    path.write_bytes(bytes(content))
    with contextlib.suppress(ValueError):
        read_original_checkpoint(path)


# --- Modules that are none of the public ones, or none that can be converted -----------------------------------------


def replaced(index: int) -> Callable[[MultiModalityPerceiver], None]:
    def change(root: MultiModalityPerceiver) -> None:
        root.to_logitslist[index][1] = nn.Linear(root.to_logitslist[index][1].in_features, 4)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: setattr(r, "recon", "x"), "a part for reconstruction"),
        (lambda r: setattr(r.modalities[0], "freq_base", 3), "'static' has freq_base=3"),
        (lambda r: setattr(r.modalities[0], "num_freq_bands", 10**9), "num_freq_bands of modality 0 is 1000000000"),
        (lambda r: setattr(r.modalities[0], "input_axis", True), "input_axis of modality 0 is True"),
        (lambda r: setattr(r.modalities[0], "max_freq", -1), "'static'.*max_frequency"),
        (lambda r: setattr(r.modalities[0], "name", "timeseries"), "the name of modality 1 is 'timeseries'"),
        (lambda r: setattr(r.modalities[0], "name", "../x"), r"reads 'static'"),
        (lambda r: setattr(r.modalities[3], "input_channels", 7), "need elements of width 27, its encoder reads 26"),
        (lambda r: setattr(r, "modalities", ()), "modalities of the module is a tuple"),
        (lambda r: setattr(r, "modalities", r.modalities[:8]), r"embed of the module has the shape \(9, 10\) for 8"),
        (lambda r: setattr(r, "max_modality_dim", 30), "need elements of width 26.* max_modality_dim is 30"),
        (lambda r: setattr(r.layers[0][0].fn, "heads", 2), "2 heads and its scale do not fit 5 rows"),
        (lambda r: setattr(r.layers[0][0].fn, "scale", 1.0), "1 heads and its scale do not fit 5 rows"),
        (lambda r: setattr(r.layers[0][0].norm, "eps", 1e-6), "has eps=1e-06; only 1e-5"),
        (lambda r: setattr(r.layers[0][0].fn.to_out[1], "p", 0.1), "drops a share of 0.1; only 0"),
        (
            lambda r: setattr(r.layers[0][1].fn.net, "1", nn.Dropout(0.0)),
            "is an object of Dropout, expected an object",
        ),
        (lambda r: setattr(r.layers[0][1].fn.net, "1", nn.GELU()), r"torch\.nn\.modules\.activation\.GELU"),
        (lambda r: r.layers.append(r.cross_layers[0]), "cross_heads differs between the layers"),
        (lambda r: setattr(r, "layers", nn.ModuleList()), r"the module\.layers is no list of modules"),
        (lambda r: r.layers[0].append(nn.Linear(2, 2)), "'group0.layers.0.3.weight' has no place"),
        (lambda r: setattr(r, "extra", nn.Linear(2, 2)), "its weight 'extra.weight' has no place"),
        (lambda r: setattr(r, "to_logits", nn.Linear(2, 2)), "its weight 'to_logits.weight' has no place"),
        (lambda r: setattr(r.layers[0][1].fn.net, "0", nn.Linear(8, 32)), "size mismatch"),
        (lambda r: setattr(r.layers[0][1], "norm", None), "norm"),
        (lambda r: r.register_buffer("seen", torch.zeros(1)), "the module has buffers"),
        (
            lambda r: setattr(r, "latents", nn.Parameter(torch.zeros(3))),
            r"latents of the module have the shape \(3,\)",
        ),
        (lambda r: setattr(r, "latents", nn.Parameter(torch.full((3, 8), torch.inf))), "NaN or infinite"),
        (lambda r: delattr(r, "latents"), "has no parameter 'latents'"),
        (lambda r: delattr(r, "modalities"), "the module has no 'modalities'"),
        (lambda r: r.to_logitslist[0].append(nn.Linear(2, 2)), "is no norm and linear layer"),
        (lambda r: r.to_logitslist.register_parameter("9", r.latents), "has parameters of its own"),
        (lambda r: r.layers[0][0]._parameters.update({"fn.x": r.latents}), "named otherwise"),
        (
            lambda r: r.layers[0][0].fn.to_kv.register_parameter("weight", nn.Parameter(torch.zeros(1))),
            "group0|mismatch|unpack",
        ),
        (replaced(1), "task 'avmnist' needs a head that reads 16 and gives 10"),
        (lambda r: r.to_logitslist.append(r.to_logitslist[0]), "it has 5 heads .*, and 4 tasks are known"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_a_reason(
    tmp_path: Path, change: Callable[[MultiModalityPerceiver], None], reason: str
) -> None:
    root = perceiver()
    change(root)
    path = save(root, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=reason):
        convert_original_checkpoint(path, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_modules_that_hold_each_other_are_refused_in_time(tmp_path: Path) -> None:
    root = perceiver()
    level = nn.Sequential()
    for _ in range(40):  # a million million ways through
        level = nn.Sequential(level, level)
    root.extra = level
    with pytest.raises(ValueError, match="nested deeper"):
        read_original_checkpoint(save(root, tmp_path / "model.pt"))
    root.extra = nn.Sequential(*[nn.Sequential(*[root.to_logits] * 300)] * 400)
    with pytest.raises(ValueError, match="more, nested deeper"):
        read_original_checkpoint(save(root, tmp_path / "model.pt"))


def test_a_stride_of_zero_makes_no_large_tensor(tmp_path: Path) -> None:
    root = perceiver()
    root.latents = nn.Parameter(torch.zeros(1, 1).expand(10**5, 10**4))
    with pytest.raises(ValueError, match="does not lie within its 1 numbers"):
        read_original_checkpoint(save(root, tmp_path / "model.pt"))


def test_the_model_is_one_that_trains(tmp_path: Path) -> None:
    model = convert_original_checkpoint(save(perceiver(), tmp_path / "model.pt"), tmp_path / "out")
    assert isinstance(model, HighMMTModel) and not model.training
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in model.parameters())
    inputs, labels = {"mimic": batch(TASKS["mimic"])}, {"mimic": torch.tensor([0, 1])}
    model(inputs=inputs, labels=labels).loss.backward()
    assert model.unimodal_groups[0].latents.grad.abs().sum() > 0
