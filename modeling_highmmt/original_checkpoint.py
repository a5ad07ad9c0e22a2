"""Reading a checkpoint of the authors' public code, a pickled module, without running anything that it says.

The file is a zip archive as `torch.save` writes it. Its pickle is a program; `_Machine` reads that program as data,
with a fixed table of names. Classes become `OriginalObject`, which holds data only, and the functions of the table
make plain containers and references to stored numbers.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration.pickle_reader import PickledName, PickleReader, shown, told

# The published checkpoint has 0.6 MB, of which the pickle is 24 kB; the paper's largest model has 2 MB.
_MAX_FILE = 64 * 2**20
_MAX_PICKLE = 4 * 2**20
_MAX_ENTRIES = 10_000
# Parameters that tied layers name several times are counted each time.
_MAX_NUMBERS = _MAX_FILE // 4
_MAX_MEMBERS = 100_000
_MAX_DEPTH = 16

_CLASSES = frozenset(
    {
        ("private_test_scripts.perceivers.crossattnperceiver", "MultiModalityPerceiver"),
        ("perceiver_pytorch.perceiver_pytorch", "PreNorm"),
        ("perceiver_pytorch.perceiver_pytorch", "Attention"),
        ("perceiver_pytorch.perceiver_pytorch", "FeedForward"),
        ("perceiver_pytorch.perceiver_pytorch", "GEGLU"),
        ("perceiver_pytorch.common", "LatentTransformer"),
        ("perceiver_pytorch.modalities", "InputModality"),
        ("torch.nn.modules.container", "ModuleList"),
        ("torch.nn.modules.container", "Sequential"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch.nn.modules.normalization", "LayerNorm"),
        ("torch.nn.modules.dropout", "Dropout"),
    }
)
_STORAGES = {
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
}

# Tasks of the public four-task script in the order of its heads; the scripts with two and three tasks train the first
# of them. A checkpoint names modalities but neither tasks nor what they read.
PUBLIC_TASKS: dict[str, dict[str, Any]] = {
    "mimic": {"modalities": ["static", "timeseries"]},
    "avmnist": {"modalities": ["colorlessimage", "audiospec"]},
    "mosei": {"modalities": ["feature1", "feature2", "feature3"]},
    "urfunny": {"modalities": ["feature4", "feature5", "feature3"]},
}
_PUBLIC_LABELS = {"mimic": 2, "avmnist": 10, "mosei": 2, "urfunny": 2}


class OriginalObject:
    """What stands in for an object of a public class: the name of the class and the attributes, as data."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class _Storage:
    """Numbers of one entry of the archive."""

    entry: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True, eq=False)
class _TensorReference:
    """Where a tensor's numbers are; they are read when the tensor is asked for."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_original_checkpoint(
    path: str | Path, tasks: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description of a checkpoint, as `convert_original_state_dict` takes them.

    Args:
        path: a file in which the public code has saved a whole module with `torch.save`.
        tasks: for each head in order the task's name and a mapping with its `modalities` (in any order) and, where it
            is no single-label classification, its `problem_type`. None for the public four-task script's tasks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such checkpoint, names something outside the table (the message says what), or does
            not fit the tasks. Nothing of the file has been run.
    """
    path = Path(path)
    try:
        archive = _Archive(path)
        root = _Machine(archive.read("data.pkl", _MAX_PICKLE), archive.storage).run()
        module = _Node(root, "the module", "MultiModalityPerceiver")
        weights = {name: archive.tensor(reference) for name, reference in _named_tensors(module)}
        description = _describe(module, PUBLIC_TASKS if tasks is None else tasks, public=tasks is None)
        return _renamed(weights, list(description["tasks"])), description
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Archive:
    """The zip file, held in memory, so that it cannot change while it is read."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise ValueError("not a file.")
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise ValueError(
                f"larger than the {_MAX_FILE // 2**20} MiB that a checkpoint of the public code may have."
            )
        # Each entry of the directory begins so; zipfile keeps them all in memory.
        if content.count(b"PK\x01\x02") > _MAX_ENTRIES:
            raise ValueError(f"more than the {_MAX_ENTRIES:,} entries that a checkpoint of the public code may have.")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except _ZIP_ERRORS as error:
            raise ValueError(f"not a zip file as torch.save writes it ({error}).") from error
        self._entries = self._checked_entries(len(content))
        roots = [name.removesuffix("/data.pkl") for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"a checkpoint of torch.save has one data.pkl; this zip file has {len(roots)}.")
        self._root = roots[0]
        self._storages: dict[str, _Storage] = {}
        self._numbers: dict[str, Tensor] = {}
        self._left = _MAX_NUMBERS
        if f"{self._root}/byteorder" in self._entries:
            order = self.read("byteorder", 16).decode("ascii", "replace")
            if order != sys.byteorder:
                raise ValueError(f"its numbers are stored {shown(order)!r}-endian, this machine's are not.")

    def _checked_entries(self, size: int) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            where = f"entry {shown(info.filename)!r}"
            if info.filename in entries:
                raise ValueError(f"{where} is there twice.")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError(f"{where} is compressed, which torch.save never does.")
            entries[info.filename] = info
        if sum(info.file_size for info in entries.values()) > size:
            raise ValueError("its entries claim more bytes than the file has.")
        return entries

    def read(self, name: str, largest: int) -> bytes:
        """Content of an entry, by its name within the archive's one folder."""
        info = self._entries.get(f"{self._root}/{name}")
        if info is None:
            raise ValueError(f"the zip file has no entry {shown(name)!r}.")
        if info.file_size > largest:
            raise ValueError(f"entry {shown(name)!r} has {info.file_size:,} bytes, more than {largest:,}.")
        try:
            return self._zip.read(info)
        except _ZIP_ERRORS as error:
            raise ValueError(f"entry {shown(name)!r} cannot be read ({error}).") from error

    def storage(self, identity: object) -> _Storage:
        """What a persistent id means: ("storage", storage class, key, location, number of elements)."""
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise ValueError("a persistent id that is not one of torch.save's storages.")
        _, kind, key, _, size = identity
        dtype = _STORAGES.get((kind.module, kind.name)) if isinstance(kind, PickledName) else None
        if dtype is None:
            raise ValueError(f"a storage of the type {_told(kind)}, which is none of floating-point numbers.")
        if type(key) is not str or not key.isascii() or not key.isdigit():
            raise ValueError(f"a storage with the key {_told(key)}, which is no number.")
        size = _whole(size, f"the size of storage {shown(key)}", 0)
        info = self._entries.get(f"{self._root}/data/{key}")
        if info is None:
            raise ValueError(f"the zip file has no entry 'data/{shown(key)}' for a storage of its pickle.")
        if info.file_size != size * dtype.itemsize:
            raise ValueError(
                f"storage {shown(key)} has {info.file_size:,} bytes, its pickle says {size:,} numbers of {dtype}."
            )
        known = self._storages.setdefault(key, _Storage(f"data/{key}", dtype, size))
        if known.dtype != dtype:
            raise ValueError(f"storage {shown(key)} is of two types, {known.dtype} and {dtype}.")
        return known

    def tensor(self, reference: _TensorReference) -> Tensor:
        """The tensor of a reference, as float32."""
        storage, shape, stride = reference.storage, reference.shape, reference.stride
        count = math.prod(shape)
        last = reference.offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if not 0 < count <= storage.size or last >= storage.size:
            raise ValueError(
                f"a tensor of shape {shape} with strides {stride} does not lie within its {storage.size:,} numbers."
            )
        self._left -= count
        if self._left < 0:
            raise ValueError(f"its parameters have more than {_MAX_NUMBERS:,} numbers.")
        if storage.entry not in self._numbers:
            content = bytearray(self.read(storage.entry, _MAX_FILE))
            self._numbers[storage.entry] = torch.frombuffer(content, dtype=storage.dtype)
        numbers = self._numbers[storage.entry].as_strided(shape, stride, reference.offset)
        if not bool(torch.isfinite(numbers).all()):
            raise ValueError(f"storage {shown(storage.entry)} holds NaN or infinite values.")
        return numbers.to(torch.float32, copy=True).contiguous()


# What zipfile raises for damaged archives, its own refusals of unknown formats included.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    IndexError,
    struct.error,
)


class _Machine(PickleReader):
    """Reads the pickle of a saved module."""

    needed_by = "a checkpoint of the public code"

    def __init__(self, program: bytes, storage: Callable[[object], _Storage]) -> None:
        super().__init__(program)
        self._storage = storage

    def call(self, function: PickledName, arguments: tuple[Any, ...]) -> Any:
        """An empty container, or a reference to stored numbers."""
        if function.key not in _FUNCTIONS:
            return super().call(function, arguments)
        return _FUNCTIONS[function.key](arguments)

    def new(self, kind: Any, arguments: Any) -> Any:
        """What stands in for an object of a public class."""
        if not isinstance(kind, PickledName) or kind.key not in _CLASSES or arguments != ():
            return super().new(kind, arguments)
        return OriginalObject(kind.name)

    def build(self, target: Any, state: Any) -> Any:
        """The stand-in with its attributes, which are set once."""
        if type(target) is not OriginalObject or target.state is not None or type(state) is not dict:
            return super().build(target, state)
        target.state = state
        return target

    def persistent(self, identity: Any) -> Any:
        """Stored numbers."""
        return self._storage(identity)

    def told(self, value: object) -> str:
        """A value for a message."""
        return _told(value)


def _empty(kind: type) -> Callable[[tuple[Any, ...]], Any]:
    def make(arguments: tuple[Any, ...]) -> Any:
        """A container without members."""
        # Sets are of buffers that are not saved, of which the public code has none.
        if arguments not in ((), ([],)):
            raise ValueError(f"its pickle makes a {kind.__name__} that is not empty at first.")
        return kind()

    return make


def _tensor(arguments: tuple[Any, ...]) -> _TensorReference:
    storage, offset, shape, stride = arguments[:4] if len(arguments) == 6 else (None,) * 4
    if not isinstance(storage, _Storage) or type(shape) is not tuple or type(stride) is not tuple:
        raise ValueError("its pickle makes a tensor of something that is no storage.")
    if len(shape) != len(stride) or len(shape) > 8:
        raise ValueError(f"its pickle makes a tensor with {len(shape)} axes and {len(stride)} strides.")
    _check_hooks(arguments[5])
    return _TensorReference(
        storage,
        _whole(offset, "the offset of a tensor", 0),
        tuple(_whole(size, "the size of a tensor", 0) for size in shape),
        tuple(_whole(step, "the stride of a tensor", 0) for step in stride),
    )


def _parameter(arguments: tuple[Any, ...]) -> _TensorReference:
    if len(arguments) != 3 or not isinstance(arguments[0], _TensorReference):
        raise ValueError("its pickle makes a parameter of something that is no tensor.")
    _check_hooks(arguments[2])
    return arguments[0]


def _check_hooks(hooks: object) -> None:
    if type(hooks) is not dict or hooks:
        raise ValueError("a tensor with hooks, which are functions and not allowed.")


_FUNCTIONS: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _empty(dict),
    ("builtins", "set"): _empty(set),
    ("__builtin__", "set"): _empty(set),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
_Machine.names = _CLASSES | _STORAGES.keys() | _FUNCTIONS.keys()


def _told(value: object) -> str:
    """A value for a message; never its content, which may be nested without end."""
    return f"an object of {value.kind}" if isinstance(value, OriginalObject) else told(value)


def _whole(value: object, what: str, smallest: int, largest: int = 2**40) -> int:
    if type(value) is not int or not smallest <= value <= largest:
        raise ValueError(f"{what} is {_told(value)}, expected a whole number from {smallest} to {largest:,}.")
    return value


class _Node:
    """An object of the read module and the way to it, with attributes that are what is expected or an error."""

    def __init__(self, value: object, path: str, kind: str | None = None) -> None:
        if not isinstance(value, OriginalObject) or kind not in (None, value.kind):
            raise ValueError(f"{shown(path)} is {_told(value)}, expected an object of {kind or 'a public class'}.")
        if value.state is None:
            raise ValueError(f"{shown(path)} has no attributes.")
        self.value, self.path, self.kind, self._state = value, path, value.kind, value.state

    def attribute(self, name: str) -> Any:
        """One attribute; refused where there is none."""
        if name not in self._state:
            raise ValueError(f"{shown(self.path)} has no {name!r}.")
        return self._state[name]

    def attributes(self) -> dict[str, Any]:
        """All attributes, by name."""
        return self._state

    def whole(self, name: str, largest: int = 1_000_000) -> int:
        """An attribute that must be a whole number from 1 to `largest`."""
        return _whole(self.attribute(name), f"{name} of {shown(self.path)}", 1, largest)

    def number(self, name: str) -> float:
        """An attribute that must be a number below a billion in size."""
        value = self.attribute(name)
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise ValueError(f"{name} of {shown(self.path)} is {_told(value)}, expected a number.")
        return float(value)

    def members(self, name: str) -> dict[str, Any]:
        """`_modules`, `_parameters` or `_buffers`."""
        members = self.attribute(name)
        if type(members) is not dict:
            raise ValueError(f"{name} of {shown(self.path)} is {_told(members)}, expected a mapping.")
        return members

    def shape(self, name: str) -> tuple[int, ...]:
        tensor = self.members("_parameters").get(name)
        if not isinstance(tensor, _TensorReference) or not tensor.shape:
            raise ValueError(f"{shown(self.path)} has no parameter {name!r}.")
        return tensor.shape

    def child(self, name: str, kind: str | None = None) -> _Node:
        return _Node(self.members("_modules").get(name), f"{self.path}.{name}", kind)

    def children(self, kind: str | None = None) -> list[_Node]:
        """The modules of a list, of which there must be one."""
        names = list(self.members("_modules"))
        if not names or names != [str(index) for index in range(len(names))]:
            raise ValueError(f"{shown(self.path)} is no list of modules with at least one in it.")
        return [self.child(name, kind) for name in names]


def _named_tensors(module: _Node) -> Iterator[tuple[str, _TensorReference]]:
    """Parameters by their names in the public code's state dict, tied ones under each of their names."""
    open_ = [("", module, 0)]
    left = _MAX_MEMBERS
    while open_:
        prefix, node, depth = open_.pop()
        # Both change the numbers, and the public scripts leave both as they are.
        if node.kind == "Dropout" and node.number("p") != 0:
            raise ValueError(f"{shown(node.path)} drops a share of {node.number('p')}; only 0 can be converted.")
        if node.kind == "LayerNorm" and not math.isclose(node.number("eps"), 1e-5):
            raise ValueError(f"{shown(node.path)} has eps={node.number('eps')}; only 1e-5 can be converted.")
        parameters, modules = node.members("_parameters"), node.members("_modules")
        left -= 1 + len(parameters) + len(modules)
        named = (*parameters, *modules)
        if depth > _MAX_DEPTH or left < 0 or any(len(name) > 100 or "." in name for name in named):
            raise ValueError("its modules are more, nested deeper or named otherwise than those of the public code.")
        if parameters and node.kind in ("ModuleList", "Sequential"):
            raise ValueError(f"{shown(node.path)} has parameters of its own, which no {node.kind} has.")
        for name, value in parameters.items():
            if isinstance(value, _TensorReference):
                yield prefix + name, value
            elif value is not None:
                raise ValueError(f"parameter {name!r} of {shown(node.path)} is {_told(value)}.")
        if node.members("_buffers"):
            raise ValueError(f"{shown(node.path)} has buffers, which have no place in HighMMTModel.")
        skipped = _head_in_use(module) if node is module else None
        for name, value in modules.items():
            if name != skipped:
                open_.append((f"{prefix}{name}.", _Node(value, f"{node.path}.{name}"), depth + 1))


def _head_in_use(module: _Node) -> str | None:
    """`"to_logits"`, where the public trainer has put one of the heads of `to_logitslist`."""
    modules = module.members("_modules")
    if "to_logitslist" not in modules or "to_logits" not in modules:
        return None
    heads = module.child("to_logitslist", "ModuleList").members("_modules").values()
    return "to_logits" if any(head is modules["to_logits"] for head in heads) else None


def _renamed(weights: Mapping[str, Tensor], tasks: list[str]) -> dict[str, Tensor]:
    """Weights of the network as group 0, of the heads by task."""
    named = {}
    has_list = any(name.startswith("to_logitslist.") for name in weights)
    for name, value in weights.items():
        first, _, rest = name.partition(".")
        if first in ("latents", "embed", "layers", "cross_layers"):
            named[f"group0.{name}"] = value
        elif first == "to_logits" and not has_list:
            named[f"heads.{tasks[0]}.{rest}"] = value
        elif first == "to_logitslist":
            index, _, rest = rest.partition(".")
            named[f"heads.{tasks[int(index)]}.{rest}"] = value
        else:
            raise ValueError(f"its weight {shown(name)!r} has no place in HighMMTModel.")
    return named


def _describe(module: _Node, tasks: Mapping[str, Mapping[str, Any]], *, public: bool) -> dict[str, Any]:
    """What `convert_original_state_dict` must know beside the weights, from attributes and shapes."""
    if module.attributes().get("recon") is not None:
        raise ValueError("it has a part for reconstruction, which has no place in HighMMTModel.")
    modalities = _modalities(module)
    latents = module.shape("latents")
    if len(latents) != 2:
        raise ValueError(f"latents of {module.path} have the shape {latents}, expected (num_latents, latent_dim).")
    encoder, crossmodal = _layers(module, "layers"), _layers(module, "cross_layers")
    for name, ours, theirs in (
        ("cross_dim_head", encoder["cross_dim_head"], crossmodal["cross_dim_head"]),
        ("latent_heads", encoder["latent_heads"], crossmodal["latent_heads"]),
        ("latent_dim_head", encoder["latent_dim_head"], crossmodal["latent_dim_head"]),
        ("num_latent_blocks_per_layer", encoder["num_latent_blocks"], crossmodal["num_latent_blocks"]),
    ):
        if ours != theirs:
            raise ValueError(f"{name} is {ours} in its encoder and {theirs} across modalities; they must be equal.")
    learned = isinstance(module.members("_parameters").get("embed"), _TensorReference)
    embedding = module.shape("embed") if learned else (len(modalities), len(modalities))
    if len(embedding) != 2 or embedding[0] != len(modalities):
        raise ValueError(f"embed of {module.path} has the shape {embedding} for {len(modalities)} modalities.")
    widths = [m["input_channels"] + m["input_axis"] * (2 * m["num_freq_bands"] + 1) for m in modalities.values()]
    expected = max(widths) + embedding[1]
    declared = module.whole("max_modality_dim")
    if not expected == encoder["context_width"] == declared:
        raise ValueError(
            f"its modalities need elements of width {expected}, its encoder reads {encoder['context_width']} and its "
            f"max_modality_dim is {declared}."
        )
    perceiver: dict[str, Any] = {
        "num_latents": latents[0],
        "latent_dim": latents[1],
        "depth": encoder["depth"],
        "cross_depth": crossmodal["depth"],
        "num_latent_blocks_per_layer": encoder["num_latent_blocks"],
        "cross_heads": encoder["cross_heads"],
        "cross_cross_heads": crossmodal["cross_heads"],
        "latent_heads": encoder["latent_heads"],
        "cross_dim_head": encoder["cross_dim_head"],
        "latent_dim_head": encoder["latent_dim_head"],
        "embed": learned,
    }
    if learned:
        perceiver["embed_size"] = embedding[1]
    return {
        "modalities": modalities,
        "tasks": _tasks(module, modalities, latents, tasks, public=public),
        "perceiver": perceiver,
        "groups": None,
        "head": "LayerNorm + Linear",
    }


def _modalities(module: _Node) -> dict[str, dict[str, Any]]:
    listed = module.attribute("modalities")
    if type(listed) not in (tuple, list) or not 0 < len(listed) <= 1000:
        raise ValueError(f"modalities of {module.path} is {_told(listed)}, expected a list with at least one.")
    modalities: dict[str, dict[str, Any]] = {}
    for index, value in enumerate(listed):
        node = _Node(value, f"modality {index}", "InputModality")
        name = node.attribute("name")
        if type(name) is not str or name in modalities:
            raise ValueError(f"the name of modality {index} is {_told(name)}, expected a text that no other has.")
        if node.number("freq_base") != 2:
            raise ValueError(f"modality {shown(name)!r} has freq_base={node.number('freq_base')}, expected 2.")
        modalities[name] = {
            "input_channels": node.whole("input_channels"),
            "input_axis": node.whole("input_axis", 8),
            "num_freq_bands": node.whole("num_freq_bands"),
            "max_freq": node.number("max_freq"),
        }
    return modalities


def _layers(module: _Node, part: str) -> dict[str, int]:
    """Sizes that all layers of the encoder (`layers`) or of the crossmodal part (`cross_layers`) have in common."""
    found: list[dict[str, int]] = []
    layers = module.child(part, "ModuleList").children("ModuleList")
    for layer in layers:
        cross = layer.child("0", "PreNorm")
        _check_gated(layer.child("1", "PreNorm"))
        heads, width = _heads(cross)
        blocks = layer.child("2", "LatentTransformer").child("latent_blocks", "ModuleList").children("ModuleList")
        for block in blocks:
            _check_gated(block.child("1", "PreNorm"))
            latent_heads, latent_width = _heads(block.child("0", "PreNorm"))
            found.append(
                {
                    "depth": len(layers),
                    "cross_heads": heads,
                    "cross_dim_head": width,
                    "context_width": cross.child("norm_context", "LayerNorm").shape("weight")[0],
                    "num_latent_blocks": len(blocks),
                    "latent_heads": latent_heads,
                    "latent_dim_head": latent_width,
                }
            )
    for key, value in found[0].items():
        if any(sizes[key] != value for sizes in found):
            raise ValueError(f"{key} differs between the {part} of {module.path}; HighMMTModel has one for all.")
    return found[0]


def _heads(norm: _Node) -> tuple[int, int]:
    """Number of heads of an attention and the width of each."""
    attention = norm.child("fn", "Attention")
    heads, rows = attention.whole("heads"), attention.child("to_q", "Linear").shape("weight")[0]
    if rows % heads or not math.isclose(attention.number("scale"), (rows // heads) ** -0.5, rel_tol=1e-6):
        raise ValueError(f"{shown(attention.path)}: {heads} heads and its scale do not fit {rows} rows of to_q.")
    return heads, rows // heads


def _check_gated(norm: _Node) -> None:
    norm.child("fn", "FeedForward").child("net", "Sequential").child("1", "GEGLU")


def _tasks(
    module: _Node,
    modalities: Mapping[str, Any],
    latents: tuple[int, ...],
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    public: bool,
) -> dict[str, dict[str, Any]]:
    """Tasks of the heads in order, each checked against what its head reads and gives."""
    if "to_logitslist" in module.members("_modules"):
        heads = module.child("to_logitslist", "ModuleList").children("Sequential")
    else:
        heads = [module.child("to_logits", "Sequential")]
    shapes = []
    for head in heads:
        width, weight = head.child("0", "LayerNorm").shape("weight"), head.child("1", "Linear").shape("weight")
        if len(head.children()) != 2 or len(weight) != 2 or width != weight[1:]:
            raise ValueError(f"{shown(head.path)} is no norm and linear layer that fit each other.")
        shapes.append((width[0], weight[0]))
    listed = ", ".join(f"{width} -> {labels}" for width, labels in shapes[:20])
    names = list(tasks)[: len(heads)] if public else list(tasks)
    if len(names) != len(heads):
        raise ValueError(
            f"it has {len(heads)} heads ({listed}), and {len(names)} tasks are known: {', '.join(names)}."
        )
    described = {}
    for name, (reads, gives) in zip(names, shapes, strict=True):
        # The public model concatenates pairs of modalities in the order of their sorted names.
        order = sorted(tasks[name]["modalities"])
        missing = [modality for modality in order if modality not in modalities]
        if missing:
            raise ValueError(
                f"task {name!r} reads {missing[0]!r}; its modalities are {', '.join(map(shown, modalities))}."
            )
        needed = len(order) * (len(order) - 1) * latents[1] if len(order) > 1 else latents[0] * latents[1]
        fits = gives == _PUBLIC_LABELS[name] if public else True
        if needed != reads or not fits:
            raise ValueError(
                f"its heads ({listed}) are not those of the tasks {', '.join(names)}: task {name!r} needs a head that "
                f"reads {needed}{f' and gives {_PUBLIC_LABELS[name]}' if public else ''}. Say which tasks it has."
            )
        described[name] = {
            "modalities": list(tasks[name]["modalities"]),
            "latent_order": order,
            "num_labels": gives,
            "problem_type": tasks[name].get("problem_type", "single_label_classification"),
        }
    return described


__all__ = ["PUBLIC_TASKS", "read_original_checkpoint"]
