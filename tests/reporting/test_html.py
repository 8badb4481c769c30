"""The report's text: answers, escaping, structure. What a browser makes of it: test_html_browser.py."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle, device

from edgekit.analysis.compare import compare
from edgekit.analysis.disturbance import Others
from edgekit.analysis.load import RunData, load_run
from edgekit.errors import HostStorageError, InputError
from edgekit.progress import ProgressEvent
from edgekit.reporting import condensed, html
from edgekit.reporting.answers import advice, answers, choices
from edgekit.reporting.formats import number
from edgekit.reporting.html import render_report, script_json, write_report
from edgekit.reporting.remarks import speed_notes

MAX_BYTES = 5_000_000
HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\u2028{{7*7}}\x00\x1b[31m\u202e&amp;"
)


def load(session: Session) -> list[RunData]:
    return [load_run(path) for path in session.write()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunData]:
    return load(Session(tmp_path_factory.mktemp("runs"), depths=(0, 512)))


@pytest.fixture(scope="module")
def page(runs: list[RunData]) -> str:
    return render_report(runs)


class Elements(HTMLParser):
    """Start tags with attributes, and the text of tables by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="edgekit-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_answers_name_what_the_figures_say(runs: list[RunData]) -> None:
    comparison = compare(runs)
    found = {answer.question: answer for answer in answers(runs, comparison)}
    best = max((row for row in comparison.rows if row.test == "tg64"), key=lambda row: row.median_tok_s)
    assert found["Fastest decode"].answer == best.label == "w4"
    assert re.search(r"^tg64, 2 threads; 1\.\d+× w8, 95% interval \[", found["Fastest decode"].because)
    assert found["Fastest prefill"].answer == "w8"
    assert found["Smallest"].answer == "w4"
    assert found["Most faithful quantized"].answer == "w8"
    assert found["Least memory"].answer == "w4"


def test_what_cannot_be_told_apart_is_said_to_be(tmp_path: Path) -> None:
    twins = load(Session(tmp_path, bundles=[bundle("w4"), bundle("w4")]))
    [decode] = [answer for answer in answers(twins, compare(twins)) if answer.question == "Fastest decode"]
    assert sorted(decode.answer.split(" or ")) == ["w4 #1", "w4 #2"]
    assert "not told apart: 1.0" in decode.because or "not told apart: 0.9" in decode.because


def test_what_is_beaten_in_everything_is_named(tmp_path: Path) -> None:
    found = load(
        Session(tmp_path, factor={"w8": 0.2, "fp32": 9.0}, bundles=[bundle("fp32"), bundle("w8"), bundle("w4")])
    )
    by_label = {choice.row.label: choice for choice in choices(compare(found))}
    # w8 is smaller than fp32 and closer to the source than w4, so nothing beats it in all three.
    assert {choice.beaten_by for choice in by_label.values()} == {None}
    assert by_label["fp32"].first_in == ["quality", "speed"]
    assert by_label["w8"].first_in == []
    assert by_label["w4"].first_in == ["size", "memory"]
    worse = load(Session(tmp_path / "b", factor={"w5": 0.5}, bundles=[bundle("w4"), bundle("w5")]))
    assert [choice.beaten_by for choice in choices(compare(worse))] == [None, "w4"]
    assert "<strong>w5</strong> is beaten by <strong>w4</strong>" in render_report(worse)


def test_the_page_begins_with_what_to_ship(tmp_path: Path) -> None:
    page = render_report(load(Session(tmp_path, threads=(1,), rounds=6)))
    first = re.sub("<[^>]+>", "", page[page.index('id="answers"') : page.index("Fastest decode")])
    assert "Ship fp32 where quality decides; w4 where speed, size or memory decides. In between: w8." in first
    assert "Ship" not in render_report(load(Session(tmp_path / "one", bundles=[bundle("w4")], threads=(1,), rounds=6)))


def test_what_computes_something_else_or_failed_the_gate_is_not_advised(tmp_path: Path) -> None:
    wrong = load(Session(tmp_path, golden_passed=False, threads=(1,), rounds=6))
    assert choices(compare(wrong)) == []
    made = bundle("w4")
    refused = msgspec.structs.replace(made, gate=msgspec.structs.replace(made.gate, passed=False))
    found = load(Session(tmp_path / "b", bundles=[bundle("fp32"), bundle("w8"), refused], threads=(1,), rounds=6))
    [given] = advice(choices(compare(found)))
    assert [label for label, _ in given.where] == ["fp32"]
    assert given.between == ["w8"]


def test_models_and_devices_are_not_held_against_each_other(tmp_path: Path) -> None:
    """A divergence is from a model's own source, and a speed is a device's."""
    models = [bundle("w8", model="large"), bundle("w8", model="small")]
    sizes = [msgspec.structs.replace(entry, bytes=entry.bytes * 2) for entry in models[0].files]
    models[0] = msgspec.structs.replace(models[0], files=sizes)
    found = load(Session(tmp_path, bundles=models, threads=(1,), rounds=6))
    other = load(Session(tmp_path, bundles=models, threads=(1,), rounds=6, name="b", device=device(name="adb:b")))
    assert [choice.beaten_by for choice in choices(compare([*found, *other]))] == [None] * 4


def test_what_was_measured_twice_does_not_beat_itself(tmp_path: Path) -> None:
    twins = load(Session(tmp_path, bundles=[bundle("w4")] * 2, threads=(1,), rounds=10))
    found = choices(compare(twins))
    assert [choice.beaten_by for choice in found] == [None, None]
    assert all("speed" in choice.first_in for choice in found)


def test_emulated_runs_give_no_answers_about_speed(tmp_path: Path) -> None:
    found = load(Session(tmp_path, device=device(fidelity="emulated", fidelity_reason="qemu-aarch64")))
    assert {answer.question for answer in answers(found, compare(found))} == {
        "Smallest",
        "Most faithful quantized",
        "Least memory",
    }
    text = render_report(found)
    assert "Not real hardware (emulated)" in text
    assert "w4 (emulated)" in text
    assert 'id="trade-off"' not in text


def test_the_page_is_whole_and_small(page: str) -> None:
    assert len(page.encode()) < MAX_BYTES
    elements = Elements(page)
    anchors = {attributes["id"] for tag, attributes in elements.found if tag == "section"}
    linked = {attributes["href"].removeprefix("#") for attributes in elements.all("a")}
    assert linked <= anchors
    assert anchors >= {
        "answers",
        "trade-off",
        "speed",
        "differences",
        "latency",
        "memory",
        "quality",
        "repeat",
    }
    ids = [attributes["id"] for _, attributes in elements.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert elements.all("html") == [{"lang": "en"}]


def test_nothing_in_the_page_asks_for_the_network_or_runs(page: str) -> None:
    elements = Elements(page)
    policy = next(a for a in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy")["content"]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy
    assert [attributes.get("type") for attributes in elements.all("script")] == ["application/json"]
    for tag, attributes in elements.found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "use", "image", "foreignobject")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#")
            assert name == "xmlns" or "://" not in (value or "")
    assert "url(http" not in page
    assert "@import" not in page


def test_every_plot_is_described_and_every_table_headed(page: str) -> None:
    elements = Elements(page)
    plots = [attributes for attributes in elements.all("svg") if attributes.get("class") == "plot"]
    assert len(plots) == len(elements.all("figure")) >= 12
    for attributes in plots:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 30
    assert len(elements.all("caption")) == len(elements.all("table")) >= 8
    assert all(attributes.get("scope") in ("row", "col") for attributes in elements.all("th"))
    scrolled = [a for a in elements.all("div") if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in scrolled)


def test_the_figures_are_in_the_page(runs: list[RunData], page: str) -> None:
    comparison = compare(runs)
    for row in comparison.rows:
        assert f"{row.median_tok_s:.2f} ± {row.stddev_tok_s:.2f}" in page
    for run in runs:
        assert run.bundle.identity in page
        assert run.bundle.source.sha256 in page
    assert "edgekit run smollm2-135m --quant fp32,w8,w4 -t 1,2" in page
    records = data_of(page)["comparison"]
    assert [record["median_tok_s"] for record in records] == [row.median_tok_s for row in comparison.rows]


def test_tooltips_carry_the_exact_figures(runs: list[RunData], page: str) -> None:
    row = compare(runs).rows[-1]
    assert f"<title>{row.label}: {row.median_tok_s:.2f} t/s, 95% interval [" in page


def test_plots_are_sound_svg(page: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for text in drawn:
        root = ET.fromstring(text)
        marks = [element for element in root.iter() if element.tag.endswith(("}path", "}rect", "}line"))]
        assert len(marks) > 5
        for element in root.iter():
            for value in element.attrib.values():
                assert "NaN" not in value
                assert "undefined" not in value


def test_plots_refer_to_their_own_parts(page: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    referring = 0
    for text in drawn:
        wanted = set(re.findall(r"url\(#([^)]+)\)", text))
        assert wanted <= set(re.findall(r'\bid="([^"]+)"', text))
        referring += bool(wanted)
    assert referring >= 2, "the latency plots are cut at their top"


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    made = bundle("w4", model=HOSTILE)
    other = bundle("w8", model="plain" + HOSTILE)
    facts = device(cpu_model=HOSTILE, os=HOSTILE, android={HOSTILE: HOSTILE})
    found = load(Session(tmp_path, bundles=[made, other], threads=(1,), device=facts, command=("edgekit", HOSTILE)))
    page = render_report(found, title=HOSTILE)
    elements = Elements(page)
    assert [attributes.get("type") for attributes in elements.all("script")] == ["application/json"]
    assert elements.all("img") == []
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert "\u2028" not in page
    assert "\x00" not in page
    assert "\x1b" not in page
    assert "{{7*7}}" in page, "templates are not run twice"
    assert data_of(page)["comparison"][0]["model"] == HOSTILE


@pytest.mark.parametrize("value", ["</script>", "<!--<script>", "]]>", "\u2028\u2029", "&lt;", '"\\'])
def test_data_survives_a_script_element(value: str) -> None:
    text = script_json({value: value})
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == {value: value}


def test_gaps_are_said_first(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,), rounds=3).write()
    (paths[1] / "launches/002/events.jsonl").write_bytes(b"linker error\n")
    page = render_report([load_run(path) for path in paths])
    assert page.index("unreadable or disturbed") < page.index('id="answers"')
    assert "launch 2: line 1: not JSON" in page


@pytest.mark.parametrize(
    "session",
    [
        {"bundles": [bundle("w4")], "rounds": 1, "threads": (1,)},
        {"generates": (), "threads": (1,), "rounds": 3},
        {"memory_hz": 0.0, "threads": (1,), "rounds": 3},
    ],
)
def test_a_report_on_little_is_still_a_report(tmp_path: Path, session: dict) -> None:
    page = render_report(load(Session(tmp_path, **session)))
    assert "Fastest prefill" in page


def test_a_run_without_any_result_is_reported_as_such(tmp_path: Path) -> None:
    [path] = Session(tmp_path, bundles=[bundle("w4")], threads=(1,), rounds=1).write()
    (path / "launches/001/events.jsonl").unlink()
    page = render_report([load_run(path)])
    assert "no trial was measured" in page
    assert "How to repeat" in page


def test_runs_of_two_devices_are_answered_separately(tmp_path: Path) -> None:
    one = load(Session(tmp_path, threads=(1,), rounds=3))
    two = load(
        Session(tmp_path, threads=(1,), rounds=3, name="other", device=device(name="adb:other", cpu_model="A55"))
    )
    page = render_report([*one, *two])
    assert "smollm2-135m on 2 devices" in page
    assert page.count("<dt>Fastest decode</dt>") == 2
    assert "<strong>w4 · adb:other</strong>" in page


def test_many_runs_stay_small(tmp_path: Path) -> None:
    many = [bundle("w4", model=f"model-{number}") for number in range(12)]
    page = render_report(load(Session(tmp_path, bundles=many, threads=(1,), generates=(512,), rounds=5)))
    assert len(page.encode()) < MAX_BYTES


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, runs: list[RunData]) -> None:
    told: list[ProgressEvent] = []
    path = write_report(runs[:1], tmp_path / "new" / "report.html", progress=told.append)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert told[0].done == 0
    assert told[-1].done == told[-1].total
    with pytest.raises(InputError, match="it is a directory"):
        write_report(runs[:1], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostStorageError, match="write report to"):
        write_report(runs[:1], tmp_path / "file" / "report.html")
    with pytest.raises(InputError, match="no run was given"):
        write_report([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_very_many_runs_are_listed_and_some_shown_in_full(runs: list[RunData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensed, "MANY", 2)
    monkeypatch.setattr(condensed, "SHOWN", 2)
    assert len(runs) == 3
    text = render_report(runs, baseline="w8")
    comparison = compare(runs, "w8")
    assert "All 3 runs" in text
    assert {row["label"] for row in data_of(text)["comparison"]} == {"w8", "w4"}, "the baseline, and the fastest"
    listed = text[text.index("All 3 runs") :]
    for row in comparison.rows:
        if (row.test, row.threads) == ("tg64", 1):
            assert f"tg64 {number(row.median_tok_s)} tok/s" in listed
    monkeypatch.setattr(condensed, "MANY", 3)
    assert "All 3 runs" not in render_report(runs)


def test_answers_do_not_depend_on_what_is_shown(runs: list[RunData], monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(text: str) -> str:
        return text[text.index("Fastest decode") : text.index("Least memory")]

    whole = shown(render_report(runs))
    monkeypatch.setattr(condensed, "MANY", 1)
    monkeypatch.setattr(condensed, "SHOWN", 1)
    assert shown(render_report(runs)) == whole


def test_a_busy_device_is_said_without_a_count_that_nobody_could_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [load_run(path) for path in Session(tmp_path, bundles=[bundle("w4")], threads=(1,), rounds=1).write()]
    for disturbed, told in ((0, "during the trials"), (3, "during the trials (more than 10% in 3 of 9)")):
        taken = Others(trials=9, disturbed=disturbed, taken_ns=58 * 10**8, available_ns=10**10)
        monkeypatch.setattr(html, "others", lambda run, taken=taken: taken)
        said = render_report(runs).split("took 58% of the processor")[1].split(".")[0]
        assert said.endswith(told)


def test_a_note_that_names_many_tests_is_whole(tmp_path: Path) -> None:
    names = [f"a-model-of-a-rather-long-name-number-{number}" for number in range(9)]
    session = Session(tmp_path, bundles=[bundle("w4", model=name) for name in names], threads=(1,), rounds=3, noise=0.5)
    runs = [load_run(path) for path in session.write()]
    [note] = [note for note in speed_notes(compare(runs)) if note.startswith("Unstable samples")]
    assert len(note) > 300
    assert note[-60:].replace("'", "&#39;") in render_report(runs)
