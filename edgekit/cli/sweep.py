"""``edgekit sweep``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import ByteSize, output_option
from edgekit.cli.tables import show
from edgekit.reporting.tables import Format

if TYPE_CHECKING:
    from edgekit.sweeping.forecast import SweepPreview


@click.command("sweep")
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the sweep: journal, bundles, runs [default: sweeps/NAME].",
)
@click.option(
    "--device", "-s", "devices", multiple=True, metavar="DEVICE", help="Devices instead of the plan's; adb:* is all."
)
@click.option("--keep-going", is_flag=True, help="Go on without impossible cells and devices that cannot be used.")
@click.option("--retry-failed", is_flag=True, help="Try cells again that failed before.")
@click.option(
    "--together",
    is_flag=True,
    help="Measure devices of one machine at the same time; such runs are marked, and get no verdict.",
)
@click.option("--export-memory", "export_memory_bytes", type=ByteSize(), help="Memory of all exports together (8G).")
@click.option("--export-jobs", type=click.IntRange(min=1), help="The most exports at a time [default: half the CPUs].")
@click.option("--cluster", metavar="ADDRESS", help="Dask scheduler (tcp://HOST:PORT) whose workers export.")
@output_option
def command(plan: Path, dry_run: bool, devices: tuple[str, ...], output: Format, **options: Any) -> None:
    """Measure models x recipes x runtimes x threads x devices, as the TOML file PLAN has them.

    What is done in --out is not done again: a sweep that was interrupted, or killed, goes on where it stopped.
    A device that fails is given up until the next start, and the others go on. Exit code 13 says that cells are left.

    \b
    Example:
      edgekit sweep plan.toml --dry-run
      edgekit sweep plan.toml
    """
    import edgekit
    from edgekit.cli.progress import shown
    from edgekit.cli.sweep_live import watched
    from edgekit.cli.sweep_tables import outcome_cells, preview_cells, preview_devices
    from edgekit.errors import IncompleteError
    from edgekit.schema.sweep import load_sweep_plan

    asked = load_sweep_plan(plan)
    own = os.environ.get("EDGEKIT_DEVICE")
    named = list(devices) or ([own] if own and asked.devices is None else None)
    if dry_run:
        with shown() as progress:
            preview = edgekit.preview_sweep(
                asked,
                out=options["out"],
                devices=named,
                together=options["together"],
                retry_failed=options["retry_failed"],
                progress=progress,
            )
        if output == "md":
            show(preview_devices(preview), output)
            click.echo()
        show(preview_cells(preview), output)
        return

    def tell(preview: SweepPreview) -> None:
        from edgekit.reporting.tables import render

        click.echo(render(preview_devices(preview), "md"), err=True)

    with watched() as (watch, progress):
        outcome = edgekit.sweep(asked, devices=named, confirm=tell, watch=watch, progress=progress, **options)
    show(outcome_cells(outcome), output)
    left = {state: outcome.count(state) for state in ("failed", "pending", "impossible")}
    if any(left.values()):
        told = ", ".join(f"{count} {state}" for state, count in left.items() if count)
        raise IncompleteError(
            f"sweep {asked.name}: {outcome.count('done')} of {len(outcome.cells)} cells are done ({told})",
            hint="see to what is told above and start it again: what is done is not done again"
            + ("; --retry-failed tries what failed" if left["failed"] else ""),
        )
