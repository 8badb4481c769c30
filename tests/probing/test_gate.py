"""The conditions gate on devices that heat up, throttle, are busy, tell nothing, or tell nonsense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgekit.device import conditions
from edgekit.device.base import Completed
from edgekit.device.local import LocalDevice
from edgekit.errors import NotReadyError, UnsupportedError
from edgekit.probing.gate import Gate, busy_share, check_told, limits_for, obstacles, unknown
from edgekit.progress import ProgressEvent
from edgekit.schema.celsius import hottest
from edgekit.schema.limits import Limits
from edgekit.schema.run import Conditions

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "android"
CALM = Conditions(
    at="",
    temperature_c={"cpu-thermal": 41.0, "battery": 30.0},
    frequency_limit_khz={"policy0": 2_400_000},
    thermal_status=0,
    busy_ticks=1000,
    cpu_ticks=10_000,
)


class World:
    """A device whose conditions follow from the time, and the time itself."""

    def __init__(self, at: Callable[[float], Conditions]) -> None:
        self.now = 0.0
        self._at = at

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def read(self, device: object) -> Conditions:
        return self._at(self.now)

    def gate(self, limits: Limits, *, wait_s: float = 300.0, start: Conditions | None = None) -> Gate:
        self.told: list[ProgressEvent] = []
        return Gate(
            device=LocalDevice(),
            limits=limits,
            wait_s=wait_s,
            start=start or self._at(0.0),
            progress=self.told.append,
            clock=self.clock,
            sleep=self.sleep,
            read=self.read,
        )


def conditions_at(now: float, *, load: float = 0.02, cpus: int = 4, **changes: object) -> Conditions:
    """Calm conditions at a time, with counters that have run since."""
    ticks = round(now * 100 * cpus)
    busy = round(ticks * load)
    return msgspec.structs.replace(CALM, busy_ticks=1000 + busy, cpu_ticks=10_000 + ticks, **changes)


def test_a_hot_device_is_waited_for() -> None:
    world = World(lambda now: conditions_at(now, temperature_c={"cpu-thermal": 70.0 - now / 4, "battery": 80.0}))
    passed = world.gate(Limits(max_temperature_c=60.0, max_load=0.1)).wait("round 1")
    assert hottest(passed.conditions) == ("cpu-thermal", pytest.approx(60.0, abs=0.6))
    assert passed.waited_s == pytest.approx(40, abs=3)
    assert world.told
    assert all("cpu-thermal is at" in event.detail and event.total == 300 for event in world.told)


def test_a_busy_device_is_waited_for_and_the_load_is_counted_not_guessed() -> None:
    def at(now: float) -> Conditions:
        base = round(min(now, 30) * 400)
        ticks = round(now * 400)
        return msgspec.structs.replace(CALM, busy_ticks=1000 + base, cpu_ticks=10_000 + ticks)

    world = World(at)
    passed = world.gate(Limits(max_load=0.1)).wait("round 1")
    assert 30 <= passed.waited_s <= 36
    assert any("100% of its CPU time" in event.detail for event in world.told)


def test_a_device_that_never_cools_is_given_up_with_a_clear_message() -> None:
    world = World(lambda now: conditions_at(now, temperature_c={"soc-thermal": 71.2}, thermal_status=3))
    with pytest.raises(NotReadyError) as caught:
        world.gate(Limits(max_temperature_c=60.0), wait_s=120).wait("model w4, round 3")
    message = str(caught.value)
    assert caught.value.exit_code == 12
    assert "before model w4, round 3: after 120 s soc-thermal is at 71.2 °C (limit 60.0)" in message
    assert "status 3 of 6" in message
    assert "Next:" in message
    assert world.now == pytest.approx(120, abs=1)


def test_a_clock_rate_held_below_that_of_the_beginning_is_heat() -> None:
    world = World(lambda now: conditions_at(now, frequency_limit_khz={"policy0": 1_800_000 if now < 20 else 2_400_000}))
    passed = world.gate(Limits(), start=CALM).wait("round 1")
    assert 20 <= passed.waited_s <= 24
    assert "policy0 is held at 1.80 GHz (2.40 when the session began)" in world.told[0].detail


def test_a_calm_device_costs_a_second() -> None:
    world = World(conditions_at)
    assert world.gate(Limits(max_temperature_c=60.0, max_load=0.1)).wait("round 1").waited_s <= 1.5


def test_a_device_that_tells_nothing_holds_nothing_up_and_that_is_said() -> None:
    nothing = Conditions(at="")
    world = World(lambda now: nothing)
    limits = limits_for(Limits(), None, nothing)
    assert limits.max_temperature_c is None
    assert world.gate(limits).wait("round 1").waited_s == 0
    assert {"temperature", "load", "frequency", "governor", "battery", "charger", "free memory"} == set(
        unknown(nothing)
    )


@pytest.mark.parametrize("asked", [Limits(max_temperature_c=50.0), Limits(max_load=0.1)])
def test_a_limit_that_can_never_be_checked_is_refused(asked: Limits) -> None:
    with pytest.raises(UnsupportedError, match="tell"):
        check_told(asked, Conditions(at=""), "adb:x")
    check_told(asked, CALM, "adb:x")


@pytest.mark.parametrize(
    ("before", "now", "share"),
    [
        ((100, 1000), (150, 1100), 0.5),
        ((100, 1000), (90, 1100), None),
        ((100, 1000), (100, 1000), None),
        ((100, 1000), (50, 400), None),
        ((None, None), (150, 1100), None),
        ((100, 1000), (None, None), None),
    ],
)
def test_counters_that_jump_give_no_load(
    before: tuple[int | None, int | None], now: tuple[int | None, int | None], share: float | None
) -> None:
    one, other = (Conditions(at="", busy_ticks=busy, cpu_ticks=ticks) for busy, ticks in (before, now))
    assert busy_share(one, other) == share
    assert busy_share(None, other) is None


def test_a_clock_that_goes_back_does_not_wait_for_ever() -> None:
    world = World(lambda now: conditions_at(now, temperature_c={"cpu": 90.0}))
    jumps = iter([0.0, 5.0, -1000.0, 8.0])
    gate = world.gate(Limits(max_temperature_c=60.0), wait_s=30)
    gate.clock = lambda: next(jumps, 1e6)
    with pytest.raises(NotReadyError):
        gate.wait("round 1")


def test_limits_come_from_the_question_then_the_profile_then_the_beginning() -> None:
    asked, profile = Limits(max_temperature_c=50.0), Limits(max_temperature_c=45.0, max_load=0.3)
    assert limits_for(asked, profile, CALM) == Limits(max_temperature_c=50.0, max_load=0.3)
    assert limits_for(Limits(), profile, CALM) == profile
    found = limits_for(Limits(), None, CALM)
    assert found.max_temperature_c is not None
    assert found.max_temperature_c > 41.0
    assert obstacles(CALM, None, found, CALM) == []


def test_a_recorded_phone_is_read() -> None:
    text = "".join(
        f"=edgekit= {name}\n{body}\n"
        for name, body in (
            ("stat", "cpu  100 0 50 800 25 5 10 10 3 3"),
            ("policies", "khz policy0 1804800\nlimit policy0 1555200\ngovernor policy0 walt\nlimit policy7 -1"),
            ("thermalservice", (RECORDINGS / "dumpsys_thermalservice_samsung_a52_5g_android12.txt").read_text()),
            ("battery", (RECORDINGS / "dumpsys_battery_samsung.txt").read_text()),
        )
    )
    found = conditions.parse(text, "now")
    assert (found.thermal_status, found.plugged, found.charging, found.battery_percent) == (0, True, True, 84)
    assert (found.busy_ticks, found.cpu_ticks) == (175, 1000)
    assert found.frequency_limit_khz == {"policy0": 1555200}
    assert hottest(found) == ("AP", 25.6)
    hot = conditions.parse(text.replace("Thermal Status: 0", "Thermal Status: 4"), "now")
    assert "status 4 of 6" in obstacles(hot, None, Limits())[0]


class OtherSysfs(LocalDevice):
    """This machine with another tree for its /sys."""

    def __init__(self, tree: Path) -> None:
        super().__init__()
        self.tree = tree

    def run(self, argv: list[str], **options: object) -> Completed:  # type: ignore[override]
        return super().run([word.replace("/sys/", f"{self.tree}/") for word in argv], **options)  # type: ignore[arg-type]


def test_a_tree_of_sysfs_is_read_and_followed(tmp_path: Path) -> None:
    files = {
        "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000",
        "devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2400000",
        "devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": "72500",
        "class/thermal/thermal_zone1/type": "broken",
        "class/thermal/thermal_zone1/temp": "n/a",
        "class/hwmon/hwmon0/name": "nvme",
        "class/hwmon/hwmon0/temp1_input": "99000",
        "class/hwmon/hwmon1/name": "k10temp",
        "class/hwmon/hwmon1/temp1_label": "Tctl",
        "class/hwmon/hwmon1/temp1_input": "61000",
        "class/power_supply/BAT0/type": "Battery",
        "class/power_supply/BAT0/capacity": "55",
        "class/power_supply/BAT0/status": "Discharging",
        "class/power_supply/AC/type": "Mains",
        "class/power_supply/AC/online": "0",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    device = OtherSysfs(tmp_path)
    found = conditions.read(device)
    assert found.temperature_c == {"cpu-thermal": 72.5, "k10temp Tctl": 61.0}
    assert found.frequency_limit_khz == {"policy0": 2_400_000}
    assert found.governor == {"policy0": "schedutil"}
    assert (found.battery_percent, found.charging, found.plugged) == (55, False, False)
    assert found.cpu_ticks is None or found.busy_ticks <= found.cpu_ticks

    def cool(seconds: float) -> None:
        (tmp_path / "class/thermal/thermal_zone0/temp").write_text("58000\n")
        (tmp_path / "class/hwmon/hwmon1/temp1_input").write_text("57000\n")

    told: list[ProgressEvent] = []
    gate = Gate(device, Limits(max_temperature_c=60.0), 30.0, found, progress=told.append, sleep=cool)
    assert hottest(gate.wait("round 1").conditions) == ("cpu-thermal", 58.0)
