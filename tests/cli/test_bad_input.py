"""Bad input through the command line: one message, the documented exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.cli.main import _exit_code

EDGEKIT = [sys.executable, "-m", "edgekit.cli"]
#: Far above what any of these commands needs on a busy machine.
LIMIT_S = 300.0
#: Ctrl-C must reach edgekit also where the tests run in the background of a script, which ignores it.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from edgekit.cli.main import main; main()"
)
SHORT = ["-p", "8", "-n", "4", "-r", "1", "-t", "1"]


def refused(stderr: str, code: int, expected: int) -> str:
    """Check the form of a refusal; returns its message without progress before it."""
    assert code == expected, stderr
    assert "Traceback" not in stderr
    lines = stderr.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(("edgekit: ", "Error: "))]
    assert len(starts) == 1, stderr
    if code != 2:
        assert lines[-1].startswith("Next: "), stderr
    return "\n".join(lines[starts[0] :])


def run(*arguments: object, environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [*EDGEKIT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return done.returncode, done.stderr


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


@pytest.fixture
def w4(exported: Path) -> Path:
    return exported / "tiny-onnxruntime-w4"


@pytest.fixture
def copy(w4: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(w4, tmp_path / "copy"))


# Sources. These need torch, which takes longer to load than all else: they share this process.


def cut_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-1000])


def no_configuration(model: Path) -> None:
    (model / "config.json").unlink()


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


def configured(**changes: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        values = json.loads((model / "config.json").read_text()) | changes
        (model / "config.json").write_text(json.dumps(values))

    return change


DAMAGES = {
    "cut": (cut_weights, 3, "safetensors"),
    "no configuration": (no_configuration, 3, "no config.json"),
    "no weights": (no_weights, 3, "no weights"),
    "tokenizer": (broken_tokenizer, 3, "tokenizer"),
    "unknown architecture": (configured(model_type="nosuch"), 4, "nosuch"),
    "encoder": (configured(model_type="bert", architectures=["BertModel"]), 4, "BertModel"),
    "another model's": (configured(num_hidden_layers=3), 3, "model.layers.2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models(
    damage: str, trained: Path, export_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, named = DAMAGES[damage]
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    change(model)
    found = _exit_code(["export", str(model), "-q", "w4", "--out", str(tmp_path / "out")])
    assert named in refused(capsys.readouterr().err, found, code)
    assert everything(tmp_path / "out") == []


def test_a_broken_directory_is_not_looked_for_on_the_hub(
    export_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    code = _exit_code(["export", "org/name", "-q", "w4"])
    assert "no config.json" in refused(capsys.readouterr().err, code, 3)


def gguf_files(trained: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    from tiny_model import write_gguf

    whole = folder / "whole.gguf"
    write_gguf(trained, whole)
    data = whole.read_bytes()
    contents = {
        "cut header": (data[:1000], "header is damaged"),
        "cut weights": (data[:-5000], "cut short"),
        "no gguf": (b"hello" * 100, "not a GGUF file"),
        "empty": (b"", "it is empty"),
        "only magic": (b"GGUF\x03\0\0\0" + b"\xa8" * 4096, "header is damaged"),
    }
    for name, (content, expected) in contents.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(content)
        yield path, expected
    strange = folder / "strange.gguf"
    write_gguf(trained, strange, architecture="mamba")
    yield strange, "'mamba'"


def test_damaged_gguf_files(
    trained: Path, export_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, expected in gguf_files(trained, tmp_path):
        code = _exit_code(["export", str(path), "-q", "w4", "--out", str(tmp_path / "out")])
        assert expected in refused(capsys.readouterr().err, code, 4 if "mamba" in expected else 3)
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["export", "nosuch"], 3, "'nosuch'"),
        (["export", ""], 3, "''"),
        (["export", "./nosuch"], 3, "no such file"),
        (["export", "nosuch.gguf"], 3, "no such file"),
        (["export", "arch:nosuch"], 3, "'nosuch'"),
        (["export", "arch:smollm2-135m:layers=0"], 3, "layers"),
        (["export", "arch:smollm2-135m", "-q", "nosuch"], 3, "'nosuch'"),
        (["export", "arch:smollm2-135m", "-q", ""], 2, "no name given"),
        (["export", "arch:smollm2-135m", "--runtime", "nosuch"], 3, "'nosuch'"),
        (["export", "arch:smollm2-135m:layers=1", "-c", "5"], 3, "5 tokens"),
        (["export", "arch:smollm2-135m:layers=1", "-c", "1000000"], 3, "1000000 tokens"),
        (["export", "arch:smollm2-135m", "-o", "xml"], 2, "'xml'"),
        (["export", "arch:smollm2-135m", "--out", "file"], 2, "is a file"),
        (["export", "arch:smollm2-135m:layers=1", "--out", "file/below"], 10, "file/below"),
        (["probe", "nosuch"], 3, "nosuch"),
        (["compare", "nosuch"], 3, "nosuch"),
        (["compare"], 2, "RUNS"),
        (["report"], 2, "RUNS"),
        (["verify", "nosuch"], 3, "nosuch"),
        (["build-probe", "--abi", "nosuch"], 4, "'nosuch'"),
        (["build-probe", "--runtime", "nosuch"], 4, "'nosuch'"),
        (["schema", "nosuch"], 2, "'nosuch'"),
        (["pull", "nosuch"], 3, "'nosuch'"),
        (["pull", "-s", "nosuch"], 3, "'nosuch'"),
        (["calibrate", "--seconds", "nan"], 2, "no finite number"),
        (["survey", "demo", "--gap", "nan"], 2, "no finite number"),
        (["probe", "nosuch", "--max-temperature", "nan"], 2, "no finite number"),
        (["probe", "nosuch", "-p", "²"], 2, "no number"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    code: int,
    named: str,
    export_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    found = _exit_code(arguments)
    assert named in refused(capsys.readouterr().err, found, code)
    assert everything(tmp_path) == ["file"]


# Bundles and sessions, each in a process of its own.


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["-s", "nosuch"], 3, "'nosuch'"),
        (["-p", "4096"], 3, "4096 tokens of context"),
        (["-p", "0", "-n", "0"], 3, "no test is left"),
        (["-t", "0"], 2, "at least 1"),
        (["-t", "100000"], 3, "100000 threads"),
        (["-r", "0"], 3, "at least one repetition"),
        (["--protocol", "nosuch"], 3, "'nosuch'"),
        (["--out", "file/below"], 10, "file/below"),
    ],
)
def test_sessions_that_cannot_be(
    arguments: list[str], code: int, named: str, w4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    found, stderr = run("probe", w4, *arguments)
    assert named in refused(stderr, found, code)
    assert everything(tmp_path) == ["file"]


def edited_number(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["runtime"]["kv_cache_bytes"] = 5
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def newer(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 99}))


def cut_manifest(bundle: Path) -> None:
    (bundle / "bundle.json").write_bytes((bundle / "bundle.json").read_bytes()[:100])


def longer(bundle: Path) -> None:
    with (bundle / "model.onnx.data").open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(("edit", "code"), [(edited_number, 3), (newer, 4), (cut_manifest, 3), (longer, 3)])
def test_a_bundle_edited_by_hand(edit: Callable[[Path], None], code: int, copy: Path, tmp_path: Path) -> None:
    edit(copy)
    before = everything(copy)
    for command in (["push", copy], ["probe", copy, *SHORT, "--out", tmp_path / "runs"]):
        found, stderr = run(*command)
        refused(stderr, found, code)
    assert everything(copy) == before
    assert not (tmp_path / "runs").exists()


def test_a_cache_that_cannot_be_written(w4: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = {"EDGEKIT_CACHE": str(tmp_path / "file" / "cache")}
    code, stderr = run("probe", w4, *SHORT, "--out", tmp_path / "runs", environment=cache)
    assert str(tmp_path / "file") in refused(stderr, code, 10)
    assert everything(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are a matter of Unix")
def test_a_full_disk_on_the_host(trained: Path, exported: Path, tmp_path: Path) -> None:
    # A file may have 100 KiB, the weights have more: what a full disk does, at a place that is known.
    command = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *EDGEKIT, "export", str(trained), "-q", "w4"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    refused(done.stderr, done.returncode, 10)
    assert everything(tmp_path / "out") == []


# Whole sessions on this machine.


@pytest.fixture(scope="module")
def measured(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with spaces and letters of other languages that holds two runs of one bundle, measured beside itself."""
    folder = tmp_path_factory.mktemp("ünï cødé")
    bundle = Path(shutil.copytree(exported / "tiny-onnxruntime-w4", folder / "bündle w4"))
    code, stderr = run("probe", bundle, bundle, *SHORT, "--out", folder / "rüns")
    assert code == 0, stderr
    return folder


local_only = pytest.mark.skipif(sys.platform != "linux", reason="the local device needs Linux")


@local_only
def test_one_bundle_twice_and_names_with_spaces(measured: Path) -> None:
    runs = sorted((measured / "rüns").iterdir())
    assert len(runs) == 2
    assert runs[1].name == f"{runs[0].name}-2"
    code, stderr = run("report", *runs, "--out", measured / "réport.html")
    assert code == 0, stderr
    assert (measured / "réport.html").stat().st_size > 0


@local_only
def test_a_report_that_cannot_be_written(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    runs = sorted((measured / "rüns").iterdir())
    code, stderr = run("report", *runs, "--out", tmp_path / "file" / "report.html")
    refused(stderr, code, 10)
    code, stderr = run("report", *runs, "--out", tmp_path)
    refused(stderr, code, 2)
    assert everything(tmp_path) == ["file"]


@local_only
def test_a_run_given_twice_and_a_baseline_that_is_none(measured: Path) -> None:
    first = sorted((measured / "rüns").iterdir())[0]
    code, stderr = run("compare", first, first)
    assert "more than once" in refused(stderr, code, 3)
    code, stderr = run("compare", first, "--baseline", "nosuch")
    assert "'nosuch'" in refused(stderr, code, 3)


@local_only
def test_cut_events_are_a_shorter_run_and_no_events_none(measured: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(sorted((measured / "rüns").iterdir())[0], tmp_path / "cut"))
    for events in cut.glob("launches/*/events.jsonl"):
        events.write_bytes(events.read_bytes()[:-100])
    assert run("compare", cut)[0] == 0
    for events in cut.glob("launches/*/events.jsonl"):
        events.write_bytes(b"")
    done = subprocess.run([*EDGEKIT, "compare", str(cut)], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0
    assert "no trial was measured" in done.stdout
    assert run("report", cut, "--out", tmp_path / "empty.html")[0] == 0
    (cut / "run.json").write_text("{")
    code, stderr = run("compare", cut)
    refused(stderr, code, 3)


def stopped_by(number: int, command: list[str], begun: Callable[[str], bool], stderr: Path) -> int:
    """Start edgekit, send it a signal once it has begun, and wait for its end."""
    with stderr.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *command], stdout=subprocess.DEVNULL, stderr=sink
        )
    try:
        end = time.monotonic() + LIMIT_S
        while not begun(stderr.read_text()):
            assert process.poll() is None, stderr.read_text()
            assert time.monotonic() < end, stderr.read_text()
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@local_only
@SIGNALS
def test_an_interrupted_session_leaves_no_probe(number: int, w4: Path, measured: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    long = ["-p", "256", "-n", "200", "-r", "400", "-t", "1", "--out", str(runs)]

    def begun(_: str) -> bool:
        # The second round has begun, so that the first is whole.
        return any(events.stat().st_size for events in runs.glob("*/launches/002/events.jsonl"))

    code = stopped_by(number, ["probe", str(w4), *long], begun, tmp_path / "stderr")
    assert code == 130
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    (directory,) = runs.iterdir()
    assert json.loads((directory / "run.json").read_text())["status"] == "interrupted"
    kept = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert kept.startswith("kept, with ")
    assert kept.endswith(f": {directory}")
    assert [path for path in everything(runs) if Path(path).name.startswith(".")] == []
    alive = [
        command
        for process in Path("/proc").glob("[0-9]*")
        if (command := _command_line(process)) and directory.name in command
    ]
    assert alive == []


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@local_only
@SIGNALS
def test_an_interrupted_export_leaves_nothing(number: int, trained: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["export", str(trained), "-q", "w8,w4,fp32", "--out", str(out)]
    code = stopped_by(number, command, lambda told: "recipe: w8" in told, tmp_path / "stderr")
    assert code == 130
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    # Bundles that were finished before stay; nothing else does.
    left = list(out.iterdir()) if out.exists() else []
    assert all((path / "bundle.json").is_file() for path in left)
