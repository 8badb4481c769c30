"""Documentation says what is true: generated parts are up to date, commands and links work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest
from blocks import ROOT, blocks, commands

from edgekit.cli.main import COMMANDS, cli

#: Programs that documented commands may start with; each has its own check, or is not ours to check.
OURS = {"edgekit", "make"}
FOREIGN = {"mvn", "adb", "apt-get", "pip", "export", "python3", "python"}


def test_generated_files_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + "run `make docs`"


def test_the_surveys_tables_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "survey_tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + "run `python tools/survey_tables.py`"


def test_benchmark_tables_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "benchmarks.readme", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + "run `make readme`"


def test_every_documented_program_is_known() -> None:
    programs = {line.split()[0] for block in blocks() for line in block.commands}
    assert programs <= OURS | FOREIGN


@pytest.mark.parametrize("line", commands("edgekit"))
def test_documented_commands_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    if "--help" not in arguments:
        command.make_context(name, arguments)


@pytest.mark.parametrize("line", commands("make"))
def test_documented_targets_exist(line: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert shlex.split(line, comments=True)[1] in targets


def test_every_command_is_documented_outside_the_reference() -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if path.name != "cli.md"
    )
    assert [name for name in COMMANDS if f"edgekit {name}" not in text] == []


def test_links_lead_somewhere() -> None:
    broken = []
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert broken == []


def test_texts_speak_of_the_project_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    forbidden = re.compile("|".join(["/work" + "/", "/tmp" + "/x", r"py" + r"env/versions"]))
    hits = []
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".sh", ".cpp", ".h", ""} and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            hits += [f"{name}: {match[0]}" for match in forbidden.finditer(text)]
    assert hits == []
