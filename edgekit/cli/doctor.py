"""``edgekit doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.options import device_option, output_option
from edgekit.cli.tables import print_checks, print_findings
from edgekit.reporting.tables import Format


@click.command("doctor")
@device_option
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --device: file for all that it told, private values removed, to paste into a bug report.",
)
@output_option
def command(device: str | None, report: Path | None, output: Format) -> None:
    """Say what this machine has and lacks, what each thing is for, and the command that installs it.

    With --device, say what works on that device for measuring, and what to do about the rest.

    \b
    Example:
      edgekit doctor
      edgekit doctor --device adb:R58M12345A --report phone.txt
    """
    import edgekit

    if device is None:
        if report is not None:
            raise click.UsageError("--report needs --device")
        print_findings(edgekit.doctor(), output)
        return
    from edgekit.errors import HostStorageError
    from edgekit.schema.storage import write_atomically

    found = edgekit.check_device(device)
    print_checks(found.checks, output)
    if report is not None:
        try:
            write_atomically(report, found.report.encode())
        except OSError as error:
            raise HostStorageError(f"write {report}: {error.strerror or error}", hint="name another file") from error
        click.echo(f"Written: {report}. Read it before you publish it.", err=True)
