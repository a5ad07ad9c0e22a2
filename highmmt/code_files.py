"""Code for a model folder that runs where `highmmt` is not installed, made from this package's own sources.

Three files, each made of the modules of one room: the main module and all that it imports from the package, put
together in the order in which they need each other. What a module imports inside a function is what the folder does
without: an error that names the package stands in its place. pyarrow and `datasets` are imported like that.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TypeGuard

from . import __version__
from .configuration.files import read_json, write_text
from .processing.plain_data import readable_json

# Room to its main module, which gives the room's code file its name.
MAIN_MODULES = {
    "configuration": "configuration_highmmt",
    "modeling_highmmt": "modeling_highmmt",
    "processing": "processing_highmmt",
}
# File of a model folder to the `auto_map` in it, which tells the Auto classes where the code is.
AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "configuration_highmmt.HighMMTConfig",
        "AutoModel": "modeling_highmmt.HighMMTModel",
    },
    "processor_config.json": {"AutoProcessor": "processing_highmmt.HighMMTProcessor"},
}
# transformers refuses code that imports a library that is not there; these come with it.
LIBRARIES = {
    "huggingface_hub",
    "numpy",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    *sys.stdlib_module_names,
}
CARD_SECTION = "## Use without the package"
_FUTURE = "from __future__ import annotations"
_NEEDS_PACKAGE = """NEEDS_PACKAGE = (
    "This needs the package: pip install highmmt, then import highmmt before the Auto classes load this folder."
)"""


def add_code_files(folder: str | Path) -> list[Path]:
    """Make a model folder loadable with `trust_remote_code=True` where `highmmt` is not installed.

    Writes the code files, names them in `config.json` and `processor_config.json`, and tells the readers of the model
    card. Done again, it brings the code to the version of this package.

    Args:
        folder: a saved model, with or without processor and card.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the folder has no `config.json`.
        ValueError: a file of the folder is not JSON; the message names it.
    """
    folder = Path(folder)
    return [write_text(folder / name, text) for name, text in with_code_files(folder).items()]


def with_code_files(folder: Path) -> dict[str, str]:
    """Name to text of what `add_code_files` writes, in its order. Raises as that does."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json.")
    texts = code_files()
    maps = {name: auto_map for name, auto_map in AUTO_MAPS.items() if (folder / name).is_file()}
    if "processor_config.json" not in maps:
        del texts["processing_highmmt.py"]
    card = folder / "README.md"
    if card.is_file():
        texts["README.md"] = _card_with_code(card.read_text(encoding="utf-8"), has_processor=len(maps) == 2)
    for name, auto_map in maps.items():
        texts[name] = readable_json({**read_json(folder / name), "auto_map": auto_map}) + "\n"
    return texts


def code_files() -> dict[str, str]:
    """Name to text of the three code files.

    Raises:
        ValueError: the modules of a room cannot be put into one file; the message names module and line.
    """
    modules: dict[tuple[str, str], Module] = {}
    for room, main in MAIN_MODULES.items():
        _collect(room, main, modules)
    texts = {}
    for room, main in MAIN_MODULES.items():
        file = CodeFile(main)
        for module in modules.values():
            if module.room == room:
                file.add(module)
        texts[f"{main}.py"] = file.text()
    return texts


def _card_with_code(card: str, has_processor: bool) -> str:
    if CARD_SECTION in card:
        return card
    names = ["AutoModel", "AutoProcessor"] if has_processor else ["AutoModel"]
    loading = "\n".join(
        f"{name.removeprefix('Auto').lower()} = {name}.from_pretrained(folder, trust_remote_code=True)"
        for name in names
    )
    section = f"""{CARD_SECTION}

This folder carries the code of `highmmt`. With torch and transformers alone, and after a look at that code:

```python
from transformers import {", ".join(names)}

folder = "path/to/this/folder"
{loading}
```
"""
    head, mark, rest = card.partition("\n## Parameter groups\n")
    return f"{head.rstrip()}\n\n{section}{mark}{rest}"


# From the sources


@dataclass(frozen=True)
class Module:
    """One module of a room, as it is installed."""

    room: str
    name: str
    source: str

    @classmethod
    def read(cls, room: str, name: str) -> Module:
        """The module of this name."""
        return cls(room, name, files(f"{__package__}.{room}").joinpath(f"{name}.py").read_text(encoding="utf-8"))

    def statements(self) -> list[ast.stmt]:
        """What is at its top level."""
        return ast.parse(self.source).body

    def error(self, statement: ast.stmt, message: str) -> ValueError:
        """A `ValueError` that names module and line."""
        return ValueError(f"Code files: {self.room}/{self.name}.py, line {statement.lineno}, {message}.")


def _collect(room: str, name: str, modules: dict[tuple[str, str], Module]) -> None:
    """Put a module behind all those that it imports at its top."""
    if (room, name) in modules:
        return
    module = Module.read(room, name)
    for statement in module.statements():
        if isinstance(statement, ast.ImportFrom) and statement.level:
            for needed in _modules_of(module, statement):
                _collect(*needed, modules)
    modules[room, name] = module


def _modules_of(module: Module, statement: ast.ImportFrom) -> list[tuple[str, str]]:
    """Rooms and names of the modules that hold what a relative import asks for."""
    first, _, rest = (statement.module or "").partition(".")
    if statement.level == 1 and first:
        return [(module.room, first)]
    if statement.level != 2 or first not in MAIN_MODULES:
        raise module.error(statement, "imports from elsewhere than the rooms of configuration, model and processing")
    if rest:
        return [(first, rest)]
    wanted = {alias.name for alias in statement.names}
    exports = [entry for entry in Module.read(first, "__init__").statements() if isinstance(entry, ast.ImportFrom)]
    return [(first, entry.module or "") for entry in exports if wanted & {alias.name for alias in entry.names}]


@dataclass
class CodeFile:
    """One code file in the making.

    Args:
        main: its main module, which gives it its docstring and `__all__`.
    """

    main: str
    docstring: str = ""
    imports: dict[str, set[str]] = field(default_factory=dict)  # "from x import" to names, "import x" to none
    meanings: dict[str, str] = field(default_factory=dict)  # each name at the top level to what it stands for
    postpones: set[bool] = field(default_factory=set)  # whether annotations are evaluated later
    lines: list[str] = field(default_factory=list)

    def add(self, module: Module) -> None:
        """Append a module; those that it needs are there already.

        Raises:
            ValueError: a name stands for something else in another module, or an import that no code file can have;
                the message names module and line.
        """
        is_main = module.name == self.main
        lines: list[str | None] = [*module.source.splitlines()]
        self.postpones |= {_FUTURE in lines}
        if len(self.postpones) > 1:
            raise ValueError(f"Code files: `{_FUTURE}` must stand in all modules of {module.room} or none.")
        self.lines += ["", "", f"# {module.room}/{module.name}.py", ""]
        end = 0
        for statement in module.statements():
            start, end = end, statement.end_lineno or 0  # with the comments before it
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._add_imports(module, statement)
            elif _is_string(statement):
                self.docstring = ast.literal_eval(statement.value) if is_main else self.docstring
            elif not _is_left_out(statement, is_main) and self._is_new(module, statement):
                for missing, last in _unavailable(statement):
                    lines[missing.lineno - 1 : last] = [None] * (last - missing.lineno + 1)
                    lines[missing.lineno - 1] = f"{' ' * missing.col_offset}raise ImportError(NEEDS_PACKAGE)"
                self.lines += [line for line in lines[start:end] if line is not None]

    def text(self) -> str:
        """The whole file."""
        note = f"Made from highmmt {__version__} to run without it. Do not edit; change the package. Apache-2.0."
        head = [f'"""{self.docstring.strip()}\n\n{note}\n"""', ""]
        lines = [f"{line} {', '.join(sorted(names))}".strip() for line, names in self.imports.items()]
        head += sorted(lines, key=lambda line: (line != _FUTURE, line.startswith("from ."), line[0] == "f", line))
        if any("(NEEDS_PACKAGE)" in line for line in self.lines):
            head += ["", _NEEDS_PACKAGE]
        tail = ["", ""]
        for auto, place in itertools.chain(*(auto_map.items() for auto_map in AUTO_MAPS.values())):
            main, _, name = place.partition(".")
            if main == self.main:  # so that what the class saves carries the code on
                tail.append(f'{name}.register_for_auto_class("{auto}")')
        return re.sub(r"\n{4,}", "\n\n\n", "\n".join([*head, *self.lines, *tail])).rstrip() + "\n"

    def _add_imports(self, module: Module, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            name, bound = ast.unparse(alias), alias.asname or alias.name.split(".")[0]
            if isinstance(statement, ast.Import):
                library, start, name = alias.name, f"import {name}", ""
            elif not statement.level:
                library, start = statement.module or "", f"from {statement.module} import"
            elif alias.asname:
                raise module.error(statement, f"imports {name}; names of the package keep their own")
            elif statement.level == 1:
                continue
            else:
                library, start = "", f"from .{MAIN_MODULES[(statement.module or '').split('.')[0]]} import"
            if library and not _is_at_hand(library):
                raise module.error(statement, f"imports {library} at its top; a function may, where it needs it")
            meaning = start + name if name or alias.asname else bound  # `import a.b` and `import a.c` both mean a
            self._claim(bound, meaning, module, statement)
            self.imports.setdefault(start, set()).update([name] if name else [])

    def _is_new(self, module: Module, statement: ast.stmt) -> bool:
        """False for a definition that stands in the file already, word for word."""
        text = ast.unparse(statement)
        known = [self._claim(name, text, module, statement) for name in _bound_names(statement)]
        return not (known and all(known))

    def _claim(self, name: str, meaning: str, module: Module, statement: ast.stmt) -> bool:
        """True if the name stands for this in the file already."""
        if hasattr(builtins, name) and not name.startswith("__"):
            raise module.error(statement, f"names something {name!r}, which is a builtin in other modules")
        known = self.meanings.get(name)
        if known not in (None, meaning):
            raise module.error(statement, f"gives {name!r} another meaning than a module that goes into the same file")
        self.meanings[name] = meaning
        return known is not None


def _is_string(statement: ast.stmt) -> TypeGuard[ast.Expr]:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_left_out(statement: ast.stmt, is_main: bool) -> bool:
    """True for what serves type checkers only, and for the public names of all but the main module."""
    if isinstance(statement, ast.If):
        return ast.unparse(statement.test) == "TYPE_CHECKING"
    return not is_main and _bound_names(statement) == ["__all__"]


def _bound_names(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top level of a module gives a meaning."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


def _unavailable(node: ast.AST, guarded: bool = False) -> Iterator[tuple[ast.stmt, int]]:
    """Imports in functions of what the folder does without: modules of the package, and libraries of its own.

    Args:
        node: where to look.
        guarded: within `try`, where a library may be missing.

    Yields:
        The import, and the last line of the block that needs it.
    """
    guarded = guarded or isinstance(node, ast.Try)
    for _, block in ast.iter_fields(node):
        for child in block if isinstance(block, list) else []:
            if _is_unavailable(child, guarded):
                yield child, block[-1].end_lineno
                break
            if isinstance(child, ast.AST):
                yield from _unavailable(child, guarded)


def _is_unavailable(node: object, guarded: bool) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or not (guarded or _is_at_hand(node.module or ""))
    return isinstance(node, ast.Import) and not (guarded or all(_is_at_hand(alias.name) for alias in node.names))


def _is_at_hand(library: str) -> bool:
    return library.split(".")[0] in LIBRARIES
