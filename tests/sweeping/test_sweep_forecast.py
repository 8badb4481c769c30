"""What a sweep foretells: cells that cannot be, bytes, time; from facts of devices alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_runs
import msgspec
import pytest
from sweep_making import SHORT

from edgekit.analysis.configurations import known_decoder
from edgekit.api.measuring import chosen_protocol
from edgekit.cli.sweep_live import plain, summary, table
from edgekit.cli.sweep_tables import duration, preview_devices
from edgekit.reporting.tables import render
from edgekit.schema.device_profile import load_device_profile
from edgekit.schema.sweep import SweepPlan
from edgekit.sweeping.cells import expand, sessions_of
from edgekit.sweeping.expected import bundle_pass_seconds, session_seconds
from edgekit.sweeping.forecast import Known, PlannedCell, fault_of, preview
from edgekit.sweeping.journal import Account
from edgekit.sweeping.looking import DeviceLook, alike
from edgekit.sweeping.status import DeviceStatus, SweepStatus

GIB = 1 << 30


def known_of(plan: SweepPlan) -> Known:
    return Known(
        plan=plan,
        protocol=chosen_protocol("default", {"prompts": [64], "generates": [16], "repetitions": 3}),
        decoder=known_decoder,
        folder=lambda key: None,
        profile_of=lambda facts: None,
        kit_of=lambda bundle, abi: pytest.fail("nothing is made yet"),
        kit_before=lambda key, abi: None,
    )


def plan_of(**fields: Any) -> SweepPlan:
    base: dict[str, Any] = {"models": ["smollm2-135m"], "recipes": ["w8"], "threads": [1], "devices": ["adb:a"]}
    return SweepPlan(schema_version=1, name="p", tests=SHORT, **(base | fields))


def look(name: str = "adb:a", **changes: Any) -> DeviceLook:
    facts = data_runs.device(name=name, abi="linux-x86_64", **changes)
    return DeviceLook(name, facts=facts, machine=name)


def faults(plan: SweepPlan, device: DeviceLook) -> list[str]:
    known = known_of(plan)
    cells = expand(plan, known.protocol, {name: [name] for name in plan.devices or []})
    found = [fault_of(cell, device, known, ["onnxruntime", "executorch"]) for cell in cells]
    return [error.message for error in found if error is not None]


def test_what_fits_has_no_fault() -> None:
    assert faults(plan_of(), look()) == []


@pytest.mark.parametrize(
    ("plan", "device", "said"),
    [
        (plan_of(models=["llama-3.2-3b"], recipes=["fp32"]), look(memory_bytes=GIB), "of memory, the device can give"),
        (plan_of(), look(free_bytes=20 << 20), "of storage, 20.0 MiB are free"),
        (plan_of(threads=[5]), look(), "5 threads asked for"),
        (plan_of(context=100_000), look(), "the model was made for"),
        (plan_of(context=32), look(), "tokens of context"),
        (plan_of(models=["arch:smollm2-135m:layers=0"]), look(), "layers"),
        (plan_of(runtimes=["executorch"], recipes=["w4"]), look(), "does not serve executorch"),
        (plan_of(runtimes=["tflite"]), look(), "no runtime is called"),
    ],
)
def test_what_cannot_be_is_told(plan: SweepPlan, device: DeviceLook, said: str) -> None:
    (found,) = faults(plan, device)
    assert said in found


def test_a_recipe_whose_size_nobody_knows_may_be_measured() -> None:
    assert faults(plan_of(recipes=["w4-mixed"]), look()) == []


def test_time_follows_from_what_is_measured() -> None:
    decoder = known_decoder("smollm2-135m")
    assert decoder is not None
    known = known_of(plan_of())

    def one(profile: str | None, threads: int = 4, **changes: Any) -> float:
        protocol = msgspec.structs.replace(known.protocol, **changes)
        chosen = load_device_profile(profile) if profile else None
        seconds = bundle_pass_seconds(decoder, known.recipe("w8"), "onnxruntime", 512, protocol, threads, chosen)
        assert seconds is not None
        return seconds

    assert one("raspberry-pi-4") > one("raspberry-pi-5")
    assert one(None, generates=[64]) > one(None, generates=[16])
    plan = plan_of(recipes=["w8", "w4"], threads=[1, 2])
    sessions = sessions_of(expand(plan, known.protocol, {"adb:a": ["adb:a"]}), "model")
    facts = data_runs.device()
    passes: dict[Any, float | None] = {(key, count): 2.0 for key in sessions[0].bundles for count in (1, 2)}
    slow = session_seconds(sessions[0], known.protocol, passes, facts)
    rest = msgspec.structs.replace(known.protocol, gap_s=10.0)
    # Three rounds of two bundles and two thread counts.
    assert session_seconds(sessions[0], rest, passes, facts) == pytest.approx(slow + 12 * 10.0)
    emulated = msgspec.structs.replace(facts, fidelity="emulated")
    assert session_seconds(sessions[0], known.protocol, passes, emulated) > 5 * slow


def test_devices_of_one_machine_take_their_times_after_each_other() -> None:
    plan = plan_of(devices=["adb:a", "adb:b"])
    known = known_of(plan)
    cells = expand(plan, known.protocol, {"adb:a": ["adb:a"], "adb:b": ["adb:b"]})
    planned = [PlannedCell(cell, "pending") for cell in cells]
    looks = {"adb:a": look("adb:a"), "adb:b": look("adb:b")}

    def seconds(machine: str, together: bool) -> float:
        looks["adb:a"].machine = looks["adb:b"].machine = machine
        if not machine:
            looks["adb:a"].machine, looks["adb:b"].machine = "a", "b"
        sessions = sessions_of(cells, "model")
        found = preview(planned, sessions, looks, known, Account(), {}, together=together)
        assert found.exports == 1
        assert all(device.about and device.push_bytes > 100 << 20 for device in found.devices)
        text = render(preview_devices(found), "md")
        assert "about" in text
        assert "estimator alone" in text
        return found.seconds - found.export_seconds

    assert seconds("one", False) == pytest.approx(2 * seconds("", False))
    assert seconds("one", True) == pytest.approx(seconds("", False))


def test_equal_devices_are_those_that_differ_in_nothing_that_is_known() -> None:
    one = data_runs.device(name="adb:a", free_bytes=1, memory_bytes=8 * GIB)
    assert alike(one, msgspec.structs.replace(one, name="adb:b", free_bytes=2, memory_bytes=8 * GIB - 4096))
    for change in ({"abi": "linux-arm64"}, {"cpu_model": "x"}, {"cpus": 2}, {"memory_bytes": 4 * GIB}, {"os": "y"}):
        assert not alike(one, msgspec.structs.replace(one, **change))
    assert not alike(one, msgspec.structs.replace(one, android={"model": "Phone"}))


STATUS = SweepStatus(
    devices=(
        DeviceStatus("adb:a", "measuring", 4, 2, 0, "50% tiny w4", 90.0),
        DeviceStatus("adb:b\x1b[2J", "quarantined", 4, 1, 1, "run sh: \x1b]0;closed\x07", None),
    ),
    exports_total=3,
    exports_done=2,
    exports_failed=0,
    exports_detail="tiny: gate",
)


def test_what_a_device_says_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    console = Console(width=160, force_terminal=False)
    with console.capture() as drawn:
        console.print(table(STATUS))
    say = plain()
    say(STATUS)
    say(STATUS)
    told = capsys.readouterr().err
    for text in (drawn.get(), told):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "quarantined" in text
    assert summary(STATUS) == "3/8 cells, 1 failed, 2/3 exports (tiny: gate), 1 device given up, about 2 min left"
    # A state that did not change is told once.
    assert told.count("quarantined") == 1


def test_many_devices_leave_the_table_readable() -> None:
    devices = tuple(DeviceStatus(f"adb:{number}", "done", 1, 1, 0, "", 0.0) for number in range(60))
    gone = DeviceStatus("adb:gone", "quarantined", 1, 0, 0, "lost", None)
    drawn = table(SweepStatus((*devices, gone), 0, 0, 0, ""))
    assert drawn.row_count == 41
    assert "gone" in str(next(iter(drawn.columns[0].cells)))


@pytest.mark.parametrize(("seconds", "said"), [(5, "5 s"), (600, "10 min"), (12_000, "3 h 20 min"), (None, "–")])
def test_times_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_the_folder_is_left_alone_by_a_look(tmp_path: Path) -> None:
    import edgekit

    plan = plan_of(devices=["local"], models=["arch:smollm2-135m:layers=2"])
    found = edgekit.preview_sweep(plan, out=tmp_path / "out")
    assert [cell.state for cell in found.cells] == ["pending"]
    assert list(tmp_path.iterdir()) == []


def test_bundles_that_fit_one_by_one_but_not_together_are_told() -> None:
    plan = plan_of(recipes=["w8", "fp32"])
    known = known_of(plan)
    cells = expand(plan, known.protocol, {"adb:a": ["adb:a"]})
    device = look(free_bytes=600 << 20)
    assert [fault_of(cell, device, known, ["onnxruntime"]) for cell in cells] == [None, None]
    planned = [PlannedCell(cell, "pending") for cell in cells]
    sessions = sessions_of(cells, "model")
    found = preview(planned, sessions, {"adb:a": device}, known, Account(), {}, together=False)
    assert any("all together need" in note for note in preview_devices(found).notes)
