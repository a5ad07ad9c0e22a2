"""Pushing to the Hub with the real client, to a server on this machine, and loading from there."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from highmmt import push_to_hub
from highmmt.code_files import MAIN_MODULES

LocalHub: TypeAlias = Any  # the class of `local_hub.py`
# What the client itself does when it sends the content of a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")

TOKEN = "hf_write_aaaaaaaaaaaaaaaaaaaaaaaaaa"
CODE = {f"{main}.py" for main in MAIN_MODULES.values()}
FILES = {
    ".gitattributes",
    "README.md",
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def hub(local_hub: ModuleType) -> Iterator[LocalHub]:
    """An empty hub with users of different rights."""
    users = {
        TOKEN: local_hub.User("ann", writes_to=("ann", "lab")),
        "hf_read": local_hub.User("ann"),
        "hf_other": local_hub.User("bob", writes_to=("bob",)),
    }
    with local_hub.LocalHub(users) as server:
        yield server


@pytest.fixture
def online(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The hub, for this process, whose environment was read when the client was imported."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture
def command(tiny: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and errors of a command; none of them ever shows a token."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = tiny.highmmt(*arguments)
        said = capsys.readouterr()
        assert "hf_" not in said.out + said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to change."""
    return Path(shutil.copytree(model_folder, tmp_path / "copied"))


def test_a_pushed_folder_is_one_commit_with_the_files_of_the_model_and_no_others(
    online: LocalHub, copied: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for stray in (
        ".model.safetensors.x.tmp",
        ".DS_Store",
        "notes.txt",
        "optimizer.pt",
        "helper.py",
        "epoch/config.json",
    ):
        (copied / stray).parent.mkdir(exist_ok=True)
        (copied / stray).write_text("stray", encoding="utf-8")
    code, said, errors = command("push", copied, "lab/tiny")
    repository = online.repositories["lab/tiny"]
    assert (code, errors) == (0, "")
    assert said == f"{copied} is at {online.url}/lab/tiny/commit/{repository.branches['main']}\n"
    assert set(repository.files()) == FILES
    assert len(repository.messages()) == 2
    assert not repository.private
    for name in FILES - {".gitattributes", "README.md"}:
        assert repository.files()[name] == (copied / name).read_bytes()


def test_the_pushed_card_loads_the_repository_and_links_to_nothing_outside(online: LocalHub, copied: Path) -> None:
    card = (copied / "README.md").read_text(encoding="utf-8")
    (copied / "README.md").write_text(f"{card}\nThe run's [report](../report.html), [docs](https://a.b/c).\n", "utf-8")
    push_to_hub(copied, "lab/tiny")
    pushed = online.repositories["lab/tiny"].files()["README.md"].decode()
    assert 'folder = "lab/tiny"' in pushed
    assert "The run's report, [docs](https://a.b/c)." in pushed
    assert ModelCard(pushed).data.to_dict() == ModelCard(card).data.to_dict()


def test_a_second_push_is_a_second_commit_of_what_changed(online: LocalHub, copied: Path) -> None:
    push_to_hub(copied, "lab/tiny", commit_message="First")
    online.repositories["lab/tiny"].commit("main", "By hand", {"notes.txt": b"mine"})
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    (copied / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}), encoding="utf-8")
    online.requests.clear()
    push_to_hub(copied, "lab/tiny", commit_message="Second")
    repository = online.repositories["lab/tiny"]
    assert repository.messages() == ["initial commit", "First", "By hand", "Second"]
    assert set(repository.files()) == {*FILES, "notes.txt"}
    assert json.loads(repository.files()["config.json"])["initializer_range"] == 0.5
    assert not any(request.startswith("PUT") for request in online.requests)


def test_a_revision_is_a_branch_of_its_own(online: LocalHub, copied: Path) -> None:
    push_to_hub(copied, "lab/tiny")
    (copied / "README.md").write_text("# Another\n", encoding="utf-8")
    push_to_hub(copied, "lab/tiny", revision="next", commit_message="For the branch")
    repository = online.repositories["lab/tiny"]
    assert repository.files("next")["README.md"] == b"# Another\n"
    assert repository.files("main")["README.md"] != b"# Another\n"
    assert repository.messages()[-1] == "For the branch"


def test_a_private_repository_stays_private(online: LocalHub, model_folder: Path) -> None:
    for private in (True, True, False):
        push_to_hub(model_folder, "lab/secret", private=private)
    assert online.repositories["lab/secret"].private


def test_a_public_repository_does_not_become_private(
    online: LocalHub, copied: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    push_to_hub(copied, "lab/tiny")
    (copied / "README.md").write_text("# Secret\n", encoding="utf-8")
    code, said, errors = command("push", copied, "lab/tiny", "--private")
    assert (code, said) == (2, "")
    assert errors == "Error: lab/tiny exists and is public; leave out --private, or choose another name.\n"
    assert len(online.repositories["lab/tiny"].messages()) == 2


@pytest.fixture
def variables(hub: LocalHub) -> dict[str, str]:
    """The environment of a process that works with the hub."""
    return {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def test_code_goes_along_on_request_and_runs_from_there(
    online: LocalHub,
    variables: dict[str, str],
    model_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    bare_python: Path,
    run_in: Callable[..., str],
    tmp_path: Path,
) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    assert command("push", model_folder, "lab/tiny", "--private", "--with-code")[0] == 0
    assert set(online.repositories["lab/tiny"].files()) == FILES | CODE
    assert len(online.repositories["lab/tiny"].messages()) == 2
    assert {path.name: path.read_bytes() for path in model_folder.iterdir()} == before

    code = """
import sys
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained("lab/tiny", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("lab/tiny", trust_remote_code=True)
save_file(model.state_dict(), sys.argv[1])
print(type(model).__module__, type(processor).__module__)
"""
    modules = run_in(bare_python, code, tmp_path / "loaded.safetensors", **variables).split()[-2:]
    assert all(module.startswith("transformers_modules.lab.tiny.") for module in modules)
    assert_same_tensors(tmp_path / "loaded.safetensors", model_folder / "model.safetensors")


def test_a_private_repository_comes_back_bit_by_bit_to_those_who_may_and_is_pushed_on_as_in_transformers(
    hub: LocalHub, variables: dict[str, str], model_folder: Path, run_in: Callable[..., str], tmp_path: Path
) -> None:
    code = """
import sys
import highmmt
from transformers import AutoModel, AutoProcessor

# The address of the Hub and the token are those of the environment.
print(highmmt.push_to_hub(sys.argv[1], "lab/secret", private=True))
for token in (False, "hf_other", "hf_unknown"):
    try:
        AutoModel.from_pretrained("lab/secret", token=token)
    except OSError as error:
        print("refused:", "lab/secret" in str(error))
model, processor = AutoModel.from_pretrained("lab/secret"), AutoProcessor.from_pretrained("lab/secret")
assert isinstance(model, highmmt.HighMMTModel) and isinstance(processor, highmmt.HighMMTProcessor)
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
model.push_to_hub("lab/again", private=True)
processor.push_to_hub("lab/again", commit_message="And the processor")
processor.save_pretrained("saved", push_to_hub=True, repo_id="lab/processor")
"""
    said = run_in(Path(sys.executable), code, model_folder, tmp_path / "loaded", **variables)
    assert f"{hub.url}/lab/secret/commit/{hub.repositories['lab/secret'].branches['main']}\n" in said
    assert said.count("refused: True") == 3
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json"):
        assert (tmp_path / "loaded" / name).read_bytes() == (model_folder / name).read_bytes()
    again = hub.repositories["lab/again"]
    assert again.private
    assert again.messages() == ["initial commit", "Upload model", "And the processor"]
    assert set(again.files()) == FILES
    assert again.files()["model.safetensors"] == (model_folder / "model.safetensors").read_bytes()
    assert set(hub.repositories["lab/processor"].files()) == FILES - {"config.json", "model.safetensors"}


def assert_same_tensors(found: Path, expected: Path) -> None:
    tensors, others = load_file(found), load_file(expected)
    assert list(tensors) == list(others)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in others.items())


# What can go wrong: one line that names it, exit code 2, nothing uploaded


@pytest.mark.parametrize(
    ("token", "repository", "parts"),
    [
        (None, "lab/tiny", ["No Hugging Face token", "hf auth login", "HF_TOKEN"]),
        ("hf_unknown", "lab/tiny", ["does not accept the Hugging Face token", "hf auth login"]),
        ("hf_read", "ann/tiny", ["may not write to ann/tiny (403)", "permission to write"]),
        (TOKEN, "museum/tiny", ["may not write to museum/tiny (403)", "in 'museum'"]),
        ("hf_other", "lab/secret", ["may not write to lab/secret (403)"]),
        ("hf_two words", "lab/tiny", ["token", "is damaged", "blanks"]),
        ("hf_töken", "lab/tiny", ["token", "is damaged"]),
        (TOKEN, "tiny", ["'tiny' names no repository; write ORG/NAME"]),
        (TOKEN, "a/b/c", ["'a/b/c' names no repository; write ORG/NAME"]),
        (TOKEN, "lab/ti ny", ["'lab/ti ny' names no repository", "alphanumeric"]),
        (TOKEN, "lab/tiny.git", ["'lab/tiny.git' names no repository", ".git"]),
    ],
)
def test_tokens_and_names_that_will_not_do(
    online: LocalHub,
    model_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repository: str,
    parts: list[str],
) -> None:
    push_to_hub(model_folder, "lab/secret", private=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    code, said, errors = command("push", model_folder, repository)
    assert (code, said, errors.count("\n")) == (2, "", 1)
    for part in ("Error: ", *parts):
        assert part in errors
    assert [len(found.messages()) for found in online.repositories.values()] == [2]


def test_a_hub_that_is_not_there_or_not_wanted(
    online: LocalHub,
    model_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    code, said, errors = command("push", model_folder, "lab/tiny")
    assert (code, said) == (2, "")
    assert errors.startswith("Error: http://127.0.0.1:1: no connection (")
    assert "Nothing was committed" in errors
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, errors = command("push", model_folder, "lab/tiny")
    assert (code, errors) == (2, "Error: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it.\n")
    assert not online.requests


@pytest.mark.parametrize(
    ("broken", "parts"),
    [
        ({"POST /api/models/lab/tiny/commit": 507}, ["refuses the upload to lab/tiny (507)", "Out of order."]),
        ({"PUT /lfs/": 403}, ["may not write to lab/tiny (403)"]),
        ({"PUT /lfs/": 418}, ["refuses the upload to lab/tiny (418)", "Out of order."]),
    ],
)
def test_a_hub_that_refuses_half_way_has_no_commit(
    online: LocalHub,
    model_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    broken: dict[str, int],
    parts: list[str],
) -> None:
    online.broken = broken
    code, said, errors = command("push", model_folder, "lab/tiny")
    assert (code, said, errors.count("\n")) == (2, "", 1)
    assert all(part in errors for part in parts), errors
    assert online.repositories["lab/tiny"].messages() == ["initial commit"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "is no model folder: it has no config.json."),
        ("model.safetensors", "is no model folder: it has no model.safetensors."),
        ("", "there is no such model folder."),
    ],
)
def test_only_a_model_folder_is_uploaded(
    online: LocalHub, copied: Path, command: Callable[..., tuple[int, str, str]], missing: str, message: str
) -> None:
    if missing:
        (copied / missing).unlink()
    else:
        shutil.rmtree(copied)
    code, said, errors = command("push", copied, "lab/tiny")
    assert (code, said) == (2, "")
    assert errors.startswith(f"Error: {copied}")
    assert errors.endswith(f"{message}\n")
    assert not online.requests


def test_other_models_and_cards_that_the_hub_refuses_are_not_uploaded(
    online: LocalHub, copied: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (copied / "README.md").write_text("---\nmodel-index:\n- name: a\n  results:\n  - metrics: []\n---\n", "utf-8")
    code, _, errors = command("push", copied, "lab/tiny")
    assert (code, errors.count("\n")) == (2, 1)
    assert "Invalid metadata in README.md" in errors
    (copied / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    code, _, errors = command("push", copied, "lab/tiny")
    assert (code, errors) == (2, f"Error: {copied / 'config.json'} is not that of a HighMMT model.\n")
    assert online.repositories["lab/tiny"].messages() == ["initial commit"]
