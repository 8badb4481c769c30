"""The report in a real browser: drawn, silent, offline, readable in the dark and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Chromium
from data_runs import Session, bundle, device

from edgekit.analysis.load import load_run
from edgekit.reporting.html import write_report

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\u2028<svg onload=window.pwned=3>"
)
LONG = "a-model-name-that-goes-on-and-on-without-any-place-to-break-" * 2

#: Text and background of what is seen, and the smallest contrast between them by WCAG's formula.
CONTRAST = """
(() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('h1,h2,p,a,th,td,dt,dd,small,caption,figcaption,code,svg.plot text')) {
    if (!e.textContent.trim()) continue;
    const style = getComputedStyle(e);
    const ink = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e.closest('svg')?.parentElement || e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + ' ' + e.textContent.slice(0, 40)];
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    runs = [load_run(path) for path in Session(root / "runs", depths=(0, 512)).write()]
    return write_report(runs, root / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    session = Session(
        root / "runs",
        bundles=[bundle("w8", model=HOSTILE), bundle("w4", model=LONG)],
        threads=(1,),
        rounds=3,
        device=device(name=HOSTILE, cpu_model=HOSTILE, os=LONG, android={HOSTILE: HOSTILE, LONG: LONG}),
        command=("edgekit", HOSTILE, LONG),
    )
    paths = session.write()
    (paths[0] / "launches/001/events.jsonl").write_text(HOSTILE)
    return write_report([load_run(path) for path in paths], root / "report.html", title=HOSTILE + LONG)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1400])
@pytest.mark.parametrize("which", ["report", "hostile"])
def test_it_fits_and_is_silent(
    browser: Chromium, request: pytest.FixtureRequest, which: str, width: int, dark: bool
) -> None:
    path = request.getfixturevalue(which)
    browser.resize(width, dark=dark)
    browser.open(path)
    assert browser.requests == [path.as_uri()], "nothing is asked for but the file itself"
    assert browser.console == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert browser.evaluate("document.scripts.length") == 1


def test_every_plot_is_really_drawn(browser: Chromium, report: Path) -> None:
    browser.resize(1400)
    browser.open(report)
    plots = browser.evaluate(
        """[...document.querySelectorAll('svg.plot')].map(svg => {
          const box = svg.getBoundingClientRect();
          const seen = [...svg.querySelectorAll('path,rect,line,circle')].filter(e => {
            const b = e.getBoundingClientRect(), s = getComputedStyle(e);
            const painted = [s.fill, s.stroke].some(c => c !== 'none' && c !== 'rgba(0, 0, 0, 0)');
            return painted && b.width + b.height > 1 && b.right > box.left && b.left < box.right;
          });
          const coloured = new Set(seen.map(e => getComputedStyle(e).fill + getComputedStyle(e).stroke));
          return [box.width, box.height, seen.length, coloured.size, svg.querySelectorAll('text').length];
        })"""
    )
    assert len(plots) >= 12
    for width, height, marks, colours, texts in plots:
        assert width > 300
        assert height > 80
        assert marks > 8
        assert colours >= 3
        assert texts > 4


def test_colours_follow_the_scheme(browser: Chromium, report: Path) -> None:
    seen = {}
    for dark in (False, True):
        browser.resize(1400, dark=dark)
        browser.open(report)
        seen[dark] = browser.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "...[...document.querySelectorAll('svg.plot text')].slice(0, 1).map(e => getComputedStyle(e).fill)]"
        )
    assert len(seen[False]) == 2
    assert all(light != dark for light, dark in zip(seen[False], seen[True], strict=True))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(browser: Chromium, report: Path, dark: bool) -> None:
    browser.resize(1400, dark=dark)
    browser.open(report)
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 4.5, where


def test_text_in_plots_is_large_enough_on_a_phone(browser: Chromium, report: Path) -> None:
    browser.resize(390)
    browser.open(report)
    heights = browser.evaluate(
        "[...document.querySelectorAll('svg.plot text')].map(e => parseFloat(e.getAttribute('font-size')) * "
        "e.closest('svg').getBoundingClientRect().width / e.closest('svg').viewBox.baseVal.width)"
    )
    assert min(heights) >= 8.5


@pytest.mark.parametrize("width", [390, 1200])
def test_no_cell_is_squeezed_and_no_label_of_a_plot_leaves_the_page(
    browser: Chromium, tmp_path: Path, width: int
) -> None:
    slow_half = Session(tmp_path / "runs", depths=(0, 512), drift=lambda place: 1.0 if place < 0.5 else 0.8)
    report = write_report([load_run(path) for path in slow_half.write()], tmp_path / "report.html")
    assert "unstable (throttling" in report.read_text(encoding="utf-8")
    browser.resize(width)
    browser.open(report)
    tall = browser.evaluate(
        """[...document.querySelectorAll('tbody td, tbody th')].map(e =>
            [e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight), e.textContent.slice(0, 50)])
          .filter(([lines, _]) => lines > 9)"""
    )
    assert tall == []
    outside = browser.evaluate(
        """[...document.querySelectorAll('svg.plot text')].filter(e => {
            const b = e.getBoundingClientRect(); return b.width && (b.left < 0 || b.right > innerWidth);
          }).map(e => e.textContent)"""
    )
    assert outside == []


def test_a_legend_of_long_names_stays_within_its_plot(browser: Chromium, tmp_path: Path) -> None:
    bundles = [bundle("w4", model=f"rather-long-model-{number}") for number in range(5)]
    runs = [load_run(path) for path in Session(tmp_path / "runs", bundles=bundles, threads=(1,)).write()]
    report = write_report(runs, tmp_path / "report.html")
    browser.resize(1200)
    browser.open(report)
    outside = browser.evaluate(
        """[...document.querySelectorAll('svg.plot text')].filter(e =>
            e.textContent.startsWith('rather-long-model')
            && e.getBoundingClientRect().right > e.closest('svg').getBoundingClientRect().right + 8
          ).map(e => e.textContent)"""
    )
    assert outside == []


def test_everything_can_be_reached_by_keyboard(browser: Chromium, report: Path) -> None:
    browser.resize(390)
    browser.open(report)
    reached = []
    for _ in range(40):
        browser.press("Tab")
        reached.append(
            browser.evaluate(
                "(e => e.getAttribute('href') || e.getAttribute('aria-label') || e.tagName)(document.activeElement)"
            )
        )
    assert reached[0] == "#answers", "the first stop skips the navigation"
    assert {"#memory", "All speeds", "Memory and load", "Command"} <= set(reached)
    outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_it_prints_in_black_on_white(browser: Chromium, report: Path) -> None:
    browser.resize(800, dark=True, media="print")
    browser.open(report)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    clipped = browser.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflowX !== 'visible').length"
    )
    assert clipped == 0
    # A sheet of A4 inside its margins is narrower than this; the browser would shrink what does not fit.
    assert browser.evaluate("document.documentElement.scrollWidth") == 800


def test_the_browser_would_notice(browser: Chromium, tmp_path: Path) -> None:
    """The checks above can fail: a page that asks, complains and runs is seen to do so."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><meta charset=utf-8><img src='missing.png'>"
        "<script>window.pwned = 1; console.error('no'); missing()</script><div style='width:3000px'>wide</div>"
    )
    browser.resize(1400)
    browser.open(path)
    assert (tmp_path / "missing.png").as_uri() in browser.requests
    assert any("error" in message for message in browser.console)
    assert any(message.startswith("exception") for message in browser.console)
    assert browser.evaluate("window.pwned") == 1
    assert browser.evaluate("document.documentElement.scrollWidth") > 1400
