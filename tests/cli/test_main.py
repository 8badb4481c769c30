"""The command group: lazy, complete, helpful, and with the exit codes that are documented."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from edgekit.cli.main import COMMANDS, _exit_code, cli
from edgekit.errors import EdgekitError


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "scipy", "altair", "rich", "adbutils", "transformers", "onnxruntime", "duckdb"}
    loaded = run_python(
        "import sys\n"
        "from edgekit.cli.main import _exit_code\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()): code = _exit_code(['--help'])\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))"
    ).split()
    assert loaded[0] == "0"
    assert heavy.isdisjoint(loaded[1:])


def test_the_package_offers_each_step_lazily() -> None:
    loaded = run_python("import sys, edgekit; print(*edgekit.__all__); print(*sys.modules)")
    names, modules = loaded.splitlines()
    assert set(names.split()) >= {"export", "verify", "devices", "push", "probe", "pull", "compare", "report"}
    assert "edgekit.api" not in modules.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = importlib.import_module(COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.help
    assert f"edgekit {name}" in command.help.split("Example:")[1]
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_to_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: edgekit {name}")


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["exprot"]) == 2
    assert "export" in capsys.readouterr().err


def test_exit_codes_are_distinct_and_explained() -> None:
    kinds = EdgekitError.__subclasses__()
    assert len({kind.exit_code for kind in kinds} | {1, 2, 130}) == len(kinds) + 3
    assert all(kind.meaning != EdgekitError.meaning for kind in kinds)


def test_failures_become_messages_and_codes(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert _exit_code(["export", "smollm2-135m", "--quant", "no-such-recipe"]) == 3
    assert "no-such-recipe" in capsys.readouterr().err
    assert _exit_code(["export", "smollm2-135m", "--runtime", "tflite"]) == 3
    assert _exit_code(["compare", f"{tmp_path}/no-run"]) == 3
    assert _exit_code(["push", f"{tmp_path}/no-bundle"]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_interruption_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert _exit_code([]) == 130


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_machine_without_memory_is_said_to_be_one(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    assert _exit_code(["models"]) == 10
    said = capsys.readouterr().err
    assert f"edgekit: this machine has no memory left: {error}" in said
    assert "Next: end other programs" in said
    monkeypatch.setattr(cli, "main", lambda **_: (_ for _ in ()).throw(RuntimeError("of our own")))
    with pytest.raises(RuntimeError, match="of our own"):
        _exit_code(["models"])
