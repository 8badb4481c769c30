"""The report of runs that were really measured: every section has its plots, its figures and nothing invented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chromium import Chromium

import edgekit

SECTIONS = {
    "limits": "What the device allows",
    "operators": "Where the time goes",
    "memory-split": "Whose memory it is",
    "sustained": "Sustained decoding",
    "energy": "Energy",
    "conditions": "Conditions over the session",
}
#: Sections whose plots show what was measured; energy has none where nothing can be read.
DRAWN = ["limits", "operators", "memory-split", "sustained", "conditions"]


@pytest.fixture(scope="module")
def report(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    bundles = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("fp32", "w4")]
    plan = {"prompts": [32], "generates": [8], "threads": [1], "out": root / "runs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(root / "data"))
        edgekit.calibrate(rounds=2, seconds=1.0, threads=[1])
        runs = edgekit.probe(bundles, repetitions=6, sustain_s=2.0, **plan)
        runs += edgekit.probe(bundles, repetitions=3, profile=True, **plan)
        return edgekit.report(runs, out=root / "report.html")


def test_every_section_is_there(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for anchor, title in SECTIONS.items():
        assert f'<section id="{anchor}"' in text
        assert f'<a href="#{anchor}">{title}</a>' in text
    assert "was profiled, so that its times are no speed" in text
    assert "no trial was measured" not in text
    assert "measured on the device." in text


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_its_plots_are_drawn_and_nothing_is_asked_for(browser: Chromium, report: Path, width: int, dark: bool) -> None:
    browser.resize(width, dark=dark)
    browser.open(report)
    assert browser.requests == [report.as_uri()]
    assert browser.console == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    for anchor in DRAWN:
        marks = browser.evaluate(
            f"""[...document.querySelectorAll('#{anchor} svg.plot')].map(svg =>
                [...svg.querySelectorAll('path,rect,line,circle')].filter(e => {{
                  const b = e.getBoundingClientRect(), s = getComputedStyle(e);
                  return b.width + b.height > 1 &&
                    [s.fill, s.stroke].some(c => c !== 'none' && c !== 'rgba(0, 0, 0, 0)');
                }}).length)"""
        )
        assert marks, f"{anchor} has no plot"
        assert min(marks) > 5, f"a plot of {anchor} is nearly empty"


def test_every_module_is_in_the_breakdown(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    described = re.search(r'aria-label="Share of the time of decode by module: ([^"]*)"', text)
    assert described
    shares: dict[str, float] = {}
    for bar, share in re.findall(r"(tg8, 1t: [^;]+?) [A-Za-z ]+ (\d+)%", described[1]):
        shares[bar.strip()] = shares.get(bar.strip(), 0.0) + int(share)
    # Medians of repetitions that a busy machine disturbed need not add up to the whole; all of them are drawn.
    whole: dict[str, float] = {}
    for row in edgekit.operators([report.parent / "runs"], by=["module"]).rows:
        if row.test.name == "tg8":
            whole[row.label] = whole.get(row.label, 0.0) + 100 * row.share
    assert len(shares) == len(whole) == 2
    for label, total in whole.items():
        [drawn] = [drawn for bar, drawn in shares.items() if label.split(" ")[0] in bar]
        assert abs(drawn - total) <= 10, (shares, whole)
