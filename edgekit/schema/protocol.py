"""Protocols: named measuring procedures, one TOML file each in ``profiles/protocols/``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import ClassVar, Literal

from edgekit.errors import InputError
from edgekit.resources import profiles_dir
from edgekit.schema.codec import Document, upgrade_and_convert

#: Whose operators run where there are faster ones than the runtime's own: ours, or the runtime's all the same.
Kernels = Literal["edgekit", "runtime"]


class Protocol(Document, frozen=True, kw_only=True):
    """What is measured, how often, and in which order it is drawn.

    Each prompt length gives a prefill test and each generated length a decode test,
    at every depth and thread count.
    """

    SCHEMA_VERSION: ClassVar[int] = 1
    TITLE: ClassVar[str] = "protocol"

    name: str
    title: str
    #: Tokens processed at once (``pp``).
    prompts: list[int]
    #: Tokens decoded one by one (``tg``).
    generates: list[int]
    #: Tokens already in the cache when a test begins.
    depths: list[int]
    #: Samples of each test. Each comes from a launch of its own, in turn with all that it is compared with.
    repetitions: int
    #: Tokens already in the cache when a decode begins; None: as ``depths``. A decode after the prompt has its length.
    decode_depths: list[int] | None = None
    #: Context length of the bundles; one with another is refused. None: whatever they have.
    context: int | None = None
    #: Seconds of rest before each launch but the first, for the device to cool down.
    gap_s: float = 0.0
    #: None: as many threads as the device has cores outside its slowest cluster.
    threads: list[int] | None = None
    #: CPUs the probe may use; None leaves placement to the scheduler.
    affinity: list[int] | None = None
    #: Tokens decoded, untimed, before the first trial of a launch.
    warmup_tokens: int = 8
    #: Samples of the probe's memory per second.
    memory_hz: float = 50.0
    #: Of its proportional memory, of clock rates and temperatures, and of current, voltage and energy. Each sampler
    #: comes less often where it would take more than a small share of one core.
    proportional_hz: float = 1.0
    conditions_hz: float = 4.0
    power_hz: float = 10.0
    seed: int = 0
    #: Rounds go on until the 95% interval of every test reaches no further than this share to either side of its
    #: median; then ``repetitions`` are the fewest. None: not asked.
    precision: float | None = None
    #: Seconds after which no further round is begun; None for no such limit. With neither a budget nor a precision
    #: there are exactly ``repetitions`` rounds.
    budget_s: float | None = None
    #: The most rounds, whatever the precision and the budget.
    max_repetitions: int = 50
    #: Longest time that one launch waits for the device to be cool and quiet, seconds; 0 never waits. None waits only
    #: where a limit is known: one of the two below, or one of the device's profile.
    wait_s: float | None = None
    #: Degrees Celsius, and share of all CPUs' time (0 to 1) taken by others, that a launch waits for.
    max_temperature_c: float | None = None
    max_load: float | None = None
    #: The first round warms up for longer, and the others for as long as that showed to be needed.
    find_warmup: bool = True
    #: Seconds of decoding without a rest, by each bundle and thread count, after the rounds; None for none.
    #: It decodes the longest of ``generates`` over and over on the first of ``depths``.
    sustain_s: float | None = None
    #: ``edgekit`` asks for our kernels; each load's event says what really ran.
    kernels: Kernels = "edgekit"
    #: Weights lie in huge pages where the device has them and the memory; each load's event says how much does.
    huge_pages: bool = True
    #: Take the times of single operators, which slows all that is measured.
    profile: bool = False


def protocol_names() -> list[str]:
    """Names of all shipped protocols, sorted."""
    return sorted(path.stem for path in (profiles_dir() / "protocols").glob("*.toml"))


def load_protocol(name: str) -> Protocol:
    """The protocol called ``name``, or the one in the TOML file at that path.

    Raises:
        InputError: no such protocol (the message lists those there are), or a broken file.
    """
    path = Path(name) if name.endswith(".toml") else profiles_dir() / "protocols" / f"{name}.toml"
    if not path.is_file():
        raise InputError(f"no protocol is called {name!r}", hint=f"protocols: {', '.join(protocol_names())}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"read protocol from {path}: {error}") from error
    return upgrade_and_convert(raw, Protocol, origin=str(path))
