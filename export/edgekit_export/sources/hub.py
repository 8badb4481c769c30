"""A model on the Hugging Face hub, or on whatever ``HF_ENDPOINT`` names.

huggingface_hub does the work: its cache (``HF_HOME``, ``HF_HUB_CACHE``), its offline mode
(``HF_HUB_OFFLINE``), its token (``HF_TOKEN``) and its resumed, length-checked downloads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgekit.errors import HostStorageError, InputError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit_export.sources.directory import open_directory
from edgekit_export.sources.source import ModelSource, short_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

#: What an export needs; weights in other formats and copies in subfolders stay where they are.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "tokenizer.model", "LICENSE*", "README.md"]
_UNWANTED = ["*/*"]


def open_hub(repository: str, *, revision: str | None, progress: Progress = silent) -> ModelSource:
    """The model ``repository`` at ``revision`` (branch, tag or commit; the default branch when None).

    Raises:
        InputError: no such repository or revision, no access, not reachable and not in the cache,
            or files that are incomplete.
        UnsupportedError: not a decoder-only language model, or weights in no safetensors files.
        HostStorageError: the cache cannot be written.
    """
    shown = f"{repository}@{revision}" if revision else repository
    folder = _snapshot(repository, revision, shown, progress)
    # The cache names a snapshot's folder after the commit.
    return open_directory(
        folder,
        kind="hub",
        name=short_name(repository.rpartition("/")[2]),
        shown=repository,
        revision=folder.name,
    )


def _snapshot(repository: str, revision: str | None, shown: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    progress(ProgressEvent("fetch model", detail=shown))
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                tqdm_class=_bar(progress, shown),
            )
        )
    except GatedRepoError as error:
        raise InputError(
            f"fetch {shown}: the repository is gated",
            hint="accept its terms on the hub, then set HF_TOKEN or run `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"fetch {shown}: the repository has no such revision") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"fetch {shown}: no such repository, or no access to it",
            hint="check the name; for a private model set HF_TOKEN",
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"fetch {shown}: the hub cannot be reached (or HF_HUB_OFFLINE is set) and the model is not in the cache",
            hint="check the network and HF_ENDPOINT; or name a local directory or a GGUF file",
        ) from error
    except HfHubHTTPError as error:
        raise InputError(
            f"fetch {shown}: {type(error).__name__}: {_first_line(error)}",
            hint="check the network and HF_ENDPOINT; what was fetched so far is kept",
        ) from error
    except OSError as error:
        if error.errno is None:
            # huggingface_hub reports a download of the wrong length as a plain OSError.
            raise InputError(
                f"fetch {shown}: {_first_line(error)}", hint="the download was cut short; try again"
            ) from error
        raise HostStorageError(f"fetch {shown}: {error.strerror} ({error.filename})", hint="free some space") from error
    # What is left comes from the HTTP library underneath, which changes with huggingface_hub's version.
    except Exception as error:
        raise InputError(
            f"fetch {shown}: {type(error).__name__}: {_first_line(error)}",
            hint="check the name, the network and HF_ENDPOINT; what was fetched so far is kept",
        ) from error


def _bar(progress: Progress, shown: str) -> type:
    """A stand-in for tqdm that passes a download's bytes on as progress."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._unit = kwargs.get("unit", "it")
            kwargs.pop("name", None)
            kwargs["disable"] = True
            self._total = kwargs.get("total")
            super().__init__(*args, **kwargs)
            self._done = float(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            if self._unit == "B":
                progress(ProgressEvent("fetch model", self._done, self.total or self._total, "bytes", shown))
            return None

    return Bar


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
