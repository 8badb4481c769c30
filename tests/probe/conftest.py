"""The probe built for this machine, the real runtime library, and a small real model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from probe_model import RUNTIME_VERSION, ProbeModel, make_model

from edgekit.deploy.probe_build import ensure_probe
from edgekit.deploy.runtime_library import ensure_runtime
from edgekit.deploy.toolchain import host_abi
from edgekit.schema import codec
from edgekit.schema.event import Bye, ProbeFault, Stream
from edgekit.schema.plan import Plan
from edgekit.schema.stream import read_stream

#: A launch over the small model takes well under a second; an emulated one some seconds.
LAUNCH_TIMEOUT_S = 120


@dataclass(frozen=True)
class Outcome:
    """How a launch ended. Every line of the stream was decoded by the schema."""

    exit_code: int
    stream: Stream
    stderr: str

    def only(self, kind: type) -> object:
        found = [event for event in self.stream.events if isinstance(event, kind)]
        assert len(found) == 1, (kind, self.stream.events)
        return found[0]

    def all(self, kind: type) -> list:
        return [event for event in self.stream.events if isinstance(event, kind)]

    def refused(self, code: str, exit_code: int) -> str:
        """Assert that the launch failed in order, for this reason; returns the message."""
        fault = self.only(ProbeFault)
        assert (fault.code, fault.fatal, self.exit_code) == (code, True, exit_code)
        assert self.stream.complete
        assert self.only(Bye).reason == "failed"
        return fault.message


Launcher = Callable[..., Outcome]


@pytest.fixture(scope="session")
def abi() -> str:
    found = host_abi()
    if found is None:
        pytest.skip("the probe runs on Linux only")
    return found


@pytest.fixture(scope="session")
def probe(abi: str) -> Path:
    return ensure_probe(abi)


@pytest.fixture(scope="session")
def library(abi: str) -> Path:
    return ensure_runtime("onnxruntime", RUNTIME_VERSION, abi)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ProbeModel:
    return make_model(tmp_path_factory.mktemp("model"))


def read_outcome(done: subprocess.CompletedProcess[bytes]) -> Outcome:
    stream = read_stream(done.stdout, origin="the probe")
    assert stream.faults == [], (stream.faults, done.stdout)
    return Outcome(done.returncode, stream, done.stderr.decode())


@pytest.fixture
def launch(probe: Path, tmp_path: Path) -> Launcher:
    """Run the probe over a plan (an object, or the file's bytes) and decode what it says."""

    def run(plan: Plan | bytes, *, binary: Path = probe, prefix: tuple[str, ...] = ()) -> Outcome:
        path = tmp_path / "plan.json"
        path.write_bytes(plan if isinstance(plan, bytes) else codec.encode(plan))
        command = [*prefix, str(binary), "--plan", str(path), "--events", "-"]
        return read_outcome(subprocess.run(command, capture_output=True, timeout=LAUNCH_TIMEOUT_S, check=False))

    return run
