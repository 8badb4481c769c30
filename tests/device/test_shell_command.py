"""Quoting: whatever the arguments are, a shell hands them on unchanged."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.device.base import check_remote_path, printable, shell_command
from edgekit.errors import InputError

arguments = st.lists(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(arguments)
def test_any_argument_survives_a_shell(argv: list[str]) -> None:
    # printf repeats its format for each argument; NUL cannot be part of one, so it separates them.
    command = shell_command(["printf", r"%s\0", "first", *argv], None, None)
    output = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    assert output.decode().split("\0")[:-1] == ["first", *argv]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30))
def test_any_value_survives_in_the_environment(value: str) -> None:
    command = shell_command(["printenv", "EDGEKIT_TEST"], None, {"EDGEKIT_TEST": value})
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout.decode() == value + "\n"


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        ([], None),
        ([""], None),
        ("ls -l", None),
        (["-x"], None),
        (["ls", "a\0b"], None),
        (["ls"], {"A=B": "x"}),
        (["ls"], {"": "x"}),
        (["ls"], {"A; rm -rf /": "x"}),
        (["ls"], {"A": "\0"}),
    ],
)
def test_what_no_system_can_run_is_refused(argv: list[str], env: dict[str, str] | None) -> None:
    with pytest.raises(InputError):
        shell_command(argv, None, env)


@pytest.mark.parametrize("path", ["", "relative", "/a/../b", "/..", "/a\0b", "~/x"])
def test_remote_paths_are_absolute_and_plain(path: str) -> None:
    with pytest.raises(InputError):
        check_remote_path(path)


def test_terminal_escapes_of_a_device_do_not_reach_the_screen() -> None:
    assert printable(b"\x1b]0;owned\x07red\x1b[31m\r\nnext\x9b") == "�]0;owned�red�[31m\nnext�"
