"""A comparison for continuous integration: JUnit XML, and GitHub's annotations and job summary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgekit.analysis.regression import Regression, where
from edgekit.reporting.comparison import render_comparison

if TYPE_CHECKING:
    from edgekit.analysis.comparison import Comparison, Row

#: What XML 1.0 cannot hold, even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(comparison: Comparison, regressions: Sequence[Regression]) -> bytes:
    """One test case per row but the baseline's; regressions fail, rows without a verdict are skipped."""
    suite = ElementTree.Element("testsuite", name=_xml(f"edgekit compare with {comparison.baseline_label}"))
    failures = skipped = tests = 0
    for row in comparison.rows:
        beyond = [entry for entry in regressions if entry.row is row]
        # The baseline's own row stands for what another run lacks.
        if row.run == comparison.baseline and not beyond:
            continue
        tests += 1
        name = f"{row.test}, {row.threads} {'thread' if row.threads == 1 else 'threads'}"
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(row.label), name=_xml(name))
        if beyond:
            failures += 1
            text = "\n".join(entry.message for entry in beyond)
            failure = ElementTree.SubElement(case, "failure", message=_xml(text), type=str(beyond[0].limit))
            failure.text = _xml(text)
        elif row.ratio is None or row.ratio.verdict == "unstable":
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=_xml(_outcome(row)))
        ElementTree.SubElement(case, "system-out").text = _xml(_outcome(row))
    for key, count in (("tests", tests), ("failures", failures), ("errors", 0), ("skipped", skipped)):
        suite.set(key, str(count))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def github_annotations(comparison: Comparison, regressions: Sequence[Regression]) -> str:
    """Workflow commands, one a line: an error per regression, a warning per row without a verdict or fault."""
    lines = [_command("error", f"{entry.limit} exceeded", entry.message) for entry in regressions]
    failed = {id(entry.row) for entry in regressions}
    for row in comparison.rows:
        if row.ratio is not None and row.ratio.verdict == "unstable" and id(row) not in failed:
            lines.append(_command("warning", "unstable", f"{where(row)}: {_outcome(row)}"))
    lines += [_command("warning", "incomplete run", fault) for fault in comparison.faults]
    if not regressions:
        lines.append(_command("notice", "edgekit compare", f"no regression against {comparison.baseline_label}"))
    return "".join(line + "\n" for line in lines)


def github_summary(comparison: Comparison, regressions: Sequence[Regression]) -> str:
    """The job summary: what regressed, then all figures, as Markdown."""
    text = f"## edgekit compare with {_markdown(comparison.baseline_label)}\n\n"
    if regressions:
        text += "".join(f"- :x: {_markdown(entry.message)}\n" for entry in regressions) + "\n"
    else:
        text += "No regression.\n\n"
    return text + render_comparison(comparison, "md") + "\n"


def _outcome(row: Row) -> str:
    if row.ratio is None:
        return row.no_ratio or "not compared"
    ratio = row.ratio
    ends = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    reasons = f" ({'; '.join(ratio.reasons)})" if ratio.reasons else ""
    return f"{ratio.verdict}: {ratio.median:.3f}x{ends}{reasons}"


def _command(kind: str, title: str, message: str) -> str:
    """A workflow command; a hostile name in it starts no command of its own."""
    return f"::{kind} title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
