"""Peers: each installed into an environment of its own in the cache, and driven through a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.harness import DECODE_TOKENS, PREFILL_TOKENS, Times
from edgekit.resources import cache_dir

LLAMA_CPP = ("llama-cpp-python==0.3.36", "numpy")
GENAI = ("onnxruntime-genai==0.18.0",)

_WORKERS = Path(__file__).resolve().parent / "workers"


def environment(name: str, requirements: tuple[str, ...], *, shares_ours: bool = False) -> Path:
    """The Python of a peer's environment, made if missing.

    llama-cpp-python is compiled here, for this very processor: that takes some minutes once.

    Args:
        name: what to call it.
        requirements: exact versions.
        shares_ours: also sees our packages (the genai builder needs torch and transformers, and its runtime is ours).
    """
    folder = cache_dir() / "peers" / "-".join([name, *(r.replace("==", "-") for r in requirements[:1])])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            print(f"install {', '.join(requirements)}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            if shares_ours:
                query = "import sysconfig; print(sysconfig.get_path('purelib'))"
                site = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True).stdout.strip()
                Path(site, "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
            extra = ["--no-deps"] if shares_ours else []
            subprocess.run([python, "-m", "pip", "install", "--quiet", *extra, *requirements], check=True)
            done.write_text("\n".join(requirements))
    return python


class Worker:
    """A peer's process: it loads the model once, then does one turn per line it is sent.

    ``peak_bytes`` is its largest resident size up to its last turn; None where the kernel does not tell.
    """

    peak_bytes: int | None = None

    def __init__(self, python: Path, script: str, *arguments: object) -> None:
        command = [str(python), str(_WORKERS / script), *(str(a) for a in arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        output = self._process.stdout
        line = output.readline() if output else ""
        if not line:
            raise RuntimeError(f"the peer ended with exit code {self._process.wait()}: {self._process.args!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self) -> Times:
        if self._process.stdin is None:
            raise RuntimeError("the peer has no input")
        print(json.dumps({"prefill": PREFILL_TOKENS, "decode": DECODE_TOKENS}), file=self._process.stdin, flush=True)
        answer = self._read()
        self.peak_bytes = _peak(self._process.pid)
        return Times(prefill=answer["prefill"], decode=answer["decode"])

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def _peak(pid: int) -> int | None:
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return found[0] if found else None


def make(target: Path, python: Path, script: str, *arguments: object) -> Path:
    """A file or folder that a worker's script makes, once; it is written beside ``target`` and renamed."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        making = target.with_name(f"part-{target.name}")
        subprocess.run([str(python), str(_WORKERS / script), *(str(a) for a in arguments), str(making)], check=True)
        making.rename(target)
    return target
