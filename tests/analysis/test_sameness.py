"""What forbids a comparison, or must be said beside it: other plans, other states of the device, tests that lack."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from data_runs import Session, bundle

from edgekit.analysis.compare import compare
from edgekit.analysis.comparison import Comparison
from edgekit.analysis.load import load_run
from edgekit.analysis.metrics import Test
from edgekit.analysis.sameness import missing_tests
from edgekit.cli.main import _exit_code
from edgekit.errors import InputError
from edgekit.schema import codec
from edgekit.schema.run import Launch, Run

LATER = {"name": "second", "began": "2026-01-06T10:00:00Z"}


def two_sessions(tmp_path: Path, **second: object) -> list[Path]:
    """A session of w8, and one of w4, which decodes much faster."""
    [one] = Session(tmp_path / "a", bundles=[bundle("w8")], threads=(1,)).write()
    [other] = Session(tmp_path / "b", bundles=[bundle("w4")], threads=(1,), **LATER, **second).write()
    return [one, other]


def change(run: Path, **fields: object) -> None:
    document = codec.read(run / "run.json", Run)
    (run / "run.json").write_bytes(codec.encode(msgspec.structs.replace(document, **fields)))


def conditions_of(run: Path, **fields: object) -> None:
    before = codec.read(run / "run.json", Run).before
    change(run, before=msgspec.structs.replace(before, **fields))


def compared(paths: list[Path]) -> Comparison:
    return compare([load_run(path) for path in paths])


def decode_verdict(comparison: Comparison) -> tuple[str, list[str]]:
    [row] = [row for row in comparison.rows if row.kind == "decode" and row.run != comparison.baseline]
    return row.ratio.verdict, row.ratio.reasons


def test_sessions_that_were_alike_are_compared_without_a_word(tmp_path: Path) -> None:
    found = compared(two_sessions(tmp_path))
    assert decode_verdict(found) == ("faster", [])
    assert found.faults == []


def test_another_governor_forbids_a_verdict_between_sessions(tmp_path: Path) -> None:
    paths = two_sessions(tmp_path)
    conditions_of(paths[1], governor={"policy0": "powersave"})
    verdict, reasons = decode_verdict(compared(paths))
    assert verdict == "unstable"
    assert reasons == ["another governor: policy0 was at powersave, in the baseline's session at performance"]
    conditions_of(paths[1], governor={})
    assert decode_verdict(compared(paths))[0] == "faster", "what is not told is no evidence"


def test_charger_and_heat_of_another_session_are_told(tmp_path: Path) -> None:
    paths = two_sessions(tmp_path)
    conditions_of(paths[0], plugged=False)
    conditions_of(paths[1], plugged=True, temperature_c={"cpu-thermal": 60.0})
    found = compared(paths)
    assert decode_verdict(found)[0] == "faster"
    [fault] = [fault for fault in found.faults if "charger" in fault]
    assert "ran on its charger, the baseline's session ran on its battery" in fault
    assert "began with cpu-thermal at 60.0 °C, the baseline's session at 44.5 °C" in fault


def test_another_plan_is_told(tmp_path: Path) -> None:
    paths = two_sessions(tmp_path)
    for path, affinity in zip(paths, (None, [0]), strict=True):
        protocol = codec.read(path / "run.json", Run).protocol
        change(path, protocol=protocol | {"affinity": affinity, "gap_s": 1.0})
    [fault] = compared(paths).faults
    assert fault.endswith("measured by another plan than the baseline: affinity is [0], the baseline's none")


def test_a_device_that_calls_itself_throttled_gets_no_verdict(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,)).write()
    assert decode_verdict(compared(paths))[0] == "faster"
    document = codec.read(paths[1] / "run.json", Run)

    def told(launch: Launch, status: int) -> Launch:
        return msgspec.structs.replace(launch, after=msgspec.structs.replace(document.before, thermal_status=status))

    change(paths[1], launches=[told(launch, 0) for launch in document.launches])
    assert decode_verdict(compared(paths))[0] == "faster"
    change(paths[1], launches=[told(launch, 2 if launch.index == 3 else 0) for launch in document.launches])
    verdict, reasons = decode_verdict(compared(paths))
    assert verdict == "unstable"
    assert reasons == ["throttling: the device called itself throttled (status 2 of 6) in 1 of 5 launches"]


def test_clock_limits_read_between_launches_count_where_none_were_sampled(tmp_path: Path) -> None:
    paths = Session(tmp_path, bundles=[bundle("w8"), bundle("w4")], threads=(1,)).write()
    document = codec.read(paths[1] / "run.json", Run)

    def limited(launch: Launch, khz: int) -> Launch:
        told = msgspec.structs.replace(document.before, frequency_limit_khz={"policy0": khz})
        return msgspec.structs.replace(launch, before=told, after=told)

    change(paths[1], launches=[limited(launch, 2_400_000) for launch in document.launches])
    assert decode_verdict(compared(paths))[0] == "faster"
    lowered = [limited(launch, 1_500_000 if launch.index > 3 else 2_400_000) for launch in document.launches]
    change(paths[1], launches=lowered)
    verdict, [reason] = decode_verdict(compared(paths))
    assert verdict == "unstable"
    assert reason.startswith("throttling: the kernel limited policy0 to 1.50 of 2.40 GHz in ")


def test_tests_that_lack_are_named_and_can_fail_a_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = two_sessions(tmp_path, generates=(32,))
    found = compared(paths)
    [fault] = found.faults
    assert fault.endswith("lacks 1 of the baseline's 2 tests: tg64 with 1 thread")
    arguments = ["compare", *map(str, paths), "--fail-if", "slower:99%"]
    assert _exit_code(arguments) == 0
    junit = tmp_path / "junit.xml"
    assert _exit_code([*arguments, "--fail-if", "missing", "--junit", str(junit)]) == 11
    told = capsys.readouterr().err
    assert "w4 tg64, 1 thread: not measured, the baseline has it" in told
    assert "w4 tg32, 1 thread" not in told, "what the baseline lacks is no loss"
    text = junit.read_text()
    assert text.count("<failure") == 1
    assert 'failures="1"' in text


def test_many_missing_tests_are_summed_up() -> None:
    wanted = [Test(threads=1, kind="decode", tokens=tokens) for tokens in range(1, 8)]
    assert missing_tests(wanted[:1], wanted).endswith("and 2 more")
    assert missing_tests(wanted, wanted[:3]) is None


def test_limits_beside_nothing_comparable_stay_an_error(tmp_path: Path) -> None:
    from edgekit.analysis.regression import parse_limit, regressions

    [one] = Session(tmp_path, bundles=[bundle("w8")]).write()
    with pytest.raises(InputError, match="nothing can be compared"):
        regressions(compared([one]), [parse_limit("missing")])
