"""The environment that optimum runs in.

optimum-onnx needs a transformers that this one must not have. So it gets a virtual environment with its own
transformers, and takes PyTorch, ONNX and everything else that fits from here: nothing large is installed twice, and
both exporters trace with the same PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from edgekit.errors import EdgekitError, HostStorageError, MissingToolError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.resources import cache_dir

#: The newest optimum-onnx, and the newest transformers that it takes.
REQUIREMENTS = (
    "optimum-onnx==0.1.0",
    "optimum==2.1.0",
    "transformers==4.57.6",
    "huggingface-hub==0.36.2",
    "tokenizers==0.22.2",
)
#: Taken from this environment, at exactly its version: a newer PyTorch would bring gigabytes.
BORROWED = ("torch", "onnx", "onnxruntime", "numpy")

#: Some 15 MB to fetch; a slow link may take minutes.
INSTALL_TIMEOUT_S = 1800
_LOCK_TIMEOUT_S = 3600
_DONE = ".complete"


def constraints() -> list[str]:
    """Versions that the environment must not change."""
    return [f"{package}=={version(package)}" for package in BORROWED]


def environment_folder() -> Path:
    """Where it lies: named after everything it is made of."""
    made_of = [*REQUIREMENTS, *constraints(), sys.version, sysconfig.get_paths()["purelib"]]
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    return cache_dir() / "environments" / f"optimum-{key}"


def install_command(python: Path, constraint_file: Path) -> list[str]:
    """pip's command that fills the environment."""
    return [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--constraint",
        str(constraint_file),
        *REQUIREMENTS,
    ]


def ensure_environment(*, progress: Progress = silent) -> Path:
    """The environment's Python; made on the first call, with pip as the user has configured it.

    Raises:
        MissingToolError: it could not be made (no network, no ``venv``).
        HostStorageError: the cache cannot be written.
        EdgekitError: another process has been making it for too long.
    """
    folder = environment_folder()
    python = _python_of(folder)
    if (folder / _DONE).is_file():
        return python
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
            if not (folder / _DONE).is_file():
                progress(ProgressEvent("optimum", detail=f"make its environment: {', '.join(REQUIREMENTS)}"))
                shutil.rmtree(folder, ignore_errors=True)
                try:
                    _make(folder, python)
                    (folder / _DONE).write_text("\n".join([*REQUIREMENTS, *constraints()]) + "\n")
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
    except Timeout as error:
        raise EdgekitError(
            f"wait for another process that makes {folder}: still busy after {_LOCK_TIMEOUT_S} s"
        ) from error
    except OSError as error:
        raise HostStorageError(
            f"make optimum's environment in {folder}: {error.strerror or error}",
            hint="free space, or set EDGEKIT_CACHE to another folder",
        ) from error
    return python


def _make(folder: Path, python: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)], "make a virtual environment", "install Python's venv module")
    site = Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], "ask it", None))
    # Behind its own packages: what it has itself comes first.
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    constraint_file = folder / "constraints.txt"
    constraint_file.write_text("\n".join(constraints()) + "\n")
    hint = "`pip download optimum-onnx` must work here; behind a proxy or mirror, configure pip for it"
    _run(install_command(python, constraint_file), "install optimum", hint)


def _run(command: list[str], what: str, hint: str | None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"optimum: {what}: {error}", hint=hint) from error
    if done.returncode != 0:
        raise MissingToolError(
            f"optimum: {what}: exit code {done.returncode}", detail=done.stderr.strip()[-2000:], hint=hint
        )
    return done.stdout.strip()


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
