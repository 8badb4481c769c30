"""Results on standard output: drawn in a terminal, otherwise in the format that was asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edgekit.reporting import formats
from edgekit.reporting.tables import Column, Format, Record, Table, column, print_table, render

if TYPE_CHECKING:
    from edgekit.analysis.catalogue import ModelFacts
    from edgekit.analysis.comparison import Comparison
    from edgekit.analysis.estimator.predict import Estimate
    from edgekit.analysis.estimator.proof import Proof
    from edgekit.analysis.operators import Breakdown
    from edgekit.analysis.query import Answer
    from edgekit.deploy.device_doctor import Check
    from edgekit.deploy.doctor import Finding
    from edgekit.deploy.housekeeping import Pruned
    from edgekit.deploy.push import PushedBundle
    from edgekit.device.discover import DeviceRecord
    from edgekit.schema.bundle import Gate
    from edgekit.schema.device_profile import DeviceProfile
    from edgekit.schema.model_profile import ModelProfile
    from edgekit.schema.recipe import RecipeProfile
    from edgekit_export.pipeline import ExportOutcome


def show(table: Table, output: Format) -> None:
    """Any table, as text or drawn."""
    if _drawn(output):
        from rich.console import Console

        print_table(table, Console())
    else:
        click.echo(render(table, output), nl=False)


def _drawn(output: Format) -> bool:
    """Markdown is the default; in a terminal the same table is drawn."""
    return output == "md" and sys.stdout.isatty()


def print_comparison(comparison: Comparison, output: Format) -> None:
    """A comparison of runs."""
    from edgekit.reporting.comparison import print_comparison as draw
    from edgekit.reporting.comparison import render_comparison

    if _drawn(output):
        from rich.console import Console

        draw(comparison, Console())
    else:
        click.echo(render_comparison(comparison, output), nl=False)


def print_operators(found: Breakdown, output: Format) -> None:
    """Where the time of profiled runs went."""
    from edgekit.reporting.operators import operator_table

    show(operator_table(found), output)


def print_answer(answer: Answer, output: Format) -> None:
    """What a query gave."""
    from edgekit.reporting.query import answer_table

    show(answer_table(answer), output)


def print_exports(outcomes: Sequence[ExportOutcome], output: Format) -> None:
    """What an export made, recipe by recipe."""
    records = []
    for outcome in outcomes:
        bundle = outcome.bundle
        figures = bundle.gate.figures if bundle else None
        records.append(
            {
                "recipe": outcome.recipe,
                "bundle": str(outcome.directory) if outcome.directory else None,
                "size_bytes": bundle.size_bytes if bundle else None,
                "bits_per_weight": bundle.recipe.bits_per_weight if bundle else None,
                "kl_mean": figures.kl_mean if figures else None,
                "same_top": figures.same_top if figures else None,
                "perplexity": figures.perplexity if figures else None,
                "perplexity_reference": figures.perplexity_reference if figures else None,
                "faithful": bundle.gate.passed if bundle else None,
                "reused": outcome.reused,
                "refusal": outcome.refusal,
            }
        )
    columns = [
        column("recipe", "recipe"),
        column("size_bytes", "size", formats.size, right=True),
        column("bits_per_weight", "bits/weight", formats.number, right=True),
        column("kl_mean", "KL mean", lambda value: formats.number(value, 2), right=True),
        column("same_top", "same top", formats.percent, right=True),
        column("perplexity", "perplexity", formats.number, right=True),
        Column("gate", lambda record: _gate_word(record["faithful"], record["refusal"])),
        Column(
            "bundle", lambda record: formats.plain_text(record["bundle"]) + (" (again)" if record["reused"] else "")
        ),
    ]
    show(Table(records, list(records[0]) if records else [], columns), output)


def _gate_word(faithful: bool | None, refusal: str | None) -> str:
    if faithful is None:
        return f"refused: {formats.plain_text(refusal)}"
    return "passed" if faithful else "FAILED, allowed"


def print_gate(gate: Gate, output: Format) -> None:
    """The gate's checks."""
    records = [
        {
            "check": check.name,
            "passed": check.passed,
            "found": check.found,
            "limit": check.limit,
            "cause": check.cause,
        }
        for check in gate.checks
    ]
    columns = [
        column("check", "check"),
        column("passed", "", lambda value: "passed" if value else "FAILED"),
        column("found", "found", right=True),
        column("limit", "limit", right=True),
        column("cause", "cause"),
    ]
    notes = [f"Compared with {gate.reference} on {gate.text}."]
    show(Table(records, ["check", "passed", "found", "limit", "cause"], columns, notes), output)


def print_devices(devices: Sequence[DeviceRecord], output: Format) -> None:
    """Devices and their states."""
    keys = ["name", "state", "serial", "model", "soc", "abi", "os", "free_bytes", "temperature_c", "advice"]
    records = [{key: getattr(device, key) for key in keys} for device in devices]
    columns = [
        column("name", "device"),
        column("state", "state"),
        column("model", "model"),
        column("soc", "SoC"),
        column("os", "system"),
        column("abi", "ABI"),
        column("free_bytes", "free", formats.short_size, right=True),
        column("temperature_c", "°C", lambda value: formats.number(value, 2), right=True),
        column("advice", "what to do", lambda value: formats.plain_text(value) if value else ""),
    ]
    show(Table(records, keys, columns), output)


def print_pushes(pushed: Sequence[PushedBundle], output: Format) -> None:
    """What a push sent and what lay there already."""
    records = [
        {
            "model": item.model,
            "recipe": item.recipe,
            "sent_bytes": item.bytes_sent,
            "reused_bytes": item.bytes_reused,
            "directory": item.directory,
        }
        for item in pushed
    ]
    columns = [
        Column("bundle", lambda record: formats.plain_text(f"{record['model']} {record['recipe']}")),
        column("sent_bytes", "sent", formats.size, right=True),
        column("reused_bytes", "there already", formats.size, right=True),
        column("directory", "on the device"),
    ]
    show(Table(records, ["model", "recipe", "sent_bytes", "reused_bytes", "directory"], columns), output)


def print_pruned(pruned: Pruned, dry_run: bool, output: Format) -> None:
    """What went from a store, and what stays."""
    fates = [("would go" if dry_run else "removed", one) for one in pruned.removed]
    fates += [("pinned" if one.pinned else "stays", one) for one in pruned.kept]
    keys = ["path", "bytes", "unused_days", "fate"]
    records = [
        {"path": one.path, "bytes": one.bytes, "unused_days": one.unused_days, "fate": fate} for fate, one in fates
    ]
    columns = [
        column("path", "in the store"),
        column("bytes", "size", formats.size, right=True),
        column("unused_days", "days unused", right=True),
        column("fate", ""),
    ]
    show(Table(records, keys, columns), output)


def print_models(models: Sequence[ModelFacts], output: Format) -> None:
    """Known models; people see the shapes, machines every fact."""
    records = [{key: getattr(model, key) for key in model.__struct_fields__} for model in models]
    columns = [
        column("name", "model"),
        column("released", "released"),
        column("parameters", "params", formats.count, right=True),
        column("layers", "layers", right=True),
        column("hidden", "hidden", right=True),
        Column("heads", _heads, right=True),
        column("ffn", "ffn", right=True),
        column("activation", "activation"),
        column("vocabulary", "vocabulary", right=True),
        column("context", "context", right=True),
        column("weights", "weights"),
    ]
    keys = list(type(models[0]).__struct_fields__) if models else []
    show(Table(records, keys, columns, [f"{len(models)} models."], name="models"), output)


def _heads(record: Record) -> str:
    heads, kv_heads = record["heads"], record["kv_heads"]
    return formats.MISSING if heads is None else str(heads) if heads == kv_heads else f"{heads}/{kv_heads}"


def print_model(model: ModelFacts, profile: ModelProfile, output: Format) -> None:
    """One model: every fact, and where each value of its configuration was read."""
    facts = {key: getattr(model, key) for key in model.__struct_fields__}
    records: list[dict[str, Any]] = [
        {"fact": key, "value": value, "source": "", "doubt": None} for key, value in facts.items()
    ]
    for key, value in profile.config.items():
        source, doubt = profile.provenance[key], profile.doubtful.get(key)
        records.append({"fact": f"config.{key}", "value": value, "source": source, "doubt": doubt})
    count = profile.parameters
    if count is not None:
        published = count.published if count.published is not None else count.published_as
        records.append({"fact": "published parameters", "value": published, "source": count.source, "doubt": None})
        if count.difference:
            records[-1]["doubt"] = count.difference
    columns = [
        column("fact", "fact"),
        Column("value", lambda record: _fact(record["value"])),
        column("source", "source"),
        column("doubt", "remark", lambda value: formats.plain_text(value) if value else ""),
    ]
    show(Table(records, ["fact", "value", "source", "doubt"], columns, name="model"), output)


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or formats.MISSING
    return formats.plain_text(value)


def print_rates(profile: DeviceProfile, output: Format) -> None:
    """What runtimes take on a device."""
    from edgekit.reporting.estimate import rates_table

    show(rates_table(profile), output)


def print_estimates(model: str, estimates: Sequence[Estimate], explain: bool, output: Format) -> None:
    """Estimates; with ``explain`` people also see the terms, and machines get the terms alone."""
    from edgekit.reporting.estimate import estimate_table, terms_table

    if explain and output != "md":
        show(terms_table(estimates), output)
        return
    show(estimate_table(model, estimates), output)
    if explain:
        click.echo()
        show(terms_table(estimates), output)


def print_calibration(profile: DeviceProfile, output: Format) -> None:
    """What a device can do."""
    from edgekit.reporting.calibration import calibration_table

    show(calibration_table(profile), output)


def print_proof(proof: Proof, output: Format) -> None:
    """Predictions beside what was measured."""
    from edgekit.reporting.estimate import proof_table

    show(proof_table(proof), output)


def print_recipes(recipes: Sequence[RecipeProfile], output: Format) -> None:
    """Recipes, and what each runtime makes of them."""
    records = [
        {
            "name": recipe.name,
            "title": recipe.title,
            "runtimes": sorted(name for name, options in recipe.runtimes.items() if "refused" not in options),
            "refused": {name: options["refused"] for name, options in recipe.runtimes.items() if "refused" in options},
            "description": recipe.description.strip(),
        }
        for recipe in recipes
    ]
    columns = [
        column("name", "recipe"),
        column("title", "what it is"),
        Column("runtimes", lambda record: ", ".join(record["runtimes"]) or formats.MISSING),
        Column("refused", lambda record: "; ".join(f"{name}: {why}" for name, why in record["refused"].items())),
    ]
    show(Table(records, ["name", "title", "runtimes", "refused", "description"], columns), output)


def print_findings(findings: Sequence[Finding], output: Format) -> None:
    """What the doctor found."""
    keys = ["name", "ok", "found", "needed_for", "install_command"]
    records = [{key: getattr(finding, key) for key in keys} for finding in findings]
    columns = [
        column("name", "what"),
        column("ok", "", lambda value: "ok" if value else "missing"),
        column("found", "found"),
        column("needed_for", "needed for"),
        column("install_command", "install", lambda value: formats.plain_text(value) if value else ""),
    ]
    show(Table(records, keys, columns), output)


def print_checks(checks: Sequence[Check], output: Format) -> None:
    """What works on a device."""
    keys = ["name", "state", "found", "advice"]
    records = [{key: getattr(check, key) for key in keys} for check in checks]
    columns = [
        column("name", "what"),
        column("state", ""),
        column("found", "found"),
        column("advice", "what to do", lambda value: formats.plain_text(value) if value else ""),
    ]
    show(Table(records, keys, columns), output)
