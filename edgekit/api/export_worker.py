"""A process that exports for a sweep: a job on standard input, progress and results on standard output.

``python -m edgekit.api.export_worker``. It ends when its standard input closes: when the sweep ends it, or was killed.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import BinaryIO

import msgspec

from edgekit.errors import EdgekitError, UnfaithfulError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.sweeping.exports import ExportJob, ExportResult, all_failed
from edgekit.sweeping.pool import WorkerLine


def do_job(job: ExportJob, progress: Progress = silent) -> list[ExportResult]:
    """Make a job's bundles; what cannot be made is a result with its reason."""
    try:
        return _export(job, job.recipes, job.runtimes, progress)
    except (UnfaithfulError, UnsupportedError) as error:
        if len(job.keys) == 1:
            return all_failed(job, _reason(error), error.exit_code)
    except EdgekitError as error:
        return all_failed(job, _reason(error), error.exit_code)
    # Those that can be made are made by now, and found again.
    results: list[ExportResult] = []
    for key in job.keys:
        try:
            results += _export(job, (key.recipe,), (key.runtime,), progress)
        except EdgekitError as error:
            reason, code = _reason(error), error.exit_code
            results.append(ExportResult(recipe=key.recipe, runtime=key.runtime, reason=reason, exit_code=code))
    return results


def _export(
    job: ExportJob, recipes: tuple[str, ...], runtimes: tuple[str, ...], progress: Progress
) -> list[ExportResult]:
    from edgekit.api.exporting import export

    outcomes = export(
        job.model.source,
        recipes=recipes,
        runtimes=runtimes,
        out=job.out,
        context=job.context,
        revision=job.model.revision,
        allow_unfaithful=job.allow_unfaithful,
        progress=progress,
    )
    # Outcomes come runtime by runtime; a recipe file is called as the plan calls it.
    keys = [(runtime, recipe) for runtime in runtimes for recipe in recipes]
    return [
        ExportResult(
            recipe=recipe,
            runtime=runtime,
            directory=str(outcome.directory) if outcome.directory is not None else None,
            identity=outcome.bundle.identity if outcome.bundle is not None else None,
            reason=outcome.refusal,
            exit_code=UnsupportedError.exit_code if outcome.refusal is not None else None,
        )
        for (runtime, recipe), outcome in zip(keys, outcomes, strict=True)
    ]


def _reason(error: EdgekitError) -> str:
    first = error.detail.strip().splitlines()[0] if error.detail and error.detail.strip() else ""
    return f"{error.message} ({first})" if first else error.message


def main() -> int:
    """Do the job that comes on standard input."""
    # What a library prints must not get between our lines.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=ExportJob)
    threading.Thread(target=_end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()

    def progress(event: ProgressEvent) -> None:
        _say(out, WorkerLine(**event._asdict()))

    results = do_job(job, progress)
    _say(out, WorkerLine(results=results, peak_bytes=_peak()))
    return 0


def _peak() -> int | None:
    try:
        from edgekit_export.costs import peak_rss_bytes
    except ImportError:
        return None
    return int(peak_rss_bytes())


def _say(out: BinaryIO, line: WorkerLine) -> None:
    out.write(msgspec.json.encode(line) + b"\n")


def _end_with_parent(source: BinaryIO) -> None:
    while source.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
