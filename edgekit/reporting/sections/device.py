"""What the device is, and how it felt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgekit.analysis.load import RunData
from edgekit.reporting import formats
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import Cells, Report, Section, texts

ORDER = 70


def section(report: Report) -> Section | None:
    """Conditions around the sessions, and the facts of each device."""
    return Section(
        "device",
        "Device and conditions",
        "What the device said of itself. What it did not tell is unknown, never a guess.",
        tables=[_conditions_table(report.runs, report.labels), *_device_tables(report.groups)],
    )


def _device_tables(groups: Sequence[Sequence[RunData]]) -> list[Cells]:
    """Facts of each device, and its conditions around each run."""
    found = []
    for group in groups:
        facts = group[0].run.device
        rows: list[tuple[str, Any]] = [
            ("name", facts.name),
            ("transport", facts.transport),
            ("processor", facts.cpu_model),
            ("cores", facts.cpus),
            *(
                (f"cluster {number}", _cluster_text(cluster.name, cluster.cpus, cluster.max_khz))
                for number, cluster in enumerate(facts.clusters)
            ),
            ("ABI", facts.abi),
            ("memory", formats.size(facts.memory_bytes)),
            ("system", facts.os),
            ("kernel", facts.kernel),
            ("results", facts.fidelity + (f": {facts.fidelity_reason}" if facts.fidelity_reason else "")),
            *sorted(facts.android.items()),
        ]
        found.append(texts(f"Device {plain_text(facts.name)}", ["fact", "value"], rows))
    return found


def _conditions_table(runs: Sequence[RunData], labels: Sequence[str]) -> Cells:
    """How the device felt before and after each session, once per session."""
    rows = []
    seen = set()
    for run, label in zip(runs, labels, strict=True):
        key = (run.run.session, run.run.device.name)
        if key in seen:
            continue
        seen.add(key)
        for when, state in (("before", run.run.before), ("after", run.run.after)):
            name = f"{when}, {label if len({entry.run.session for entry in runs}) > 1 else 'the session'}"
            if state is None:
                rows.append([name, *["unknown"] * 6])
                continue
            rows.append(
                [
                    name,
                    _named(state.temperature_c, lambda value: f"{value:.1f} °C"),
                    _named(state.frequency_khz, lambda value: f"{value / 1e6:.2f} GHz"),
                    ", ".join(sorted(set(state.governor.values()))) or "unknown",
                    "unknown" if state.load_1m is None else f"{state.load_1m:.2f}",
                    "unknown" if state.memory_available_bytes is None else formats.size(state.memory_available_bytes),
                    _battery(state.battery_percent, state.charging),
                ]
            )
    titles = ["when", "temperature", "frequency", "governor", "load, 1 min", "free memory", "battery"]
    return texts("Conditions", titles, rows)


def _cluster_text(name: str | None, cpus: Sequence[int], max_khz: int | None) -> str:
    speed = f" up to {max_khz / 1e6:.2f} GHz" if max_khz else ""
    return f"{name or 'cores'} {', '.join(map(str, cpus))}{speed}"


def _named(values: dict[str, Any], text: Callable[[Any], str]) -> str:
    return ", ".join(f"{name} {text(value)}" for name, value in sorted(values.items())) or "unknown"


def _battery(percent: int | None, charging: bool | None) -> str:
    if percent is None and charging is None:
        return "unknown"
    state = "" if charging is None else ", charging" if charging else ", not charging"
    return f"{'unknown' if percent is None else f'{percent}%'}{state}"
