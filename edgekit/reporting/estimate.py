"""Estimates and their proof as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.analysis.estimator.predict import GIB, Estimate
from edgekit.analysis.estimator.proof import Prediction, Proof, Summary
from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Record, Table, column
from edgekit.schema.device_profile import DeviceProfile

_KEYS = ("model", "device", "recipe", "figure", "estimate", "low", "high", "unit", "bound", "fits")


def estimate_table(model: str, estimates: Sequence[Estimate]) -> Table:
    """One record per recipe and figure: the estimate, its 90% interval, and what bounds it."""
    records = [
        {
            "model": model,
            "device": item.device.name,
            "recipe": item.recipe,
            "figure": figure.name,
            "estimate": figure.value,
            "low": figure.low,
            "high": figure.high,
            "unit": figure.unit,
            "bound": figure.bound,
            "fits": item.fits,
        }
        for item in estimates
        for figure in item.figures
    ]
    columns = [
        column("recipe", "recipe"),
        column("figure", "figure"),
        Column("estimate", lambda record: _shown(record["estimate"], record["unit"]), right=True),
        Column("90% interval", _interval, right=True),
        column("bound", "bound by"),
    ]
    return Table(records, _KEYS, columns, _notes(estimates), name="estimates")


def terms_table(estimates: Sequence[Estimate]) -> Table:
    """The parts of every figure."""
    records = [
        {
            "recipe": item.recipe,
            "figure": figure.name,
            "term": term.name,
            "value": term.value,
            "unit": figure.unit,
            "how": term.how,
        }
        for item in estimates
        for figure in item.figures
        if figure.unit != "tok/s"
        for term in figure.terms
    ]
    columns = [
        column("recipe", "recipe"),
        column("figure", "figure"),
        column("term", "term"),
        Column("value", lambda record: _shown(record["value"], record["unit"]), right=True),
        column("how", "how"),
    ]
    return Table(records, ("recipe", "figure", "term", "value", "unit", "how"), columns, name="estimate_terms")


def rates_table(profile: DeviceProfile) -> Table:
    """What each kind of work takes on a device, by runtime and threads."""
    records = [
        {"runtime": rates.runtime, "threads": rates.threads, "work": name, "rate": 1 / value if value else None}
        for rates in profile.fitted
        for name, value in rates.seconds.items()
        if name not in ("blocks", "passes", "shared")
    ]
    columns = [
        column("runtime", "runtime"),
        column("threads", "threads", right=True),
        column("work", "work"),
        column("rate", "1e9 bytes, multiply-adds or elements a second", formats.number, right=True),
    ]
    notes = [
        f"{rates.runtime}, {rates.threads} threads: {rates.seconds.get('blocks', 0) * 1e6:.1f} us a block, "
        f"{rates.seconds.get('passes', 0) * 1e6:.1f} us a pass, {rates.seconds.get('shared', 0) * 1000:.0f} MB kept by "
        f"the last cache; "
        f"{rates.tests} tests of {rates.models} models, each predicted from the others: decode off by "
        f"{rates.decode_spread:.1%}, prefill by {rates.prefill_spread:.1%} (root mean square)."
        for rates in profile.fitted
    ]
    return Table(records, ("runtime", "threads", "work", "rate"), columns, notes, name="rates")


def proof_table(proof: Proof) -> Table:
    """Predicted and measured, model by model; the notes say how far off on average, and why a target is missed."""
    predictions, summaries = proof.predictions, proof.summaries
    keys = (
        "quantity",
        "model",
        "group",
        "setting",
        "measured",
        "predicted",
        "low",
        "high",
        "error",
        "covered",
        "naive",
        "naive_error",
    )
    records = [{key: getattr(item, key) for key in keys} for item in predictions]
    columns = [
        column("quantity", "quantity"),
        column("model", "model"),
        *(
            [column("group", "runtime"), column("setting", "setting")]
            if any(item.group for item in predictions)
            else []
        ),
        Column("measured", lambda record: _proof_value(record, "measured"), right=True),
        Column("predicted", lambda record: _proof_value(record, "predicted"), right=True),
        Column("90% interval", lambda record: formats.interval(record["low"], record["high"], 1), right=True),
        Column("error", lambda record: f"{record['error']:+.1%}", right=True),
        Column("inside", lambda record: "yes" if record["covered"] else "NO"),
        Column("straight line", lambda record: f"{record['naive_error']:+.1%}", right=True),
    ]
    notes = [
        f"{item.quantity}: mean error {item.mean_error:.1%}, target {item.target:.0%} "
        f"{'met' if item.mean_error <= item.target else 'MISSED'}; {item.coverage:.0%} inside; "
        f"a straight line over parameters {item.naive_mean_error:.1%}."
        for item in summaries
    ]
    for item in summaries:
        quantity = item.quantity.partition(",")[0]
        if item.mean_error > item.target and (item.quantity == quantity or quantity not in proof.remarks):
            notes.append(f"{item.quantity} misses its target: {_residuals(item, predictions)}")
            if quantity in proof.remarks:
                notes.append(f"{quantity}: {proof.remarks[quantity]}")
    return Table(records, keys, columns, notes, name="estimate_proof")


def _residuals(summary: Summary, predictions: Sequence[Prediction]) -> str:
    """Mean errors of the models that are farthest off, with their sign."""
    quantity, _, group = summary.quantity.partition(", ")
    by_model: dict[str, list[float]] = {}
    for item in predictions:
        if item.quantity == quantity and group in ("", item.group):
            by_model.setdefault(item.model, []).append(item.error)
    means = {model: sum(errors) / len(errors) for model, errors in by_model.items()}
    worst = sorted(means, key=lambda model: -abs(means[model]))[:3]
    return "farthest off are " + ", ".join(f"{model} ({means[model]:+.0%})" for model in worst) + "."


def _proof_value(record: Record, key: str) -> str:
    return f"{record[key]:.1f} {'MiB' if record['quantity'] == 'memory' else 'ms'}"


def _interval(record: Record) -> str:
    unit = record["unit"]
    return f"{_shown(record['low'], unit)} to {_shown(record['high'], unit)}"


def _shown(value: Any, unit: str) -> str:
    if unit == "bytes":
        return formats.size(value)
    if unit == "s":
        return formats.seconds(value) if value >= 0.1 else formats.milliseconds(value * 1000)
    return f"{formats.number(value)} {unit}"


def _notes(estimates: Sequence[Estimate]) -> list[str]:
    notes = []
    for item in estimates:
        verdict = "fits" if item.fits else "DOES NOT FIT" if item.margin < 0 else "may not fit"
        room, left = f"{item.available_bytes / GIB:.1f} GiB", f"{item.margin:.0%} left"
        notes.append(f"{item.recipe}: {verdict} in {room} of {item.memory_gib} GiB that one process can have ({left}).")
    if estimates:
        first = estimates[0]
        notes.append(f"{first.device.title}, {first.threads} threads, a context of {first.context}. Assumed values:")
        notes += [f"- {path}: {_source(first, path)}" for path in first.device.assumed]
        if first.device.power_w is None:
            notes.append("Energy is not estimated: the device's profile states no power (`power_w`).")
        else:
            source = first.device.provenance["power_w"]
            notes.append(
                f"Energy is time at {first.device.power_w:g} W above idle ({source}); its interval is the time's."
            )
    return notes


def _source(item: Estimate, path: str) -> str:
    return item.device.provenance[path].removeprefix("assumed: ")
