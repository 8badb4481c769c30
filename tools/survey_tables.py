"""Write the tables of docs/survey.md: the published survey's, and the demo's from a result.

usage: python tools/survey_tables.py [--check] [RESULT.json]
RESULT.json (`edgekit survey demo -o json`) replaces the result that is kept in docs/survey-demo.json.
With --check nothing is written and the exit code is 1 where the page is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import edgekit
from edgekit.analysis.survey.judging import SurveyResult
from edgekit.reporting.survey import figure_table, verdict_table
from edgekit.reporting.tables import render
from edgekit.schema import codec
from edgekit.schema.storage import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, KEPT = DOCS / "survey.md", DOCS / "survey-demo.json"


def tables(result: SurveyResult) -> str:
    """Verdicts and figures as Markdown."""
    return f"{render(verdict_table(result), 'md')}\n{render(figure_table(result), 'md')}"


def page(text: str, results: dict[str, SurveyResult]) -> str:
    """The page with each result between its marks."""
    for name, result in results.items():
        marked = re.compile(rf"(<!-- survey: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = tables(result)
        text, count = marked.subn(lambda match, made=made: f"{match[1]}{made}{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{PAGE.name} has {count} places for {name}")
    return text


def main() -> int:
    """Write or check."""
    given = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    results = {"paper": edgekit.published_survey()}
    demo = codec.read(given[0], SurveyResult) if given else codec.read(KEPT, SurveyResult) if KEPT.is_file() else None
    if demo is not None:
        results["demo"] = demo
    old = PAGE.read_text(encoding="utf-8")
    new = page(old, results)
    if "--check" in sys.argv[1:]:
        if old != new:
            print(f"out of date: {PAGE.name}")
        return int(old != new)
    if given and demo is not None:
        write_atomically(KEPT, codec.encode(demo))
    write_atomically(PAGE, new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
