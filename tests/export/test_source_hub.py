"""The hub through its own client, against a server on this machine.

huggingface_hub reads its environment once, when imported: each test asks a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serve

REPOSITORY = "lab/Tiny-Model"

#: Opens each source named, and says what came of it.
ASK = """
import json, sys
from edgekit.errors import EdgekitError
from edgekit_export.sources import open_source
for spec in sys.argv[1:]:
    stages = set()
    try:
        source = open_source(spec, progress=lambda event: stages.add(event.stage))
        answer = {"name": source.name, "kind": source.identity.kind, "shown": source.identity.name,
                  "revision": source.identity.revision, "sha256": source.identity.sha256,
                  "license": source.identity.license, "eos": source.eos_ids, "stages": sorted(stages)}
    except EdgekitError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""

#: A client that waits on a dead line retries for a while first.
TIMEOUT_S = 240


@pytest.fixture
def hub(trained: Path, tmp_path: Path) -> Iterator[Hub]:
    folder = Path(shutil.copytree(trained, tmp_path / "served"))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("not to be fetched")
    (folder / "pytorch_model.bin").write_bytes(b"not to be fetched")
    with serve(Hub(REPOSITORY, folder)) as running:
        yield running


def ask(home: Path, url: str, *specs: str, **environment: str) -> list[dict]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    variables = {**clean, "HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *specs],
        env=variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_fetched_once_then_found_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    from edgekit.schema.integrity import sha256_file

    home = tmp_path / "home"
    found, pinned, missing, unknown = ask(
        home, hub.url, REPOSITORY, f"{REPOSITORY}@v1", "lab/no-such-model", f"{REPOSITORY}@v9"
    )
    assert found["name"] == "tiny-model"
    assert (found["kind"], found["shown"], found["revision"]) == ("hub", REPOSITORY, COMMIT)
    assert found["sha256"] == sha256_file(hub.folder / "model.safetensors")
    assert (found["license"], found["eos"]) == ("apache-2.0", [2])
    assert "fetch model" in found["stages"]
    assert pinned["revision"] == COMMIT
    assert missing["error"] == "InputError"
    assert "no such repository" in missing["message"]
    assert unknown["error"] == "InputError"
    assert "no such revision" in unknown["message"]
    fetched = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert not any(request.endswith(("pytorch_model.bin", "onnx/config.json")) for request in fetched)
    assert sum(request.endswith("/model.safetensors") for request in fetched) == 1

    # Offline, and with the server gone for all the client knows.
    before = len(hub.requests)
    again, absent = ask(home, hub.url, REPOSITORY, "lab/never-fetched", HF_HUB_OFFLINE="1")
    assert again == {**found, "stages": again["stages"]}
    assert absent["error"] == "InputError"
    assert "not in the cache" in absent["message"]
    assert len(hub.requests) == before


def test_a_download_that_is_cut_short(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "model.safetensors"
    home = tmp_path / "home"
    (answer,) = ask(home, hub.url, REPOSITORY)
    assert answer["error"] == "InputError", answer
    assert "Next:" in answer["message"]
    # Nothing of it is taken for the model afterwards, and the next attempt completes it.
    (offline,) = ask(home, hub.url, REPOSITORY, HF_HUB_OFFLINE="1")
    assert offline.get("error") == "InputError", offline
    hub.cut = None
    (answer,) = ask(home, hub.url, REPOSITORY)
    assert answer["name"] == "tiny-model"
