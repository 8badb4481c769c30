"""``edgekit compare``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import power_options
from edgekit.cli.tables import print_comparison

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.regression import Limit, Regression

LLAMA_BENCH = "llama-bench-"
FORMATS = (
    "md",
    "csv",
    "json",
    "jsonl",
    "sql",
    "github",
    *(LLAMA_BENCH + name for name in ("json", "jsonl", "csv", "sql")),
)


class LimitType(click.ParamType["Limit"]):
    """``slower:3%``, ``larger:5%``, ``unstable`` or ``missing``."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        """Parse; a mistyped limit is wrong usage."""
        from edgekit.analysis.regression import Limit, parse_limit
        from edgekit.errors import InputError

        if isinstance(value, Limit):
            return value
        try:
            return parse_limit(str(value))
        except InputError as error:
            self.fail(f"{error.message} ({error.hint})", param, ctx)


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", help="Run that ratios refer to: its id or its recipe [default: the first].")
@click.option(
    "--fail-if",
    "limits",
    multiple=True,
    type=LimitType(),
    metavar="LIMIT",
    help="Exit with code 11 on a regression: slower:3%, larger:5% (peak memory), unstable (no verdict), "
    "missing (a test of the baseline was not measured or not compared). Repeatable.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML to this file.")
@power_options
@click.option(
    "--output",
    "-o",
    "output",
    type=click.Choice(FORMATS),
    default="md",
    show_default=True,
    help="Format on standard output; github: annotations, and the table in the job's summary; "
    "llama-bench-…: as llama-bench writes it.",
)
def command(
    runs: tuple[Path, ...],
    baseline: str | None,
    limits: tuple[Limit, ...],
    junit: Path | None,
    output: str,
    **power: Any,
) -> None:
    """Compare RUNS: medians with intervals, quality, size, memory, and ratios with a verdict.

    \b
    Example:
      edgekit compare runs/* --baseline fp32 -o csv
      edgekit compare runs/main runs/new --fail-if slower:3% --junit compare.xml -o github
    """
    import edgekit
    from edgekit.analysis.regression import regressions

    comparison = edgekit.compare(runs, baseline=baseline, **power)
    beyond = regressions(comparison, limits)
    if junit is not None:
        from edgekit.errors import HostStorageError
        from edgekit.reporting.ci import junit_xml
        from edgekit.schema.storage import write_atomically

        try:
            write_atomically(junit, junit_xml(comparison, beyond))
        except OSError as error:
            raise HostStorageError(
                f"write JUnit XML to {junit}: {error.strerror or error}", hint="choose another place with --junit"
            ) from error
    if output == "github":
        _print_github(comparison, beyond)
    elif output.startswith(LLAMA_BENCH):
        from edgekit.reporting.llama_bench import render_llama_bench

        if comparison.imported:
            click.echo(f"left out: {len(comparison.imported)} imported, which are not ours to write", err=True)
        click.echo(render_llama_bench(comparison, output.removeprefix(LLAMA_BENCH)), nl=False)  # type: ignore[arg-type]
    else:
        print_comparison(comparison, output)  # type: ignore[arg-type]
    if beyond:
        from edgekit.errors import RegressionError

        raise RegressionError(
            f"compare with {comparison.baseline_label}: {len(beyond)} "
            f"{'regression' if len(beyond) == 1 else 'regressions'} beyond the limit",
            detail="\n".join(entry.message for entry in beyond),
            hint="look at the rows above; measure again in turn (`edgekit probe OLD NEW`) if the runs were not",
        )


def _print_github(comparison: Comparison, beyond: list[Regression]) -> None:
    """Annotations go to standard output; the summary to the file that GitHub names, else after them."""
    from edgekit.reporting.ci import github_annotations, github_summary

    click.echo(github_annotations(comparison, beyond), nl=False)
    summary = github_summary(comparison, beyond)
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(summary)
    else:
        click.echo(summary, nl=False)
