"""A run directory is read as far as it can be; the rest is a marked gap or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import samples
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema import codec


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return Session(tmp_path, bundles=[bundle("w4")], threads=(1,), rounds=3).write()[0]


def edit(path: Path, **changes: object) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))


def test_a_whole_run_has_no_faults(run_dir: Path) -> None:
    data = load_run(str(run_dir))
    assert data.faults == []
    assert [entry.gap for entry in data.launches] == [None] * 4
    assert all(entry.stream and entry.stream.complete and entry.plan for entry in data.launches)
    assert data.bundle.identity == data.run.bundle


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no run\.json") as caught:
        load_run(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["run.json", "bundle.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff"])
def test_a_corrupt_manifest_is_refused(run_dir: Path, name: str, content: bytes) -> None:
    (run_dir / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_run(run_dir)


def test_a_missing_bundle_is_refused(run_dir: Path) -> None:
    (run_dir / "bundle.json").unlink()
    with pytest.raises(InputError, match=r"bundle\.json"):
        load_run(run_dir)


def test_another_bundle_than_the_one_measured_is_refused(run_dir: Path) -> None:
    (run_dir / "bundle.json").write_bytes(codec.encode(bundle("w8")))
    with pytest.raises(InputError, match="is of another bundle"):
        load_run(run_dir)


@pytest.mark.parametrize("name", ["run.json", "launches/001/plan.json"])
def test_a_newer_file_is_refused(run_dir: Path, name: str) -> None:
    edit(run_dir / name, schema_version=99)
    with pytest.raises(UnsupportedError, match="schema version 99"):
        load_run(run_dir)


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "launches/../../x", "C:\\x", "a\0b"])
def test_a_launch_outside_the_run_is_refused(run_dir: Path, folder: str) -> None:
    raw = msgspec.json.decode((run_dir / "run.json").read_bytes())
    raw["launches"][0]["directory"] = folder
    (run_dir / "run.json").write_bytes(msgspec.json.encode(raw))
    with pytest.raises(InputError, match="lies outside the run"):
        load_run(run_dir)


def test_a_missing_launch_is_a_gap(run_dir: Path) -> None:
    (run_dir / "launches/001/events.jsonl").unlink()
    (run_dir / "launches/002/plan.json").write_bytes(b"{")
    data = load_run(run_dir)
    assert data.launches[1].stream is None
    assert data.launches[1].plan is not None
    assert data.launches[2].plan is None
    assert len(data.faults) == 2
    assert data.faults[0].startswith("launch 1: no events: ")
    assert data.faults[1].startswith("launch 2: no plan: ")
    assert [len(found) for found in samples(data).values()] == [1, 1]


def test_a_plan_of_another_launch_is_a_gap(run_dir: Path) -> None:
    edit(run_dir / "launches/001/plan.json", threads=2)
    assert load_run(run_dir).faults == ["launch 1: its plan.json is of another launch"]


def test_a_cut_run_keeps_what_was_measured(run_dir: Path) -> None:
    path = run_dir / "launches/003/events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last_trial = max(at for at, line in enumerate(lines) if b'"trial"' in line[:20])
    path.write_bytes(b"".join(lines[:last_trial]) + lines[last_trial][:40])
    data = load_run(run_dir)
    assert data.faults[0].startswith(f"launch 3: line {last_trial + 1}: cut short")
    assert data.faults[1] == "launch 3: the events end before bye"
    assert {test.name: len(found) for test, found in samples(data).items()} == {"pp128": 3, "tg64": 2}


def test_a_run_that_did_not_end_says_so(run_dir: Path) -> None:
    raw = msgspec.json.decode((run_dir / "run.json").read_bytes())
    raw["status"] = "interrupted"
    raw["launches"][1] |= {"status": "lost", "message": "cable pulled"}
    (run_dir / "run.json").write_bytes(msgspec.json.encode(raw))
    assert load_run(run_dir).faults == ["the run is not complete: interrupted", "launch 1: lost: cable pulled"]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["run.json", "bundle.json", "launches/001/plan.json", "launches/001/events.jsonl"]),
    place=st.floats(0, 1),
    noise=st.binary(max_size=12),
    cut=st.booleans(),
)
def test_overwritten_bytes_never_crash_the_reader(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, noise: bytes, cut: bool
) -> None:
    root = tmp_path_factory.mktemp("run")
    directory = Session(root, bundles=[bundle("w4")], threads=(1,), rounds=1, memory_hz=5).write()[0]
    path = directory / name
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + noise + (b"" if cut else whole[at + len(noise) :]))
    try:
        data = load_run(directory)
    except (InputError, UnsupportedError):
        return
    for found in samples(data).values():
        assert all(sample.tok_s > 0 for sample in found)
