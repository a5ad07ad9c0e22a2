"""A model folder as a repository on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from . import __version__
from .code_files import MAIN_MODULES, with_code_files
from .configuration.files import read_json

# What belongs to a model: nothing else in its folder is uploaded.
_FILES = (
    "README.md",
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "word_vectors.safetensors",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    *(f"{main}.py" for main in MAIN_MODULES.values()),
)
# The client raises errors of httpx, or of a library of its own making; either way this is their parent.
_HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    with_code: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a model folder in one commit: configuration, weights, processor, tokenizer, model card and code files.

    The repository is made if need be; files that it holds and the folder does not have stay. In the uploaded card the
    lines that load the model name the repository. The folder itself is not changed.

    Args:
        folder: a saved model.
        repository: `"ORG/NAME"`.
        private: make a private repository; one that exists must be private then.
        with_code: add the code files, see `add_code_files`.
        revision: branch to commit to, made if need be; None for `main`.
        commit_message: None for a plain one.
        token: None for the one of `HF_TOKEN` or of `hf auth login`.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: the folder is no model folder.
        ValueError: an impossible name of a repository, a card that the Hub refuses, or a public repository where
            `private` asks for another.
        PermissionError: no token, one that the Hub does not know, or one that may not write there.
        ConnectionError: the Hub cannot be reached.
        OSError: the Hub refuses for another reason.
    """
    contents = _contents(Path(folder), repository, with_code)
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    token = _checked(get_token() if token is None else token)
    hub = HfApi(token=token, library_name="highmmt", library_version=__version__)
    with _plain_errors(hub.endpoint, repository):
        hub.create_repo(repository, private=private or None, exist_ok=True)
        if private and not hub.model_info(repository).private:
            raise ValueError(f"{repository} exists and is public; leave out --private, or choose another name.")
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        message = commit_message or f"Upload model with highmmt {__version__}"
        return str(hub.create_commit(repository, operations, commit_message=message, revision=revision).commit_url)


def _contents(folder: Path, repository: str, with_code: bool) -> dict[str, Path | bytes]:
    """Name to content of what is uploaded.

    Raises:
        FileNotFoundError, ValueError: not a model's folder, or not a repository's name.
    """
    if not re.fullmatch(r"[^/]+/[^/]+", repository):
        raise ValueError(f"{repository!r} names no repository; write ORG/NAME, with your user name for ORG.")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{repository!r} names no repository: {error}") from error
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such model folder.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _FILES)]
    if "config.json" not in names:
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json.")
    if read_json(folder / "config.json").get("model_type") != "highmmt":
        raise ValueError(f"{folder / 'config.json'} is not that of a HighMMT model.")
    if not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(f"{folder} is no model folder: it has no model.safetensors.")
    contents: dict[str, Path | bytes] = {name: folder / name for name in names}
    if with_code:
        contents |= {name: text.encode() for name, text in with_code_files(folder).items()}
    if "README.md" in contents:
        card = contents["README.md"]
        text = (card if isinstance(card, bytes) else card.read_bytes()).decode()
        contents["README.md"] = _card_of_repository(text, repository).encode()
    return contents


def _card_of_repository(card: str, repository: str) -> str:
    """The card with the repository's name where code loads the model, and without links out of the folder."""
    card = card.replace('folder = "path/to/this/folder"', f'folder = "{repository}"')
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", card)


def _checked(token: str | None) -> str:
    """The token; errors never show it."""
    if not token:
        raise PermissionError("No Hugging Face token: log in with `hf auth login`, or set HF_TOKEN.")
    if not re.fullmatch(r"[!-~]+", token):
        raise PermissionError(
            "The Hugging Face token (HF_TOKEN or `hf auth login`) is damaged: it holds blanks, line breaks or "
            "characters that no token has."
        )
    return token


@contextmanager
def _plain_errors(endpoint: str, repository: str) -> Iterator[None]:
    """The client's errors in one sentence each, with the way out."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it.") from error
    except (_HTTPError, RuntimeError) as error:
        # The client wraps what goes wrong with the content of one file.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(cause, endpoint, repository) from error
        if isinstance(cause, _HTTPError):
            raise ConnectionError(f"{endpoint}: no connection ({cause}). Nothing was committed; try again.") from error
        raise


def _refusal(error: HfHubHTTPError, endpoint: str, repository: str) -> OSError:
    status = error.response.status_code
    if status == 401:
        return PermissionError(
            f"{endpoint} does not accept the Hugging Face token: it is mistyped, expired or revoked. Log in again "
            "with `hf auth login`, or correct HF_TOKEN."
        )
    if status in (403, 404):
        return PermissionError(
            f"The Hugging Face token may not write to {repository} ({status}). Use a token with the permission to "
            f"write, of a user who may do so in {repository.partition('/')[0]!r}, or another repository."
        )
    return OSError(f"{endpoint} refuses the upload to {repository} ({status}): {error.server_message or error}")
