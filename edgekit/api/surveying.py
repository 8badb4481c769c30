"""``edgekit.survey``: the claims of a published survey, tested on models of ours, or on its own figures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgekit.analysis.configurations import known_decoder
from edgekit.api.exporting import export
from edgekit.api.measuring import probe
from edgekit.errors import EdgekitError, InputError, UnsupportedError
from edgekit.progress import Progress, ProgressEvent, silent
from edgekit.schema import codec
from edgekit.schema.protocol import Kernels, Protocol, load_protocol
from edgekit.schema.storage import check_writable, write_atomically
from edgekit.schema.survey import (
    RECORD,
    FinishedBlock,
    FinishedRun,
    SurveyGroup,
    SurveyPlan,
    SurveyRecord,
    load_survey_plan,
)

if TYPE_CHECKING:
    from edgekit.analysis.survey.judging import SurveyResult
    from edgekit.analysis.survey.workload import Preview


def preview_survey(plan: str | SurveyPlan = "demo", *, gap_s: float | None = None) -> Preview:
    """What a survey will do: cells, launches, bytes and an expected time. Nothing is exported or measured.

    Args:
        plan: name of a shipped plan, path of a TOML file, or a plan.
        gap_s: seconds of rest between launches instead of the protocol's.

    Raises:
        InputError: no such plan, one that contradicts itself, or a model that is not known.
    """
    from edgekit.analysis.survey.workload import preview

    chosen = load_survey_plan(plan) if isinstance(plan, str) else plan
    return preview(chosen, load_protocol(chosen.protocol), known_decoder, gap_s=gap_s)


def survey(
    plan: str | SurveyPlan = "demo",
    *,
    device: str | None = None,
    out: str | Path = "survey",
    gap_s: float | None = None,
    kernels: Kernels | None = None,
    allow_unfaithful: bool = False,
    measure: bool = True,
    progress: Progress = silent,
) -> SurveyResult:
    """Export and measure what a plan asks for, and judge the claims on it.

    What is finished in ``out`` is not done again: an interrupted survey goes on where it stopped, group by group
    and block of rounds by block of rounds.

    Args:
        plan: name of a shipped plan, path of a TOML file, or a plan.
        device: ``local`` (default), ``adb``, ``adb:SERIAL`` or ``adb:HOST:PORT``.
        out: folder of the survey: ``survey.json``, ``bundles/``, ``runs/``.
        gap_s: seconds of rest between launches instead of the protocol's.
        kernels: as for :func:`edgekit.probe`.
        allow_unfaithful: measure bundles that failed the gate or the golden check, too.
        measure: False judges what is there and measures nothing.
        progress: told of every export and launch.

    Raises:
        InputError: the plan is broken, ``out`` holds another survey or is in use.
        All that :func:`edgekit.export` and :func:`edgekit.probe` raise.
    """
    chosen = load_survey_plan(plan) if isinstance(plan, str) else plan
    folder = Path(out)
    if measure:
        # Unknown models and recipes are found before the first export.
        preview_survey(chosen, gap_s=gap_s)
        check_writable(folder)
        with _alone(folder):
            record = _record(folder, chosen)
            for group in chosen.groups:
                work = _Group(folder, chosen, group, gap_s, device, kernels, allow_unfaithful, progress)
                record = work.finish(record)
    return judge_survey(folder)


def judge_survey(out: str | Path) -> SurveyResult:
    """The claims on what a survey has measured so far.

    Raises:
        InputError: no survey in that folder, or a broken one.
    """
    from edgekit.analysis.load import load_run
    from edgekit.analysis.survey.claims import examine
    from edgekit.analysis.survey.evidence import Contrast
    from edgekit.analysis.survey.from_runs import SurveyedRun, runs_evidence

    folder = Path(out)
    record = codec.read(folder / RECORD, SurveyRecord)
    runs = [
        SurveyedRun(run.model, block.group, block.first_round, load_run(_inside(folder, run.directory)))
        for block in record.blocks
        for run in block.runs
    ]
    contrasts = [Contrast(item.property, item.one, item.other) for item in record.plan.contrasts]
    return examine(runs_evidence(runs, title=record.plan.title, contrasts=contrasts))


def published_survey(name: str = "2409-15790") -> SurveyResult:
    """The claims on the figures that a survey published itself, by the same code.

    Raises:
        InputError: no such survey.
    """
    from edgekit.analysis.survey.claims import examine
    from edgekit.analysis.survey.published import published_evidence
    from edgekit.schema.published import load_published

    return examine(published_evidence(load_published(name)))


class _Group:
    """One group on its way: exports, then blocks of rounds."""

    def __init__(
        self,
        folder: Path,
        plan: SurveyPlan,
        group: SurveyGroup,
        gap_s: float | None,
        device: str | None,
        kernels: Kernels | None,
        allow_unfaithful: bool,
        progress: Progress,
    ) -> None:
        from edgekit.analysis.survey.workload import blocks_of, group_protocol

        self.folder, self.plan, self.group, self.device = folder, plan, group, device
        self.allow_unfaithful, self.progress = allow_unfaithful, progress
        protocol = group_protocol(load_protocol(plan.protocol), group, plan, gap_s)
        self.protocol = protocol if kernels is None else msgspec.structs.replace(protocol, kernels=kernels)
        self.blocks = blocks_of(self.protocol, plan.rounds_at_once)
        sources = {model.name: model.source for model in plan.models}
        self.sources = {name: sources[name] for name in group.models}
        asked = [self.protocol, self.sources, group.recipes, plan.runtime, device or "local", plan.rounds_at_once]
        if group.profile:
            asked.append("profile")
        self.key = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()

    def finish(self, record: SurveyRecord) -> SurveyRecord:
        """Measure the blocks that are not done; the record after each is on disk."""
        from edgekit.schema.run import MANIFEST

        name = self.group.name
        done = {
            block.block
            for block in record.blocks
            if (block.group, block.key) == (name, self.key)
            and all((_inside(self.folder, run.directory) / MANIFEST).is_file() for run in block.runs)
        }
        # What another plan or device left under this name is no part of the result.
        kept = [
            block for block in record.blocks if block.group != name or (block.key == self.key and block.block in done)
        ]
        record = msgspec.structs.replace(record, blocks=kept)
        missing = [number for number in range(len(self.blocks)) if number not in done]
        if not missing:
            self.progress(ProgressEvent(f"group {name}", detail="finished before"))
            return record
        cells = self._export()
        for number in missing:
            self.progress(ProgressEvent(f"group {name}", done=number, total=len(self.blocks), unit="blocks"))
            measured = msgspec.structs.replace(
                self.protocol, repetitions=self.blocks[number], seed=self.protocol.seed + number
            )
            runs = self._measure(measured, [folder for _, _, folder in cells])
            block = FinishedBlock(
                group=name,
                block=number,
                first_round=sum(self.blocks[:number]),
                key=self.key,
                runs=[
                    FinishedRun(model=model, recipe=recipe, directory=run.relative_to(self.folder).as_posix())
                    for (model, recipe, _), run in zip(cells, runs, strict=True)
                ],
            )
            record = msgspec.structs.replace(record, blocks=[*record.blocks, block])
            write_atomically(self.folder / RECORD, codec.encode(record))
        return record

    def _export(self) -> list[tuple[str, str, Path]]:
        cells = []
        for model, source in self.sources.items():
            outcomes = export(
                source,
                recipes=self.group.recipes,
                runtimes=[self.plan.runtime],
                # A bundle's name does not tell its context, nor the name that the plan gives the model.
                out=self.folder / "bundles" / f"{_slug(model)}-{self.protocol.context}",
                context=self.protocol.context,
                allow_unfaithful=self.allow_unfaithful,
                progress=self.progress,
            )
            for outcome in outcomes:
                if outcome.directory is not None:
                    cells.append((model, outcome.recipe, outcome.directory))
                else:
                    detail = f"{model} {outcome.recipe}: {outcome.refusal}"
                    self.progress(ProgressEvent("not exported", detail=detail))
        if not cells:
            raise UnsupportedError(f"survey group {self.group.name!r}: nothing to measure", hint="choose other recipes")
        return cells

    def _measure(self, protocol: Protocol, bundles: list[Path]) -> list[Path]:
        return probe(
            bundles,
            device=self.device,
            protocol=protocol,
            out=self.folder / "runs",
            allow_unfaithful=self.allow_unfaithful,
            profile=self.group.profile,
            progress=self.progress,
        )


def _record(folder: Path, plan: SurveyPlan) -> SurveyRecord:
    path = folder / RECORD
    if not path.is_file():
        record = SurveyRecord(schema_version=SurveyRecord.SCHEMA_VERSION, plan=plan, blocks=[])
    else:
        record = codec.read(path, SurveyRecord)
        if record.plan.name != plan.name:
            raise InputError(
                f"survey into {folder}: it holds the survey {record.plan.name!r}", hint="choose another --out"
            )
        names = {group.name for group in plan.groups}
        kept = [block for block in record.blocks if block.group in names]
        record = msgspec.structs.replace(record, plan=plan, blocks=kept)
    write_atomically(path, codec.encode(record))
    return record


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"read survey from {folder}: {relative!r} lies outside of it", hint=f"{RECORD} was edited")
    return path


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EdgekitError(
            f"survey into {folder}: another process is at work there", hint="wait for it, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
