"""Write the parts of docs/ that are made from code and data: the CLI reference, exit codes, JSON Schemas, proofs.

usage: python tools/generate_docs.py [--check]
With --check nothing is written and the exit code is 1 where a file is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgekit import errors
from edgekit.analysis.estimator.proof import Proof
from edgekit.analysis.run_tables import TABLES
from edgekit.api.estimating import check_estimates
from edgekit.cli.main import COMMANDS, cli
from edgekit.schema.export import DOCUMENTS, json_schema
from edgekit.schema.measurements import measurement_names
from edgekit.schema.own_runs import own_runs_names

DOCS = Path(__file__).resolve().parent.parent / "docs"


def cli_reference() -> str:
    """docs/cli.md: the help of every command, as the command prints it."""
    parts = ["# Command line\n\nMade from the commands' own help by `make docs`.\n"]
    context = click.Context(cli, info_name="edgekit", max_content_width=100, terminal_width=100)
    parts.append(f"```text\n{cli.get_help(context).rstrip()}\n```\n")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is None:
            raise SystemExit(f"no command {name}")
        inner = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        parts.append(f"## edgekit {name}\n\n```text\n{command.get_help(inner).rstrip()}\n```\n")
    return "\n".join(parts)


def exit_codes() -> str:
    """docs/errors.md: every exit code and what it means."""
    rows = [
        (0, "", "success"),
        (1, "", errors.EdgekitError.meaning),
        (2, "", "wrong usage of the command line: an unknown command, option or value"),
    ]
    kinds = sorted(errors.EdgekitError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows += [(kind.exit_code, f"`{kind.__name__}`", kind.meaning) for kind in kinds]
    rows.append((errors.EXIT_INTERRUPTED, "", "interrupted (Ctrl-C or SIGTERM); what was finished is kept"))
    lines = [
        "# Exit codes",
        "",
        "Made from `edgekit/errors.py` by `make docs`. In Python the same failures are exceptions of `edgekit.errors`.",
        "A message says what was attempted, on which device, what came back, and after `Next:` what to do.",
        "",
        "| code | exception | meaning |",
        "|---:|---|---|",
        *(f"| {code} | {kind} | {meaning} |" for code, kind, meaning in rows),
    ]
    return "\n".join(lines) + "\n"


def query_tables() -> str:
    """docs/query-tables.md: the columns that `edgekit query` offers."""
    parts = [
        "# Tables of `edgekit query`\n\nMade from `edgekit/analysis/run_tables.py` by `make docs`; how to ask is in "
        "[query.md](query.md). Unknown is NULL.\nTimes in seconds count from the launch's first event, by the probe's "
        "monotonic clock.\n"
    ]
    for table in TABLES:
        rows = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in table.columns]
        parts.append(
            "\n".join([f"## {table.name}\n\n{table.about}\n\n| column | type | meaning |\n|---|---|---|", *rows])
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def proof_tables() -> str:
    """docs/estimates.md with the tables of its proofs, as `edgekit estimate --proof` finds them."""
    path = DOCS / "estimates.md"
    text = path.read_text(encoding="utf-8")
    for name in (*measurement_names(), *own_runs_names()):
        head, rest = text.split(f"<!-- proof {name}: begin -->\n")
        _, tail = rest.split(f"<!-- proof {name}: end -->")
        table = proof_summary_table(check_estimates(name))
        text = f"{head}<!-- proof {name}: begin -->\n{table}\n<!-- proof {name}: end -->{tail}"
    return text


def proof_summary_table(proof: Proof) -> str:
    """Mean errors and coverage, a row for each quantity and runtime."""
    lines = [
        "| quantity | mean error | target | straight line over parameters | inside the 90% interval |",
        "|---|---:|---:|---:|---:|",
    ]
    for item in proof.summaries:
        missed = "" if item.mean_error <= item.target else ", missed"
        lines.append(
            f"| {item.quantity} | {item.mean_error:.1%} | {item.target:.0%}{missed} | "
            f"{item.naive_mean_error:.1%} | {item.coverage:.0%} |"
        )
    return "\n".join(lines)


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    files = {
        DOCS / "cli.md": cli_reference(),
        DOCS / "errors.md": exit_codes(),
        DOCS / "query-tables.md": query_tables(),
        DOCS / "estimates.md": proof_tables(),
    }
    for name in DOCUMENTS:
        files[DOCS / "schema" / f"{name}.schema.json"] = json_schema(name).decode()
    return files


def main() -> int:
    """Write or check."""
    check = "--check" in sys.argv[1:]
    stale = []
    for path, text in generated().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(DOCS.parent)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
