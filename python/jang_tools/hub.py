"""Where a model argument leads: a directory, or a Hub repository in the local Hub cache.

Downloads go through huggingface_hub, which honours HF_HOME, HF_ENDPOINT, HF_HUB_CACHE,
HF_HUB_OFFLINE and HF_TOKEN. Only weights, JSON, tokenizer and template files are fetched, never
code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jang_tools.errors import ArgumentError, IoError, JangError

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_HUB_ID = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9_][\w./-]*))?")

WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# Copies in other formats live in subdirectories; consolidated files repeat the weights.
UNWANTED = ["*/*", "consolidated*"]


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this machine: its directory, and the name to record, which is never a path."""

    path: Path
    name: str  # org/name of a Hub model, the directory's own name otherwise
    revision: str  # the commit of a Hub model, else ""

    @property
    def argument(self) -> str:
        """What leads here again, and to the same revision."""
        return f"{self.name}@{self.revision}" if self.revision else str(self.path)


def resolve_model(text: str | Path, *, progress: bool = False) -> Path:
    """The directory of ``text``: itself if it is one, else that of ``org/name[@revision]``.

    Raises IoError (no such directory, the Hub's refusals) or ArgumentError (not a model argument).
    """
    return locate_model(text, progress=progress).path


def locate_model(text: str | Path, *, progress: bool = False) -> ResolvedModel:
    """As `resolve_model`, with the name and the revision that a conversion records.

    ``progress`` lets huggingface_hub draw its bars on stderr.
    """
    path = Path(text)
    if path.is_dir():
        return ResolvedModel(path, path.resolve().name, "")
    if path.exists():
        raise IoError(
            f"{text}: a file, where a model directory is expected",
            code="io",
            hint="name the directory that holds config.json and the safetensors files",
        )
    return _fetch(*parse_hub_id(text), progress=progress)


def parse_hub_id(text: str | Path) -> tuple[str, str | None]:
    """(org/name, revision) of ``org/name[@revision]``. Raises IoError for anything else."""
    match = _HUB_ID.fullmatch(str(text))
    if match is None or ".." in str(text):
        raise IoError(
            f"{text}: no such directory",
            code="io",
            hint="give a directory, or a Hub model as org/name or org/name@revision",
        )
    return match["repository"], match["revision"]


@contextmanager
def quiet_hub(*, progress: bool = False) -> Iterator[None]:
    """huggingface_hub draws no bars in the block, but with ``progress``. Raises ArgumentError if it
    rejects its settings, which it reads from the environment when it is imported."""
    try:
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
    except ValueError as error:
        raise ArgumentError(f"huggingface_hub rejects its environment: {error}") from error
    silence = not progress and not are_progress_bars_disabled()
    if silence:
        disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            enable_progress_bars()


def _fetch(repository: str, revision: str | None, *, progress: bool) -> ResolvedModel:
    with quiet_hub(progress=progress):
        from huggingface_hub import snapshot_download

        try:
            snapshot = snapshot_download(
                repository, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED
            )
        except Exception as error:
            # The library raises its own types, its HTTP client's and OSError, which share no base;
            # all of them mean that the model could not be had.
            raise refusal(repository, revision, error) from error
    path = Path(snapshot)
    if not any(path.iterdir()):
        raise IoError(f"{repository}: holds none of {', '.join(WANTED)}", code="io")
    return ResolvedModel(path, repository, path.name)


def refusal(repository: str, revision: str | None, error: Exception) -> JangError:
    """One line for whatever the library raised: that the model could not be had, and why."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__  # the Hub did answer, and that is the reason
    missing = f"{repository}: no such directory, and "
    if isinstance(error, GatedRepoError):
        return IoError(
            f"{repository}: access is restricted on the Hub",
            code="io",
            hint="accept its terms on the model's page, then set HF_TOKEN",
        )
    if isinstance(error, RepositoryNotFoundError):
        return IoError(
            f"{missing}the Hub shows no such model",
            code="io",
            hint="check the spelling; a private model needs HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return IoError(
            f"{repository}: the Hub knows no revision '{revision}'",
            code="io",
            hint="a revision is a branch, a tag or a commit",
        )
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        if is_offline():
            return IoError(
                f"{missing}not complete in the Hub cache while offline",
                code="io",
                hint="unset HF_HUB_OFFLINE to download it",
            )
        return IoError(
            f"{missing}the Hub cannot be reached",
            code="io",
            hint="check the connection, HF_ENDPOINT and any proxy",
        )
    if isinstance(error, HfHubHTTPError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return IoError(
                f"{repository}: the Hub refuses access (HTTP {status})",
                code="io",
                hint="set HF_TOKEN to a valid token that may read this model",
            )
        return IoError(
            f"{repository}: the Hub answers with HTTP {status}",
            code="io",
            hint="try again later, or download the model and name its directory",
        )
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return IoError(
        f"{repository}: download failed: {first_line}",
        code="io",
        hint="check the connection, the space in the Hub cache, and HF_ENDPOINT",
    )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids all requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
