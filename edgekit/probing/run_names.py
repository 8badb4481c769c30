"""Names of runs: what they are made of, and how they are told from anything else in a folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from edgekit.probing.run_writer import now
from edgekit.schema.bundle import Bundle

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def session_name() -> str:
    """A new name for a session: the time, and letters that keep two hosts apart."""
    return f"{now()[:19].replace(':', '')}-{secrets.token_hex(3)}"


def run_names(session: str, bundles: Sequence[Bundle]) -> list[str]:
    """One name per bundle; one measured beside itself, or beside a namesake, gets a number."""
    found: list[str] = []
    for bundle in bundles:
        plain = f"{session}-{_slug(bundle.model)}-{bundle.runtime.name}-{_slug(bundle.recipe.name)}"
        number = 1
        while (name := plain if number == 1 else f"{plain}-{number}") in found:
            number += 1
        found.append(name)
    return found


def is_run_name(name: str) -> bool:
    """Whether a run may be called so; what is called otherwise is not ours."""
    return _RUN_NAME.fullmatch(name) is not None


def _slug(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"
