"""Phones, replayed: four recorded ones as the shell user, with Android's shell and tools. All of it says simulated."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from board import Board
from phone import ASLEEP, PHONES, phone

import edgekit
from edgekit.cli.main import _exit_code
from edgekit.deploy.device_doctor import Check, check_device
from edgekit.device import conditions, facts
from edgekit.device.discover import list_devices
from edgekit.schema import codec
from edgekit.schema.run import Run

pytestmark = [
    pytest.mark.board,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="Android's shell and tools are on the amd64 board"),
]

#: Model, chip, Android of each recording.
KNOWN = {
    "oneplus12": ("PJD110", "QTI SM8650", "Android 15 (API 35)"),
    "realme-gt-neo3": ("RMX3560", "Mediatek MT6895", "Android 12 (API 31)"),
    "moto-edge-s30": ("XT2175-2", "QTI SM8350", "Android 12 (API 31)"),
    "moto-g84": ("moto g84 5G", "holi", "Android 16 (API 36)"),
}
#: Values that name one phone and its owner, where phones have them.
PRIVATE = {
    "ro.serialno": "R58M12345AB",
    "ro.boot.serialno": "R58M12345AB",
    "ril.imei": "356938035643809",
    "ro.boot.wifimacaddr": "3C:5A:B4:01:02:03",
    "net.hostname": "annas-phone",
    "persist.sys.account": "anna@example.org",
    "dhcp.wlan0.ipaddress": "192.168.178.23",
    # Somewhere where nobody would look for it.
    "ro.product.model": "Phone of R58M12345AB",
}


@pytest.fixture(scope="module", params=PHONES)
def replayed(
    request: pytest.FixtureRequest, adb_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Board]]:
    with phone(tmp_path_factory.mktemp(request.param), request.param) as made:
        yield request.param, made


def checks(found: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_a_phone_is_listed_by_its_name_and_as_simulated(replayed: tuple[str, Board]) -> None:
    name, board = replayed
    device = board.device()
    model, soc, system = KNOWN[name]
    [listed] = [record for record in list_devices() if record.name == device.name]
    assert (listed.model, listed.soc, listed.os) == (model, soc, system)
    assert listed.temperature_c == 25.6
    assert listed.free_bytes
    assert "simulated" in (listed.advice or "")
    assert name in (listed.advice or "")
    found = facts.gather(device)
    assert found.fidelity == "simulated"
    assert found.clusters[0].name == "Cortex-A55"
    assert device.root == "/data/local/tmp/edgekit"
    felt = conditions.read(device)
    assert (felt.battery_percent, felt.charging, felt.thermal_status) == (84, True, 0)


def test_the_doctor_of_a_phone(replayed: tuple[str, Board]) -> None:
    name, board = replayed
    device = board.device()
    found = check_device(device)
    by_name = checks(found.checks)
    problems = {check.name for check in found.checks if check.state == "problem"}
    assert problems == {"fidelity"}
    assert "the shell user" in by_name["user"].found
    assert by_name["screen"].state == by_name["doze"].state == by_name["battery saver"].state == "ok"
    assert "hard links" in by_name["storage"].found
    assert by_name["battery"].found == "84%, charging"
    assert KNOWN[name][0] in found.report
    assert "simulated" in found.report
    assert board.host not in found.report
    assert device.run(["ls", "-A", "/data/local/tmp"]).stdout in (b"", b"edgekit\n")


def test_a_phone_asleep_and_a_report_without_private_values(
    adb_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services = {
        **ASLEEP,
        "thermalservice": "Thermal Status: 3\nCurrent temperatures from HAL:\n",
        "battery": "level: 12\nscale: 100\n",
    }
    with phone(tmp_path / "phone", "oneplus12", services=services, properties=PRIVATE) as board:
        device = f"adb:{board.serial}"
        assert _exit_code(["doctor", "--device", device, "--report", str(tmp_path / "report"), "-o", "json"]) == 0
    told = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    for name in ("screen", "doze", "battery saver", "battery"):
        assert told[name]["state"] == "problem", name
        assert told[name]["advice"]
    report = (tmp_path / "report").read_text()
    for value in (*PRIVATE.values(), board.serial, board.host):
        assert value not in report
    assert "Phone of <PRIVATE>" in report
    assert "SM8650" in report


def test_what_a_phone_lacks_is_a_problem(adb_environment: dict[str, str], tmp_path: Path) -> None:
    with phone(tmp_path / "phone", "moto-g84", storage_bytes=64 << 20) as board:
        device = board.device()
        assert "make room" in (checks(check_device(device).checks)["storage"].advice or "")
        board.remount("noexec")
        assert "noexec" in checks(check_device(device).checks)["storage"].found
        board.remount("ro")
        assert "cannot be written" in checks(check_device(device).checks)["storage"].found


def test_a_store_of_another_user_is_a_problem(adb_environment: dict[str, str], tmp_path: Path) -> None:
    with phone(tmp_path / "phone", "moto-g84") as board:
        device = board.device()
        make = 'mkdir -m 777 "$1" && chown 1234 "$1"'
        board.execute(["/bin/sh", "-c", make, "sh", device.root])
        found = checks(check_device(device).checks)["storage"]
        assert found.state == "problem"
        assert "belongs to another user" in found.found
        assert "EDGEKIT_DEVICE_ROOT" in (found.advice or "")
        # What it did not make it does not remove.
        assert device.run(["stat", "-c", "%u", device.root]).stdout == b"1234\n"


def test_the_doctor_of_a_plain_board(x86_board: Board) -> None:
    found = check_device(x86_board.device())
    assert found.healthy, [check for check in found.checks if check.state == "problem"]
    assert "screen" not in checks(found.checks)
    assert x86_board.host not in found.report


def test_what_is_measured_on_a_replayed_phone_says_so_everywhere(
    exported: Path, adb_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = [exported / f"tiny-onnxruntime-{recipe}" for recipe in ("fp32", "w4")]
    with phone(tmp_path / "phone", "realme-gt-neo3") as board:
        few = {"prompts": [8], "generates": [4], "repetitions": 3, "threads": [1]}
        runs = edgekit.probe(bundles, device=f"adb:{board.serial}", out=tmp_path / "runs", **few)
        left = board.device().run(["ls", f"{board.device().root}/runs"])
        assert left.stdout.strip() == b""
    for run in runs:
        document = codec.read(run / "run.json", Run)
        assert document.status == "done"
        assert document.device.fidelity == "simulated"
        assert document.device.android["model"] == "RMX3560"
        assert document.launches[0].golden is not None
        assert document.launches[0].golden.passed
    rows = edgekit.compare(runs).rows
    assert rows
    assert all(row.fidelity == "simulated" and row.ratio is None for row in rows)
    assert _exit_code(["compare", *map(str, runs)]) == 0
    assert "simulated" in capsys.readouterr().out
    report = edgekit.report(runs, out=tmp_path / "report.html").read_text(encoding="utf-8")
    assert "simulated" in report
    answer = edgekit.query("SELECT DISTINCT fidelity FROM runs", runs=[tmp_path / "runs"])
    assert "simulated" in str(answer)
