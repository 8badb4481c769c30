"""Entry point: the command group, and how failures become messages and exit codes.

Commands are imported only when they are called, so ``edgekit --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from importlib import import_module
from typing import Any

import click

from edgekit import __version__
from edgekit.errors import EXIT_INTERRUPTED, EdgekitError, HostStorageError

#: command → (module, one-line help). The help stands here so that listing imports nothing.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("edgekit.cli.run", "Export, push, probe and compare in one go."),
    "export": ("edgekit.cli.export", "Export a model to bundles, each proven faithful."),
    "verify": ("edgekit.cli.verify", "Check a bundle: its files, its golden record, the gate."),
    "sweep": ("edgekit.cli.sweep", "Measure models x recipes x runtimes x threads x devices, resumably."),
    "devices": ("edgekit.cli.devices", "List the devices that can be used."),
    "push": ("edgekit.cli.push", "Put bundles on a device."),
    "probe": ("edgekit.cli.probe", "Measure bundles on a device."),
    "pull": ("edgekit.cli.pull", "Fetch runs that were left on a device."),
    "prune": ("edgekit.cli.prune", "Remove from a device what was not used for long."),
    "compare": ("edgekit.cli.compare", "Compare runs in a table."),
    "operators": ("edgekit.cli.operators", "Show where the time goes, operator by operator."),
    "timeline": ("edgekit.cli.timeline", "Write a run's course over time as a Perfetto trace."),
    "import": ("edgekit.cli.import_results", "Import results of llama-bench, ExecuTorch or onnxruntime-genai."),
    "report": ("edgekit.cli.report", "Write an HTML report of runs."),
    "query": ("edgekit.cli.query", "Ask runs a question in SQL."),
    "models": ("edgekit.cli.models", "List the known models."),
    "calibrate": ("edgekit.cli.calibrate", "Measure what a device can do at best."),
    "estimate": ("edgekit.cli.estimate", "Say whether a model will fit on a device, and how fast it will be."),
    "recipes": ("edgekit.cli.recipes", "List the quantization recipes."),
    "survey": ("edgekit.cli.survey", "Test a published survey's claims on models of your own."),
    "doctor": ("edgekit.cli.doctor", "Say what is missing on this machine, and what installs it."),
    "add-runtime": ("edgekit.cli.add_runtime", "Add a runtime for Android from its archive."),
    "build-probe": ("edgekit.cli.build_probe", "Build the native probe."),
    "schema": ("edgekit.cli.schema", "Print the JSON Schema of a document."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which one uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one gets the nearest names."""
        name = args[0] if args else ""
        if name and name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
            extra = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"No such command {name!r}.{extra}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Export small language models, put them on phones and boards, and measure them there.

    \b
    Example:
      edgekit run smollm2-135m --quant fp32,w8,w4 -p 128 -n 64 -r 5 -t 1,2
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with a documented exit code."""
    # Whoever terminates us wants what Ctrl-C does: the device's process ended, nothing half-written.
    with contextlib.suppress(ValueError):  # not in the main thread of a program that embeds us
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
    try:
        code = _exit_code(arguments)
    except Exception:
        # A library that was being imported, or native code that was calling back, turns the interruption into an
        # error of its own.
        if not _interrupted.is_set():
            raise
        click.echo("edgekit: interrupted", err=True)
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _exit_code(arguments: list[str] | None) -> int:
    try:
        outcome: Any = cli.main(args=arguments, prog_name="edgekit", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo("edgekit: interrupted", err=True)
        # Click hides the interruption behind an error of its own.
        _print(*_notes(error if isinstance(error, KeyboardInterrupt) else error.__cause__))
        return EXIT_INTERRUPTED
    except EdgekitError as error:
        return _fail(error)
    except MemoryError as error:
        return _out_of_memory(error)
    except RuntimeError as error:
        # PyTorch's own way to say so.
        if "can't allocate memory" not in str(error):
            raise
        return _out_of_memory(error)
    except BrokenPipeError:
        # The reader of our output left (`edgekit models | head`): not a failure of ours.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        # Whatever the library expects of files it says itself; what is left is this machine's storage.
        where = f" {error.filename}" if error.filename else " files"
        return _fail(
            HostStorageError(f"use{where}: {error.strerror}", hint="free space, see to the permissions, and try again")
        )


def _out_of_memory(error: BaseException) -> int:
    said = str(error).strip().splitlines()
    return _fail(
        HostStorageError(
            "this machine has no memory left" + (f": {said[0]}" if said else ""),
            hint="end other programs, take fewer recipes at once or a shorter --context, or use a larger machine",
        )
    )


#: Of an error's message; a path and a command fit.
_MAX_LINE = 4000
_interrupted = threading.Event()


def _interrupt(number: int, frame: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _notes(error: BaseException | None) -> list[str]:
    """What became of the work until then, as whoever ended it noted."""
    return getattr(error, "__notes__", [])


def _print(*lines: str) -> None:
    from edgekit.reporting.formats import plain_text

    # What a device or a file said is in it: nothing of that moves the cursor.
    for line in lines:
        click.echo(plain_text(line, _MAX_LINE), err=True)


def _fail(error: EdgekitError) -> int:
    *lines, last = f"edgekit: {error}".splitlines()
    # What to do next is said last.
    _print(*lines, *_notes(error), last) if error.hint else _print(*lines, last, *_notes(error))
    return error.exit_code
