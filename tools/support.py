"""Export every decoder family to every runtime, gate it, and write docs/support.md from what came out.

usage: python tools/support.py [--runtime NAME]... [--family NAME]...
       python tools/support.py --page | --check

Results are kept in docs/support/RUNTIME.json; a run for some families replaces theirs alone.
With --page nothing is exported, and docs/support.md is written from the results; with --check nothing is
written either, and the exit code is 1 where the page is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "support.md"
RESULTS = ROOT / "docs" / "support"
COMMAND = "python tools/support.py"
#: Per runtime: its name for people, and its recipes in float and in 4 bits.
RUNTIMES = {"onnxruntime": ("ONNX", ("fp32", "w4")), "executorch": ("ExecuTorch", ("fp32", "w4a8"))}
_PACKAGES = ("torch", "transformers", "onnxruntime", "executorch")


def main() -> int:
    """Run or check; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--family", action="append")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
            print(f"docs/support.md is not what docs/support/*.json say; run {COMMAND} --page")
            return 1
        return 0
    for runtime in () if arguments.page else arguments.runtime or RUNTIMES:
        run(runtime, arguments.family)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


# -- running -----------------------------------------------------------------------------------------------


def run(runtime: str, names: list[str] | None) -> None:
    """Export families (all by default) to one runtime and keep the results."""
    sys.path.append(str(ROOT / "tests" / "export"))
    from families import FAMILIES

    unknown = set(names or ()) - {family.name for family in FAMILIES}
    if unknown:
        raise SystemExit(f"no such family: {', '.join(sorted(unknown))}")
    results = {entry["family"]: entry for entry in load(runtime)["families"]}
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            if names is None or family.name in names:
                start = time.monotonic()
                results[family.name] = export(family, runtime, Path(folder))
                told = ", ".join(f"{r['recipe']} {r['outcome']}" for r in results[family.name]["recipes"])
                print(f"{runtime} {family.name}: {told} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
                # After each: a run that is stopped keeps what it has.
                save(runtime, [results[one.name] for one in FAMILIES if one.name in results])


def export(family: Any, runtime: str, folder: Path) -> dict[str, Any]:
    """One family through the real pipeline and gate."""
    from families import CONTEXT

    from edgekit.errors import EdgekitError
    from edgekit_export.pipeline import export_bundles

    recipes = list(RUNTIMES[runtime][1])
    found: dict[str, dict[str, Any]] = {}
    try:
        source = str(family.save(folder))
        outcomes = export_bundles(
            source,
            recipes,
            [runtime],  # type: ignore[list-item]
            out_dir=folder / "bundles",
            context_length=CONTEXT,
            allow_unfaithful=True,
        )
        for outcome in outcomes:
            found[outcome.recipe] = _told(outcome)
    # What an export makes of a family is the result, whatever it is.
    except Exception as error:
        if not isinstance(error, EdgekitError):
            crash = {"outcome": "crashed", "reason": f"{type(error).__name__}: {error}"}
            found = {recipe: {"recipe": recipe, **crash} for recipe in recipes}
            return _entry(family, found, recipes)
        # One message for all recipes.
        reason = _reason(error)
        found = {recipe: {"recipe": recipe, "outcome": "refused", "reason": reason} for recipe in recipes}
    return _entry(family, found, recipes)


def _entry(family: Any, found: dict[str, dict[str, Any]], recipes: list[str]) -> dict[str, Any]:
    return {
        "family": family.name,
        "models": family.models,
        "features": family.features,
        "recipes": [found[recipe] for recipe in recipes],
    }


def _told(outcome: Any) -> dict[str, Any]:
    if outcome.bundle is None:
        return {"recipe": outcome.recipe, "outcome": "refused", "reason": outcome.refusal}
    gate = outcome.bundle.gate
    told: dict[str, Any] = {
        "recipe": outcome.recipe,
        "outcome": "passed" if gate.passed else "failed",
        "kl_mean": float(f"{gate.figures.kl_mean:.3g}"),
        "kl_max": float(f"{gate.figures.kl_max:.3g}"),
    }
    if not gate.passed:
        told["reason"] = "; ".join(f"{c.name} {c.found} ({c.limit})" for c in gate.checks if not c.passed)
    return told


def _reason(error: Any) -> str:
    lines = [error.message, *(error.detail or "").splitlines()]
    # Several recipes that fail for one reason are told together; the reason stands in the detail.
    told = lines[1] if error.message.startswith("none of the recipes") and len(lines) > 1 else lines[0]
    return str(told).strip()


def load(runtime: str) -> dict[str, Any]:
    """The kept results of a runtime."""
    path = RESULTS / f"{runtime}.json"
    if not path.is_file():
        return {"families": [], "versions": {}}
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def save(runtime: str, families: list[dict[str, Any]]) -> None:
    """Keep results, one family a line."""
    head = json.dumps({package: version(package) for package in _PACKAGES})
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in families)
    RESULTS.mkdir(exist_ok=True)
    text = f'{{"schema_version": 1, "runtime": "{runtime}", "versions": {head}, "families": [\n{lines}\n]}}\n'
    (RESULTS / f"{runtime}.json").write_text(text, encoding="utf-8")


# -- the page ----------------------------------------------------------------------------------------------


def page() -> str:
    """docs/support.md, from the kept results alone."""
    loaded = {runtime: load(runtime) for runtime in RUNTIMES}
    families: dict[str, dict[str, Any]] = {}
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for runtime, results in loaded.items():
        for entry in results["families"]:
            families.setdefault(entry["family"], entry)
            for told in entry["recipes"]:
                cells[entry["family"], runtime, told["recipe"]] = told
    columns = [(runtime, recipe) for runtime, (_, recipes) in RUNTIMES.items() for recipe in recipes]
    titles = [f"{RUNTIMES[runtime][0]} {recipe}" for runtime, recipe in columns]
    lines = [
        "# Supported families",
        "",
        f"Made by `{COMMAND}` from its own run: each family below is a tiny model with random weights, made from",
        "transformers' own configuration class, exported by the pipeline that exports any model, judged by its gate.",
        "The results are kept in [support/](support). `passed` stands with the mean KL divergence that the gate found;",
        "what does not pass is listed below with its reason.",
        "",
        "The weights are made so that each feature in the table matters: computed wrongly, it moves the logits beyond",
        "the loosest gate of a 4-bit recipe (`tests/export/test_families.py` puts each fault in). They lie near a",
        "4-bit grid: the figures say whether a family is computed rightly, not what 4 bits cost a trained model.",
        "`tests/probing/test_family_probing.py` runs them in the native probe, with prompts longer than the windows,",
        "against eager PyTorch, and holds the answer against every fault.",
        "",
        "| family | models | features checked | " + " | ".join(titles) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for name, entry in families.items():
        told = [_cell(cells.get((name, runtime, recipe))) for runtime, recipe in columns]
        lines.append(f"| {name} | {entry['models']} | {', '.join(entry['features'])} | {' | '.join(told)} |")
    lines += ["", "## What does not pass, and why", ""]
    for runtime, (title, recipes) in RUNTIMES.items():
        lines += _reasons(runtime, title, recipes, families, cells)
    lines += ["", "## Versions", ""]
    for runtime, results in loaded.items():
        found = ", ".join(f"{package} {number}" for package, number in results["versions"].items())
        if found:
            lines.append(f"- {RUNTIMES[runtime][0]}: {found}")
    return "\n".join(lines) + "\n"


def _cell(told: dict[str, Any] | None) -> str:
    if told is None:
        return "not run"
    return f"passed ({told['kl_mean']:.2g})" if told["outcome"] == "passed" else str(told["outcome"])


def _reasons(
    runtime: str,
    title: str,
    recipes: tuple[str, ...],
    families: dict[str, dict[str, Any]],
    cells: dict[tuple[str, str, str], dict[str, Any]],
) -> list[str]:
    lines = []
    for name in families:
        by_reason: dict[str, list[str]] = {}
        for recipe in recipes:
            told = cells.get((name, runtime, recipe))
            if told is not None and told["outcome"] != "passed":
                by_reason.setdefault(f"{told['outcome']}: {told['reason']}", []).append(recipe)
        lines += [f"- **{name}**, {title} {', '.join(found)}: {reason}" for reason, found in by_reason.items()]
    run_at_all = any((name, runtime, recipe) in cells for name in families for recipe in recipes)
    return lines or [f"- {title}: everything passes." if run_at_all else f"- {title}: not run."]


if __name__ == "__main__":
    raise SystemExit(main())
