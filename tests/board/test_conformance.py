"""What every device must do, asked of this machine and of a real adbd alike."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import board as boards
import pytest
from board import Board
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from usb_pipe import Phone, plug_in

from edgekit.device import adbd, adbd_shell, local
from edgekit.device.adb import AdbDevice
from edgekit.device.adb_direct import DirectDevice
from edgekit.device.base import Device
from edgekit.device.discover import resolve
from edgekit.device.local import LocalDevice
from edgekit.errors import DeviceFailedError, HostStorageError, InputError
from edgekit.progress import ProgressEvent

MIB = 1 << 20
#: Seconds to sleep that no other process on this machine sleeps, so that ours can be found.
LONG = str(1_000_000 + os.getpid())


@pytest.fixture(
    params=[
        "local",
        pytest.param("x86_board", marks=pytest.mark.board),
        pytest.param("x86_board-direct", marks=pytest.mark.board),
        pytest.param("x86_board-usb", marks=[pytest.mark.board, pytest.mark.slow]),
        pytest.param("x86_board-server elsewhere", marks=pytest.mark.board),
        pytest.param("arm_board", marks=pytest.mark.board),
    ]
)
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Device]:
    if request.param == "local":
        yield LocalDevice(tmp_path / "root")
        return
    name, _, way = request.param.partition("-")
    board = request.getfixturevalue(name)
    if way == "server elsewhere":
        yield request.getfixturevalue("behind_another_host")
        return
    if way:
        if way == "usb":
            pytest.importorskip("usb1", reason="NO USB, NOT TESTED: the extra `usb` is not installed")
            plug_in(request.getfixturevalue("monkeypatch"), Phone(board.host, boards.ADBD_PORT))
        made = DirectDevice("usb" if way == "usb" else board.serial)
        yield made
        made.close()
        return
    yield board.device()


@pytest.fixture(scope="session")
def behind_another_host(x86_board: Board, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that only the adb server of another host knows, found as a user finds it."""
    with boards.adb_server_on(x86_board, tmp_path_factory.mktemp("server")) as variables:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            found = resolve("adb:127.0.0.1:5555")
        assert isinstance(found, AdbDevice)
        assert found.server.host == x86_board.host
        yield found


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait as long as a real probe may need to end."""
    for module in (local, adbd, adbd_shell):
        monkeypatch.setattr(module, "TERMINATION_GRACE_S", 0.5)


@pytest.fixture
def place(device: Device) -> Iterator[str]:
    """A folder on the device for one test."""
    folder = f"{device.root}/test"
    assert device.run(["mkdir", "-p", folder]).exit_code == 0
    yield folder
    assert device.run(["rm", "-rf", folder]).exit_code == 0


def test_names_and_facts(device: Device) -> None:
    assert isinstance(device, Device)
    assert device.name == "local" or device.name.startswith(
        ("adb:10.77.", "adb:127.0.0.1", "adb-direct:10.77.", "adb-direct:usb")
    )
    assert device.root.startswith("/")


@pytest.mark.parametrize("code", [0, 1, 7, 126, 255])
def test_exit_codes(device: Device, code: int) -> None:
    assert device.run(["sh", "-c", f"exit {code}"]).exit_code == code


def test_a_signal_is_128_more(device: Device) -> None:
    assert device.run(["sh", "-c", "kill -KILL $$"]).exit_code == 128 + 9


def test_what_does_not_exist_and_what_may_not_run(device: Device, place: str) -> None:
    missing = device.run(["edgekit-no-such-command"])
    assert missing.exit_code == 127
    assert b"edgekit-no-such-command" in missing.stderr
    assert device.run(["sh", "-c", "true"], cwd=f"{place}/missing").exit_code == 125
    device.run(["touch", f"{place}/data"])
    assert device.run([f"{place}/data"]).exit_code == 126


def test_standard_error_is_separate(device: Device) -> None:
    done = device.run(["sh", "-c", "echo out; echo err >&2; echo out"])
    assert (done.stdout, done.stderr) == (b"out\nout\n", b"err\n")


def test_bytes_pass_unchanged_both_ways(device: Device) -> None:
    data = bytes(range(256)) * 64 + b"\r\n\n\r\0"
    assert device.run(["cat"], stdin=data).stdout == data
    assert device.run(["sh", "-c", "cat >&2"], stdin=data).stderr == data


def test_without_input_there_is_an_end(device: Device) -> None:
    assert device.run(["cat"]).stdout == b""


def test_input_that_nobody_reads_does_no_harm(device: Device) -> None:
    assert device.run(["true"], stdin=b"x" * MIB).exit_code == 0


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "a b",
        "$HOME",
        "`id`",
        "$(id)",
        "'",
        '"',
        "\\",
        "a\nb",
        "*",
        "~",
        "!",
        "#x",
        "-n",
        ";rm",
        "&",
        "|",
        "ü→🙂",
        "\t",
        "%s",
    ],
)
def test_arguments_arrive_as_they_are(device: Device, argument: str) -> None:
    assert device.run(["printf", "%s|", "first", argument]).stdout == b"first|" + argument.encode() + b"|"


#: A request is at most 64 KiB, and quoting makes it longer.
anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, max_size=40), anything)
def test_any_arguments_arrive_as_they_are(device: Device, arguments: list[str], value: str) -> None:
    # printf repeats its format; NUL is in no argument, so it stands between them.
    script = 'printf "%s\\0" "$EDGEKIT_ANY" "$@"'
    done = device.run(["sh", "-c", script, "sh", *arguments], env={"EDGEKIT_ANY": value})
    assert done.stdout.split(b"\0")[:-1] == [text.encode() for text in (value, *arguments)]


def test_environment_and_working_directory(device: Device, place: str) -> None:
    done = device.run(["sh", "-c", "echo $EDGEKIT_A; pwd"], env={"EDGEKIT_A": "it's $HOME"}, cwd=place)
    assert done.stdout.decode() == f"it's $HOME\n{place}\n"


def test_large_output_arrives_whole(device: Device) -> None:
    size = 8 * MIB
    done = device.run(["head", "-c", str(size), "/dev/zero"])
    assert done.stdout == bytes(size)


def test_output_without_end_is_stopped(device: Device) -> None:
    with pytest.raises(DeviceFailedError, match="MiB of output"):
        device.run(["yes", LONG], timeout=120)
    assert not running(device, f"yes {LONG}")


def test_a_late_command_is_killed(device: Device) -> None:
    with pytest.raises(DeviceFailedError, match="not done after") as caught:
        device.run(["sleep", LONG], timeout=0.5)
    assert caught.value.device == device.name
    assert not running(device, f"sleep {LONG}")


def test_a_late_command_that_ignores_the_polite_signal_is_killed(device: Device, short_grace: None) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceFailedError, match="not done after"):
        device.run(["sh", "-c", f"trap '' TERM; : {LONG}; while true; do sleep 0.2; done"], timeout=0.5)
    # Bounded: the deadline, the grace, and some way to go on a busy machine.
    assert time.monotonic() - started < 30
    assert not running(device, f": {LONG}")


def test_a_stream_arrives_while_it_runs(device: Device) -> None:
    pieces: list[tuple[float, bytes]] = []
    done = device.stream(
        ["sh", "-c", "echo one; sleep 1; echo two; echo err >&2; exit 3"],
        on_stdout=lambda piece: pieces.append((time.monotonic(), piece)),
        timeout=30,
    )
    assert b"".join(piece for _, piece in pieces) == b"one\ntwo\n"
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"", b"err\n")
    assert pieces[-1][0] - pieces[0][0] > 0.5


def test_cancelling_lets_the_command_say_goodbye(device: Device) -> None:
    cancel = threading.Event()
    output = bytearray()

    def hear(piece: bytes) -> None:
        output.extend(piece)
        cancel.set()

    done = device.stream(
        ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.1; done"],
        on_stdout=hear,
        timeout=60,
        cancel=cancel,
    )
    assert bytes(output) == b"ready\nbye\n"
    assert done.exit_code == 5


def test_cancelling_what_does_not_listen_kills_it_and_its_children(device: Device, short_grace: None) -> None:
    cancel = threading.Event()
    done = device.stream(
        ["sh", "-c", f"trap '' TERM; echo ready; sleep {LONG} & while true; do sleep 0.2; done"],
        on_stdout=lambda piece: cancel.set(),
        timeout=60,
        cancel=cancel,
    )
    assert done.exit_code == 128 + 9
    assert not running(device, f"sleep {LONG}")


def test_a_caller_that_fails_leaves_nothing_running(device: Device) -> None:
    def fail(piece: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device.stream(["sh", "-c", f"echo ready; exec sleep {LONG}"], on_stdout=fail, timeout=60)
    assert not running(device, f"sleep {LONG}")


def test_only_the_end_of_a_long_standard_error_is_kept(device: Device) -> None:
    done = device.stream(
        ["sh", "-c", "head -c 2000000 /dev/zero | tr '\\0' x >&2; echo last words >&2"],
        on_stdout=lambda piece: None,
        timeout=60,
    )
    assert done.stderr.endswith(b"last words\n")
    assert len(done.stderr) < 600_000


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 30 * MIB + 3])
def test_files_arrive_byte_for_byte(device: Device, place: str, tmp_path: Path, size: int) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(os.urandom(size))
    told: list[ProgressEvent] = []
    device.push(there, f"{place}/deep/er/file", progress=told.append)
    found = device.stat(f"{place}/deep/er/file")
    assert found is not None
    assert (found.kind, found.size) == ("file", size)
    device.pull(f"{place}/deep/er/file", back, progress=told.append)
    assert back.read_bytes() == there.read_bytes()
    assert [(event.done, event.total) for event in told if event.done == size] >= [(size, size)] * 2
    assert {event.unit for event in told} == {"bytes"}
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ü→🙂",
        "quo'te\"s",
        "$HOME",
        "com,ma,33188",
        "-dash",
        "new\nline",
        "*",
        "x" * 240,
        "\x1b[31m",
        "\udcff\udcfe",
    ],
)
def test_odd_file_names(device: Device, place: str, tmp_path: Path, name: str) -> None:
    content = os.fsencode(name)
    (tmp_path / "f").write_bytes(content)
    device.push(tmp_path / "f", f"{place}/{name}")
    assert device.run(["cat", f"{place}/{name}"]).stdout == content
    device.pull(f"{place}/{name}", tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == content


def test_paths_up_to_what_adb_allows(device: Device, place: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"deep")
    path = f"{place}/" + "d" * (200 - len(place))
    while len(path) < 900:
        path += "/" + "d" * 99
    device.push(tmp_path / "f", path)
    device.pull(path, tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == b"deep"
    with pytest.raises(DeviceFailedError, match=r"longer than|too long"):
        device.push(tmp_path / "f", path + "/e" * 2000)


def test_a_copy_that_is_late_ends(device: Device, place: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(20 * MIB))
    with pytest.raises(DeviceFailedError, match="not done after"):
        device.push(tmp_path / "f", f"{place}/f", timeout=0.001)
    device.push(tmp_path / "f", f"{place}/f")
    with pytest.raises(DeviceFailedError, match="not done after"):
        device.pull(f"{place}/f", tmp_path / "g", timeout=0.001)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["f"]


@pytest.mark.parametrize("mib", [1, 20])
def test_a_copy_that_was_cut_takes_nothing_from_the_next(device: Device, place: str, tmp_path: Path, mib: int) -> None:
    """adbd removes what it could not finish when it sees that nobody sends any more: by then the next has begun."""
    data = os.urandom(mib * MIB)
    (tmp_path / "f").write_bytes(data)
    for attempt in range(10):
        with suppress(DeviceFailedError):
            device.push(tmp_path / "f", f"{place}/f", timeout=0.001 * (attempt % 3 + 1))
        device.push(tmp_path / "f", f"{place}/f")
        found = device.stat(f"{place}/f")
        assert found is not None, f"attempt {attempt}"
        assert found.size == len(data)


def test_stat(device: Device, place: str) -> None:
    assert device.stat(f"{place}/missing") is None
    assert device.stat("/etc/hostname/below-a-file") is None
    device.run(["sh", "-c", 'mkdir "$1/d"; echo 12345 >"$1/f"; chmod 750 "$1/f"; ln -s f "$1/l"', "sh", place])
    directory, file, link = (device.stat(f"{place}/{name}") for name in "dfl")
    assert directory is not None
    assert directory.kind == "directory"
    assert file is not None
    assert (file.kind, file.size, file.mode) == ("file", 6, 0o750)
    assert link == file
    null = device.stat("/dev/null")
    assert null is not None
    assert null.kind == "other"


def test_failed_copies_leave_nothing(device: Device, place: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        device.push(tmp_path / "missing", f"{place}/f")
    assert device.stat(f"{place}/f") is None
    with pytest.raises(DeviceFailedError):
        device.pull(f"{place}/missing", tmp_path / "f")
    (tmp_path / "file").touch()
    device.push(tmp_path / "file", f"{place}/f")
    with pytest.raises(HostStorageError):
        device.pull(f"{place}/f", tmp_path / "file" / "below-a-file")
    with pytest.raises(DeviceFailedError) as caught:
        device.push(tmp_path / "file", "/proc/edgekit/f")
    assert "/proc/edgekit/f" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_calls_from_several_threads_do_not_meet(device: Device) -> None:
    results: dict[int, bytes] = {}

    def ask(number: int) -> None:
        results[number] = device.run(["sh", "-c", f"sleep 0.2; echo {number}"]).stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: b"%d\n" % number for number in range(8)}


def test_copies_and_commands_at_once_do_not_meet(device: Device, place: str, tmp_path: Path) -> None:
    data = {number: os.urandom(2 * MIB + number) for number in range(4)}
    said: dict[int, int] = {}

    def copy(number: int) -> None:
        (tmp_path / f"{number}.there").write_bytes(data[number])
        device.push(tmp_path / f"{number}.there", f"{place}/{number}")
        device.pull(f"{place}/{number}", tmp_path / f"{number}.back")

    def talk(number: int) -> None:
        said[number] = len(device.run(["head", "-c", str(3 * MIB), "/dev/zero"]).stdout)

    threads = [threading.Thread(target=work, args=(number,)) for number in data for work in (copy, talk)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: (tmp_path / f"{number}.back").read_bytes() for number in data} == data
    assert said == dict.fromkeys(data, 3 * MIB)


def test_both_outputs_may_flood_at_once(device: Device) -> None:
    script = "head -c 3000000 /dev/zero >&2 & head -c 3000000 /dev/zero; wait"
    done = device.run(["sh", "-c", script])
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def running(device: Device, what: str) -> bool:
    """Whether a process whose command line holds ``what`` still runs there a moment later."""
    # The pattern matches no command line that merely holds the pattern, such as its own.
    pattern = f"[{what[0]}]{what[1:]}"
    script = 'grep -l -a -e "$1" /proc/[0-9]*/cmdline 2>/dev/null'
    for _ in range(20):
        lines = device.run(["sh", "-c", script, "sh", pattern.replace(" ", ".")]).stdout.split()
        if not lines:
            return False
        time.sleep(0.25)
    return True
