"""Adapter folders to the Hugging Face hub and from there."""

import re
from pathlib import Path
from typing import Any

from ossicle.adapters import store
from ossicle.backbones import text
from ossicle.errors import CheckpointError, UsageError

ADAPTER_FILES = (
    *(store.MANIFEST, store.WEIGHTS, "recipe.toml", "labels.json", "README.md", "CREDITS.txt"),
    *(f"{store.LLM}/{name}" for name in (text.CONFIG, text.WEIGHTS)),
)
REPO = re.compile(r"[\w.-]+/[\w.-]+")
TOKEN = "log in with `hf auth login` or set HF_TOKEN"


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload an adapter folder; the repository is made if it is not there.

    Args:
        folder: as `ossicle train` writes it. What is not part of the adapter (states, plots, logs) is left out.
        repo: "name/repository".
        private: for a repository that is made now.

    Returns:
        The address of the upload.

    Raises:
        UsageError: for a repository that is not named so.
        CheckpointError: if the folder is no adapter, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    if not REPO.fullmatch(repo):
        raise UsageError(f"'{repo}' is not a hub repository; write it like name/birds")
    store.read_manifest(folder)
    store.read_weights(folder)
    api = HfApi(endpoint=constants.ENDPOINT, library_name="ossicle")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done: Any = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(ADAPTER_FILES), commit_message="Adapter"
        )
    except Exception as error:  # each version of the hub library raises its own
        raise CheckpointError(f"{repo} was not uploaded: {_reason(error)}; {TOKEN}") from None
    return str(done.commit_url)


def fetch(repo: str) -> Path:
    """An adapter folder from the hub, kept in the hub library's cache; without a network, the one fetched last.

    Args:
        repo: "name/repository".

    Raises:
        CheckpointError: if the hub cannot be reached, has no such repository, or it holds no adapter.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(ADAPTER_FILES), endpoint=constants.ENDPOINT))
    except Exception as error:  # each version of the hub library raises its own
        raise CheckpointError(
            f"there is no folder '{repo}', and as a hub repository it cannot be had: {_reason(error)}"
        ) from None
    if not (folder / store.MANIFEST).is_file():
        raise CheckpointError(f"the hub repository {repo} holds no adapter: it has no {store.MANIFEST}")
    return folder


def _reason(error: Exception) -> str:
    """The first line of an error, without addresses of requests."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s*\(Request ID:[^)]*\)", "", lines[0] if lines else type(error).__name__).rstrip(".")
