"""Write what the benchmarks found, from ``benchmarks/results``: ``python -m benchmarks.readme [--check]``.

README.md gets the speed beside the peers, docs/benchmarks.md all results. With ``--check`` nothing is written, and the
exit code is 1 where a page is out of date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from benchmarks import tables

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

#: What the README shows: how fast a model runs beside the peers. The rest is on a page of its own.
HEADLINES = ("onnx-vs-llamacpp", "executorch-vs-llamacpp", "onnx-vs-genai", "executorch-vs-python")


def readme(results: list[dict[str, Any]]) -> str:
    """README.md with its section between the markers."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    shown = [result for result in results if result["name"] in HEADLINES]
    places = "; ".join(sorted({tables.place(result) for result in shown}))
    section = (
        f"{tables.beside_peers(shown)}\n\nSmolLM2-135M, 128 tokens of prompt and 64 decoded, in turn, {places}."
        " A ratio above 1 means that edgekit is faster."
    )
    return f"{head}{BEGIN}\n{section}\n{END}{tail}"


def page(results: list[dict[str, Any]]) -> str:
    """docs/benchmarks.md."""
    parts = [
        "# Benchmarks\n\nMade by `make readme` from `benchmarks/results/`. Both sides take turns in one run; a ratio "
        "is the median over the turns with its 95% interval, and above 1 edgekit is faster or smaller. What has no "
        "peer is held against a limit. Each is measured again, on your machine, by the command under its name."
    ]
    return "\n\n".join([*parts, *(section(result) for result in results)]) + "\n"


def section(result: dict[str, Any]) -> str:
    """One benchmark: what it is, how to repeat it, what was found, where."""
    ours, theirs = tables.sides(result)
    known = result["name"] in tables.TITLES
    title = f"{ours}, beside {theirs}" if known else result["name"].replace("-", " ")
    parts = [f"## {title[0].upper()}{title[1:]}"]
    parts += [about(result["name"]), f"```sh\nmake bench NAME={result['name']}\n```", *found(result)]
    other = tables.elsewhere(result["name"])
    if other is not None:
        parts += ["On another machine:", *found(other)]
    return "\n\n".join(parts)


def found(result: dict[str, Any]) -> list[str]:
    """What one measurement found, and where."""
    parts = []
    if result.get("sizes"):
        parts.append(tables.sizes_of(result))
    if result["rows"]:
        parts.append(tables.rows_of(result))
    if result.get("limits"):
        parts.append(tables.limits_of(result))
    if result.get("bounds", {}).get("by_threads"):
        parts.append(tables.bounds_of(result))
    return [*parts, f"{tables.place(result)}; {tables.versions(result)}."]


def about(name: str) -> str:
    """What a benchmark does: the first paragraphs of its module's text, up to its usage."""
    source = Path(__file__).resolve().parent / f"{name.replace('-', '_')}.py"
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    kept = [part for part in text.split("\n\n") if not part.startswith("usage:")]
    return "\n\n".join(" ".join(part.split()) for part in kept).replace("``", "`")


def main() -> int:
    """Write, or with ``--check`` only compare."""
    results = tables.load()
    pages = {ROOT / "README.md": readme(results), ROOT / "docs" / "benchmarks.md": page(results)}
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'out of date' if '--check' in sys.argv[1:] else 'written'}: {path.relative_to(ROOT)}")
    if "--check" in sys.argv[1:]:
        return int(bool(stale))
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
