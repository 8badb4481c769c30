"""What comes from a device is untrusted: no path leaves its folder, nothing acts on a screen, a shell or a page."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from board import Board
from phone import phone
from userland import SYSTEMS, Userland, install

import edgekit
from edgekit.cli.main import _exit_code
from edgekit.deploy.store import Store, StoreFile
from edgekit.device.base import Device
from edgekit.errors import DeviceFailedError, EdgekitError, InputError
from edgekit.probing import recovery
from edgekit.schema import codec
from edgekit.schema.run import Run

pytestmark = pytest.mark.board

#: Text that a terminal, a page or a shell would act upon.
EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m<script>alert(1)</script><img src=x onerror=alert(2)>$(touch /tmp/owned)`id`';\"|&"
)


def file(folder: Path, name: str, data: bytes) -> StoreFile:
    (folder / name).write_bytes(data)
    return StoreFile(name, folder / name, len(data), hashlib.sha256(data).hexdigest())


def unsafe(text: str) -> list[str]:
    return [letter for letter in text if (ord(letter) < 32 and letter not in "\n\t\r") or 127 <= ord(letter) < 160]


def test_names_and_properties_never_act(
    exported: Path, adb_environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("ro.product.model", "ro.soc.model", "ro.build.version.release", "ro.board.platform")
    properties = dict.fromkeys(names, EVIL)
    sensor = f"Temperature{{mValue=30.0, mType=0, mName={EVIL}, mStatus=0}}"
    services = {"thermalservice": f"Current temperatures from HAL:\n\t{sensor}\n"}
    with phone(tmp_path / "phone", "oneplus12", properties=properties, services=services) as board:
        device = f"adb:{board.serial}"
        few = {"prompts": [8], "generates": [4], "repetitions": 2, "threads": [1]}
        runs = edgekit.probe([exported / "tiny-onnxruntime-w4"], device=device, out=tmp_path / "runs", **few)
        for command in (["devices"], ["doctor", "--device", device, "--report", str(tmp_path / "facts.txt")]):
            for output in ("md", "csv", "json"):
                assert _exit_code([*command, "-o", output]) == 0
        assert board.execute(["ls", "/tmp/owned"], check=False).returncode != 0
    assert _exit_code(["compare", *map(str, runs)]) == 0
    assert _exit_code(["query", "SELECT * FROM runs", str(tmp_path / "runs")]) in (0, 2)
    captured = capsys.readouterr()
    assert "alert(1)" in captured.out  # it is shown, as text
    assert unsafe(captured.out + captured.err + (tmp_path / "facts.txt").read_text()) == []
    page = edgekit.report(runs, out=tmp_path / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert unsafe(page) == []


@pytest.fixture
def left_run(exported: Path, x86_board: Board, tmp_path: Path) -> tuple[Device, str]:
    """A run that lies on a device, in a store of its own."""
    device = x86_board.device(f"/data/local/tmp/{tmp_path.name}")
    few = {"prompts": [8], "generates": [4], "repetitions": 1, "threads": [1]}
    [run] = edgekit.probe([exported / "tiny-onnxruntime-w4"], device="local", out=tmp_path / "made", **few)
    remote = f"{recovery.runs_dir(device)}/{run.name}"
    for path in run.rglob("*"):
        if path.is_file():
            device.push(path, f"{remote}/{path.relative_to(run).as_posix()}")
    return device, run.name


def test_no_path_leaves_its_folder_on_pull(left_run: tuple[Device, str], tmp_path: Path) -> None:
    device, name = left_run
    runs = recovery.runs_dir(device)
    out = tmp_path / "out" / "runs"
    # Names that lead elsewhere, or look like two.
    for evil in ("..", "a\n../../evil", "-rf", ".hidden", "x" * 250, "\x1b[2J", f"{name}\n{name}"):
        if evil != "..":
            device.run(["mkdir", "-p", f"{runs}/{evil}/launches"])
    device.run(["mkdir", "-p", f"{runs}/{name}/launches/..x", f"{runs}/{name}/launches/001\n../../002"])
    # A manifest whose launches lie elsewhere.
    document = codec.read(tmp_path / "made" / name / "run.json", Run)
    launches = [
        msgspec.structs.replace(document.launches[0], directory=where)
        for where in ("../../../../etc", "/etc", "launches/../../x", "launches/000\n")
    ]
    (tmp_path / "run.json").write_bytes(codec.encode(msgspec.structs.replace(document, launches=launches)))
    device.push(tmp_path / "run.json", f"{runs}/{name}/run.json")
    assert recovery.list_runs(device).count(name) >= 1
    [pulled] = recovery.pull_runs(device, out, only=name, keep=True)
    assert pulled == out / name
    inside = {path.relative_to(tmp_path / "out").parts[:2] for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert inside == {("runs", name)}
    kept = codec.read(pulled / "run.json", Run)
    assert kept.launches
    assert all(launch.directory.startswith("launches/0") and len(launch.directory) == 12 for launch in kept.launches)
    device.run(["rm", "-rf", device.root])


def test_what_is_too_much_is_not_pulled(
    left_run: tuple[Device, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, name = left_run
    monkeypatch.setattr(recovery, "MAX_RUN_BYTES", 10_000)
    with pytest.raises(InputError, match="the run has more than"):
        recovery.pull_runs(device, tmp_path / "out", only=name)
    monkeypatch.undo()
    manifest = f"{recovery.runs_dir(device)}/{name}/run.json"
    device.run(["sh", "-c", 'head -c 100000000 /dev/zero >"$1"', "sh", manifest])
    with pytest.raises(InputError, match="is more than such a file has"):
        recovery.pull_runs(device, tmp_path / "out", only=name)
    # A file that says it is small and never ends.
    device.run(["sh", "-c", 'rm "$1"; ln -s /dev/zero "$1"', "sh", manifest])
    with pytest.raises(EdgekitError, match="not a file"):
        recovery.pull_runs(device, tmp_path / "out", only=name)
    assert not (tmp_path / "out" / name).exists()
    device.run(["rm", "-rf", device.root])


def test_a_run_that_is_broken_keeps_no_other_from_being_pulled(left_run: tuple[Device, str], tmp_path: Path) -> None:
    device, name = left_run
    runs = recovery.runs_dir(device)
    plant = """
    mkdir -p "$1/0-begun" "$1/0-cut/launches/000" "$1/0-endless/launches/000"
    head -c 100 "$1/$2/run.json" >"$1/0-cut/run.json"
    ln -s /dev/zero "$1/0-endless/run.json"
    """
    assert device.run(["sh", "-c", plant, "sh", runs, name]).exit_code == 0
    with pytest.raises(InputError, match="pull 2 of 4 runs; the other 1 ") as caught:
        recovery.pull_runs(device, tmp_path / "out")
    assert "0-cut: " in str(caught.value)
    assert "0-endless: " in str(caught.value)
    assert codec.read(tmp_path / "out" / name / "run.json", Run).launches
    # What was fetched is gone there, and so is what a host began and never measured; what is broken is left.
    assert sorted(recovery.list_runs(device)) == ["0-cut", "0-endless"]
    device.run(["rm", "-rf", device.root])


@pytest.mark.parametrize("system", ["debian", *SYSTEMS])
def test_another_user_of_the_device_cannot_poison_the_store(x86_board: Board, tmp_path: Path, system: str) -> None:
    device = Userland(
        x86_board.device(f"/tmp/{tmp_path.name}"), install(x86_board, system) if system in SYSTEMS else None
    )
    # /tmp is everybody's, as some boards' only writable place is.
    other = ["/usr/bin/setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    files = [file(tmp_path, "weights", os.urandom(100_000)), file(tmp_path, "model", b"graph")]
    placed = Store(device).place("bundles", files)
    for target in (f"{placed.directory}/weights", f"{device.root}/objects/{files[0].sha256}", f"{device.root}/stamps"):
        for attack in ('echo X >>"$1"', 'rm -rf "$1"', 'mv "$1" "$1.away"', 'cat "$1"'):
            assert x86_board.execute([*other, "/bin/sh", "-c", attack, "sh", target], check=False).returncode != 0
    assert Store(device).place("bundles", files).bytes_sent == 0

    # Left open by an older version: whatever the stamps say, everything is read again.
    device.plain.run(["chmod", "-R", "a+rwX", device.root])
    forge = 'echo poison >"$1"; stat -c "%i %s %y %z" "$1" >"$2"'
    stamps = [f"{device.root}/stamps/{files[0].sha256}"]
    x86_board.execute([*other, "/bin/sh", "-c", forge, "sh", f"{device.root}/objects/{files[0].sha256}", *stamps])
    healed = Store(device).place("bundles", files)
    assert healed.bytes_sent == len(files[0].local.read_bytes())
    assert device.run(["cat", f"{healed.directory}/weights"]).stdout == files[0].local.read_bytes()
    assert device.run(["stat", "-c", "%a", device.root]).stdout == b"700\n"
    device.run(["rm", "-rf", device.root])

    # And what he put there to write to it later on is not used.
    placed = Store(device).place("bundles", files)
    device.plain.run(["chmod", "-R", "a+rwX", device.root])
    plant = 'cd "$1" && mv objects away && mkdir -m 777 objects && rm -rf runtimes && ln -s /tmp runtimes'
    x86_board.execute([*other, "/bin/sh", "-c", plant, "sh", device.root])
    assert Store(device).place("bundles", files).bytes_sent == 0
    told = device.plain.run(["stat", "-c", "%F %u %a", f"{device.root}/objects", f"{device.root}/runtimes"])
    assert told.stdout == b"directory 0 700\n" * 2
    assert device.plain.run(["find", device.root, "-type", "d", "-perm", "/022"]).stdout.split() == []
    device.run(["rm", "-rf", device.root])

    # Made by another user before us, it is his.
    x86_board.execute([*other, "/bin/sh", "-c", 'mkdir -m 777 "$1"', "sh", device.root])
    with pytest.raises(DeviceFailedError, match="ask for the store") as caught:
        Store(device).place("bundles", files)
    assert "belongs to another user" in str(caught.value)
    assert "EDGEKIT_DEVICE_ROOT" in (caught.value.hint or "")
    device.run(["rm", "-rf", device.root])


def test_a_bundle_whose_names_are_shell_words(
    x86_board: Board, tmp_path: Path, new_board: Callable[..., Board]
) -> None:
    device = x86_board.device(f"/data/local/tmp/{tmp_path.name} $(touch owned);`id`'\"")
    names = ["$(touch owned)", "`id`;rm -rf x", "-rf", "a b", "'; echo x", "new $HOME"]
    files = []
    for number, name in enumerate(names):
        made = file(tmp_path, f"f{number}", name.encode())
        files.append(StoreFile(name, made.local, made.bytes, made.sha256))
    placed = Store(device).place("bundles", files)
    for name in names:
        assert device.run(["cat", f"{placed.directory}/{name}"]).stdout == name.encode()
    assert device.run(["find", "/data/local/tmp", "/tmp", "-name", "owned"]).stdout == b""
    device.run(["rm", "-rf", device.root])
