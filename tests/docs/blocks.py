"""Shell blocks of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = re.compile(r"(?:<!-- ci: (?P<mark>\w+) -->\n)?```sh\n(?P<body>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of shell commands; ``mark`` is ``run`` where it is executed as it stands."""

    path: Path
    mark: str | None
    commands: list[str]


def blocks() -> Iterator[Block]:
    """Every shell block of the README and of docs/."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for match in _BLOCK.finditer(path.read_text(encoding="utf-8")):
            body = match["body"].replace("\\\n", " ")
            yield Block(path, match["mark"], [line.strip() for line in body.splitlines() if line.strip()])


def commands(program: str) -> list[str]:
    """Every documented command line that starts with ``program``."""
    return [line for block in blocks() for line in block.commands if line.split()[0] == program]
