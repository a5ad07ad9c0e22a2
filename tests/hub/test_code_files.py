"""Code in a model folder: made from the package, and enough to use the model without it."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_imports

from highmmt import HighMMTModel, HighMMTProcessor, add_code_files
from highmmt.code_files import CARD_SECTION, LIBRARIES, MAIN_MODULES, CodeFile, Module, code_files

CODE = ("configuration_highmmt.py", "modeling_highmmt.py", "processing_highmmt.py")
# What a user does with a model: every task's samples to tensors in a file and to predictions in words.
USE = """
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

def use(model, processor, samples, output):
    tensors, decoded = {}, {}
    for task, columns in samples.items():
        batch = processor(task=task, **columns)
        for kind in ("inputs", "attention_mask"):
            tensors |= {f"{kind}/{task}/{name}": value for name, value in batch[kind][task].items()}
        with torch.no_grad():
            tensors[f"logits/{task}"] = model(**batch).logits[task]
        decoded[task] = processor.decode(task, tensors[f"logits/{task}"])
    save_file(tensors, output)
    return decoded
"""
WITHOUT_PACKAGE = """
for name in ("highmmt", "pyarrow", "datasets"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} is there")
folder, samples, output, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
"""


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder with code; read only."""
    copied = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("with code") / "tiny"))
    add_code_files(copied)
    return copied


@pytest.fixture(scope="module")
def samples(tiny: ModuleType) -> dict[str, dict[str, list[Any]]]:
    """Raw samples of every task as plain Python values, of unequal lengths, some missing."""
    targets = {"signs": "label", "walk": "place", "tones": "label"}
    rows = {task: tiny.task_rows(task, 7, seed=5) for task in targets}
    chosen = {task: {key: value for key, value in rows[task].items() if key != targets[task]} for task in rows}
    chosen["walk"]["remark"][2] = None
    return chosen


def test_without_highmmt_the_folder_gives_the_same_bits(
    folder: Path,
    samples: dict[str, dict[str, list[Any]]],
    bare_python: Path,
    run_in: Callable[..., str],
    tmp_path: Path,
) -> None:
    code = """
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
decoded = use(model, processor, json.load(open(samples)), output)
print(json.dumps([type(model).__module__, type(processor).__module__, decoded]))
"""
    (tmp_path / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    outputs = tmp_path / "without.safetensors", tmp_path / "with.safetensors"
    threads = torch.get_num_threads()
    printed = run_in(bare_python, USE + WITHOUT_PACKAGE + code, folder, tmp_path / "samples.json", outputs[0], threads)
    *modules, decoded = json.loads(printed)
    assert all(module.startswith("transformers_modules.") for module in modules)

    scope: dict[str, Any] = {}
    exec(USE, scope)
    model, processor = HighMMTModel.from_pretrained(folder), HighMMTProcessor.from_pretrained(folder)
    assert scope["use"](model, processor, samples, outputs[1]) == decoded
    found, expected = map(load_file, outputs)
    assert list(found) == list(expected)
    assert sum(name.startswith("logits/") for name in found) == 3
    assert "attention_mask/walk/remark" in found
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_without_highmmt_a_model_can_be_split_and_saved_again_and_data_sets_ask_for_the_package(
    folder: Path,
    samples: dict[str, dict[str, list[Any]]],
    bare_python: Path,
    run_in: Callable[..., str],
    tmp_path: Path,
) -> None:
    code = """
def refusal(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

said = [refusal(auto.from_pretrained, folder) for auto in (AutoModel, AutoProcessor)]
assert not any(name.startswith("transformers_modules") for name in sys.modules)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
said += [refusal(processor.encode, "signs", None), refusal(processor.fit, "signs", None)]
said += [refusal(processor.collate, "signs", None)]

pairs, interactions = model.config.modality_task_pairs(), model.config.interactions()
groups = {"unimodal": dict(zip(pairs, (0, 1, 0, 0, 1))), "crossmodal": dict.fromkeys(interactions, 0)}
split = model.split_parameter_groups(groups)
split.save_pretrained(output)
processor.save_pretrained(output)
samples = json.load(open(samples))
again = AutoModel.from_pretrained(output, trust_remote_code=True)
assert len(again.unimodal_groups) == again.config.groups().num_unimodal_groups == 2
# A model whose configuration was made anew carries the code as well.
code = sys.modules[type(model).__module__]
code.HighMMTModel(code.HighMMTConfig(**model.config.to_dict())).save_pretrained("anew")
assert AutoModel.from_pretrained("anew", trust_remote_code=True).num_parameters() == model.num_parameters()
batch = AutoProcessor.from_pretrained(output, trust_remote_code=True)(task="walk", **samples["walk"])
with torch.no_grad():
    assert torch.equal(again(**batch).logits["walk"], model(**batch).logits["walk"])
print("\\n" + json.dumps(said))
"""
    (tmp_path / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    saved = tmp_path / "saved"
    printed = run_in(bare_python, USE + WITHOUT_PACKAGE + code, folder, tmp_path / "samples.json", saved, 2)
    said = json.loads(printed.splitlines()[-1])
    assert all("trust_remote_code=True" in text for text in said[:2]), said
    assert all(text.startswith("ImportError") and "pip install highmmt" in text for text in said[2:]), said
    assert {*CODE, "config.json", "processor_config.json"} <= {path.name for path in saved.iterdir()}
    assert all((saved / name).read_bytes() == (folder / name).read_bytes() for name in CODE)


@pytest.mark.parametrize("trust", [None, True])
def test_where_highmmt_is_installed_the_code_of_a_folder_is_never_run(
    folder: Path, tmp_path: Path, trust: bool | None
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    for name in CODE:
        (copied / name).write_text("raise RuntimeError('the code of the folder was run')", encoding="utf-8")
    model = AutoModel.from_pretrained(copied, trust_remote_code=trust)
    processor = AutoProcessor.from_pretrained(copied, trust_remote_code=trust)
    assert (type(model), type(processor)) == (HighMMTModel, HighMMTProcessor)
    # Saved elsewhere, without the code, nothing says that there is any.
    model.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    for name in ("config.json", "processor_config.json"):
        assert "auto_map" in json.loads((folder / name).read_text(encoding="utf-8"))
        assert "auto_map" not in json.loads((tmp_path / "plain" / name).read_text(encoding="utf-8"))


def test_a_folder_without_code_says_nothing_of_code(model_folder: Path) -> None:
    for path in model_folder.iterdir():
        if path.suffix in (".json", ".md"):
            text = path.read_text(encoding="utf-8")
            assert "auto_map" not in text
            assert "trust_remote_code" not in text


def test_the_code_imports_only_what_comes_with_torch_and_transformers(folder: Path) -> None:
    for name in CODE:
        assert set(get_imports(folder / name)) <= LIBRARIES
        text = (folder / name).read_text(encoding="utf-8")
        relative = {node.module for node in ast.walk(ast.parse(text)) if getattr(node, "level", 0)}
        assert relative <= {"configuration_highmmt"}


def test_adding_code_again_changes_nothing_and_all_else_stays_as_it_was(
    folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    (copied / "modeling_highmmt.py").write_text("of an older version", encoding="utf-8")
    written = add_code_files(copied)
    assert {path.name for path in written} == {*CODE, "config.json", "processor_config.json", "README.md"}
    assert sorted(path.name for path in copied.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        assert (copied / path.name).read_bytes() == path.read_bytes()
    for name in ("config.json", "processor_config.json"):
        before, after = (json.loads((place / name).read_text(encoding="utf-8")) for place in (model_folder, folder))
        del after["auto_map"]
        assert after == before
    assert (folder / "README.md").read_text(encoding="utf-8").count(CARD_SECTION) == 1


def test_a_model_without_processor_or_card_gets_the_code_of_the_model(model_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_folder / name, tmp_path)
    add_code_files(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors", "configuration_highmmt.py", "modeling_highmmt.py"}


def test_only_a_model_folder_can_carry_code(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no model folder: it has no config.json"):
        add_code_files(tmp_path)
    assert not list(tmp_path.iterdir())


# How the files are made


def definitions(text: str) -> set[str]:
    return {node.name for node in ast.parse(text).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


@pytest.mark.parametrize("room", MAIN_MODULES)
def test_all_that_the_main_module_of_a_room_needs_is_in_its_file(root: Path, room: str) -> None:
    text = code_files()[f"{MAIN_MODULES[room]}.py"]
    needed, read = {MAIN_MODULES[room]}, set()
    while needed - read:
        module = (needed - read).pop()
        read.add(module)
        source = (root / room / f"{module}.py").read_text(encoding="utf-8")
        assert definitions(source) <= definitions(text), module
        needed |= {node.module for node in ast.parse(source).body if getattr(node, "level", 0) == 1}
    assert "arrow" not in read


def joined(*sources: str) -> str:
    file = CodeFile("main")
    for number, source in enumerate(sources):
        file.add(Module("room", "main" if number == len(sources) - 1 else f"part{number}", source))
    return file.text()


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("def a(): return 1", "def a(): return 2"), "room/main.py, line 1, gives 'a' another meaning"),
        (("import json as a", "a = 1"), "line 1, gives 'a' another meaning"),
        (("from json import loads as a", "from json import dumps as a"), "gives 'a' another meaning"),
        (("def min(): pass",), "line 1, names something 'min', which is a builtin"),
        (("import pyarrow as pa",), "line 1, imports pyarrow at its top; a function may"),
        (("x = 1\nfrom .part import a as b",), "line 2, imports a as b; names of the package keep their own"),
        (("from __future__ import annotations", "x = 1"), "all modules of room or none"),
        (("x = 1", "from __future__ import annotations"), "all modules of room or none"),
    ],
    ids=lambda value: " | ".join(value) if isinstance(value, tuple) else "",
)
def test_modules_that_make_no_single_file_are_refused(sources: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        joined(*sources)


def test_what_two_modules_have_alike_stands_in_the_file_once() -> None:
    logger = "import logging\nlog = logging.getLogger(__name__)\n"
    text = joined(logger + "def a(): return log", logger + "from .part0 import a\ndef b(): return a()")
    assert text.count("import logging") == text.count("getLogger") == 1
    scope: dict[str, Any] = {"__name__": "flat"}
    exec(text, scope)
    assert scope["b"]() is scope["log"]


def test_what_a_function_imports_from_elsewhere_is_an_error_that_names_the_package() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import datasets

def answer(arrow):
    import json
    try:
        import unheard_of
    except ImportError:
        pass
    if arrow:
        # A comment.
        from .arrow import (
            columns,
            rows,
        )

        return rows(columns)
    return json.dumps(arrow)
"""
    text = joined(source)
    assert "datasets" not in text
    scope: dict[str, Any] = {}
    exec(text, scope)
    assert scope["answer"](False) == "false"
    with pytest.raises(ImportError, match="pip install highmmt, then import highmmt before"):
        scope["answer"](True)
