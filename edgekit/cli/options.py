"""Options and value types that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgekit.schema.recipe import KvCache

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

#: More values than anybody measures in one session: a mistyped range.
MAX_LIST = 1000

#: Longer than any measurement, and the most that the probe takes.
MAX_DURATION_S = 7 * 24 * 3600.0

#: Far beyond any count that is measured; longer digits are no number to work with.
_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})(?:([+*])([0-9]{1,18}))?")


class IntegerList(click.ParamType[list[int]]):
    """Integers as llama-bench takes them: ``16,32``, ``first-last+step``, ``first-last*factor``."""

    name = "list"

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Parse, keeping the order and dropping repetitions."""
        if isinstance(value, list):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            part = part.strip()
            if _NUMBER.fullmatch(part):
                found.append(int(part))
            elif match := _RANGE.fullmatch(part):
                found += self._range(part, match, param, ctx)
            else:
                self.fail(f"{part!r} is no number, list (16,32) or range (1-8, 16-64+16, 128-1024*2)", param, ctx)
        if any(number < self.minimum for number in found):
            self.fail(f"values must be at least {self.minimum}", param, ctx)
        return list(dict.fromkeys(found))

    def _range(
        self, part: str, match: re.Match[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        first, last, operator, amount = int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1)
        if amount < 1 or (operator == "*" and (amount < 2 or first < 1)):
            self.fail(f"{part!r} never ends", param, ctx)
        values: list[int] = []
        while first <= last:
            values.append(first)
            if len(values) > MAX_LIST:
                self.fail(f"{part!r} has more than {MAX_LIST} values", param, ctx)
            first = first * amount if operator == "*" else first + amount
        if not values:
            self.fail(f"{part!r} is empty", param, ctx)
        return values


class FiniteRange(click.FloatRange):
    """A number between bounds. Click takes NaN for one: it is below no minimum and above no maximum."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse; what is no finite number is refused."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """A time, in seconds: ``90``, ``90s``, ``10m``, ``1.5h``."""

    name = "time"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse; zero and times beyond a week are refused."""
        if isinstance(value, float | int):
            return float(value)
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h)?", str(value).strip())
        seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0.0
        if self.zero and match and seconds == 0:
            return 0.0
        if not 0 < seconds <= MAX_DURATION_S:
            self.fail(f"{value!r} is no time (90s, 10m, 1.5h) of more than 0 and at most a week", param, ctx)
        return seconds


class Share(click.ParamType[float]):
    """A share: ``2%`` or ``0.02``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse; the result lies between 0 and 1."""
        if isinstance(value, float | int):
            return float(value)
        match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,6})?)\s*(%)?", str(value).strip())
        share = float(match[1]) / (100 if match[2] else 1) if match else 2.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is no share between 0 and 1 (2%, 0.02)", param, ctx)
        return share


class ByteSize(click.ParamType[int]):
    """A size in binary units: ``512M``, ``8G``, ``1.5G``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse; less than a MiB is a slip of the finger."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([KMGT])i?B?", str(value).strip(), re.IGNORECASE)
        found = round(float(match[1]) * 1024 ** (" KMGT".index(match[2].upper()))) if match else 0
        if found < 1024**2:
            self.fail(f"{value!r} is no size (512M, 8G) of a MiB or more", param, ctx)
        return found


class NameList(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split, keeping the order and dropping repetitions."""
        if isinstance(value, list):
            return value
        names = [part.strip() for part in str(value).split(",") if part.strip()]
        if not names:
            self.fail("no name given", param, ctx)
        return list(dict.fromkeys(names))


def device_option(function: CallableT) -> CallableT:
    """``--device``: which device to use."""
    return click.option(
        "--device",
        "-s",
        "device",
        metavar="DEVICE",
        envvar="EDGEKIT_DEVICE",
        help="Device: local (default), adb (the only one), adb:SERIAL or adb:HOST:PORT; "
        "where there is no adb server, adb-direct:HOST:PORT or adb-direct:usb.",
    )(function)


def output_option(function: CallableT) -> CallableT:
    """``-o``: the format of a table on standard output."""
    return click.option(
        "--output",
        "-o",
        "output",
        type=click.Choice(["md", "csv", "json", "jsonl", "sql"]),
        default="md",
        show_default=True,
        help="Format of the table on standard output.",
    )(function)


def out_option(default: str, what: str) -> Callable[[CallableT], CallableT]:
    """``--out``: the folder that results are written to."""
    return click.option(
        "--out",
        "out",
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        show_default=True,
        help=f"Folder for {what}.",
    )


def power_options(function: CallableT) -> CallableT:
    """An external power meter, for the energy per token."""
    decorators = [
        click.option(
            "--power-meter",
            type=click.Path(path_type=Path, dir_okay=False),
            help="CSV of an external power meter that saw the whole session.",
        ),
        click.option(
            "--power-offset",
            metavar="SECONDS±ERROR",
            help="Added to the meter's clock [default: found by the edges of the load].",
        ),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


#: How the KV cache is kept.
kv_cache_option = click.option(
    "--kv-cache",
    type=click.Choice(get_args(KvCache)),
    default="float32",
    show_default=True,
    help="How keys and values are kept; int8 makes recipe w4a8 the recipe w4a8-kv8 (executorch).",
)


def source_options(function: CallableT) -> CallableT:
    """What to export: runtime, recipes, context length, revision."""
    decorators = [
        click.option(
            "--runtime",
            type=NameList(),
            default="onnxruntime",
            show_default=True,
            help="Runtimes to export for.",
        ),
        click.option(
            "--quant",
            "-q",
            "recipes",
            type=NameList(),
            default="fp32,w8,w4",
            show_default=True,
            help="Recipes; `edgekit recipes` lists them.",
        ),
        click.option(
            "--context",
            "-c",
            type=click.IntRange(min=2),
            help="Tokens that fit in the KV cache [default: 2048, or what the model allows].",
        ),
        kv_cache_option,
        click.option("--revision", help="Revision of a model from the hub."),
        click.option("--allow-unfaithful", is_flag=True, help="Keep a bundle that fails the gate; recorded in it."),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def measure_options(function: CallableT) -> CallableT:
    """What to measure, named as llama-bench names it."""
    decorators = [
        click.option(
            "--protocol", default="default", show_default=True, help="Named procedure that gives the defaults below."
        ),
        click.option("-p", "--n-prompt", "prompts", type=IntegerList(0), help="Prompt lengths to prefill; 0 for none."),
        click.option("-n", "--n-gen", "generates", type=IntegerList(0), help="Tokens to decode; 0 for none."),
        click.option("-d", "--n-depth", "depths", type=IntegerList(0), help="Tokens already in the cache."),
        click.option("-r", "--repetitions", type=click.IntRange(min=0), help="Samples of each test."),
        click.option(
            "-t",
            "--threads",
            type=IntegerList(1),
            help="Thread counts [default: the cores outside the slowest cluster].",
        ),
        click.option(
            "--gap",
            "gap_s",
            type=FiniteRange(min=0),
            help="Seconds of rest between launches [default: the protocol's].",
        ),
        click.option("--affinity", type=IntegerList(0), help="CPUs to run on [default: left to the scheduler]."),
        click.option("--seed", type=int, help="Seed of prompts and of the order of trials."),
        click.option(
            "--precision",
            type=Share(),
            help="Repeat until every 95% interval is within this share (2%) of its median; -r are the fewest rounds.",
        ),
        click.option(
            "--budget",
            "budget_s",
            type=Duration(),
            help="Repeat, and begin no round that would end after this time (10m).",
        ),
        click.option(
            "--max-repetitions",
            type=click.IntRange(min=1),
            help="The most rounds with --precision or --budget [default: 50].",
        ),
        click.option(
            "--wait",
            "wait_s",
            type=Duration(zero=True),
            help="Let each launch wait this long (5m) for the device to be cool and quiet; 0 never waits.",
        ),
        click.option(
            "--max-temperature",
            "max_temperature_c",
            type=FiniteRange(min=-40, max=150),
            help="Degrees Celsius of the processor to wait for [default: the device profile's].",
        ),
        click.option(
            "--max-load",
            type=Share(),
            help="Share of the CPUs that others may take (10%) before a launch waits.",
        ),
        click.option(
            "--sustain",
            "sustain_s",
            type=Duration(),
            help="After the rounds, decode for this long (10m) without a rest; -r 0 leaves out the rounds.",
        ),
        click.option(
            "--kernels",
            type=click.Choice(["edgekit", "runtime"]),
            help="Operators: ours where they are faster on the device, or the runtime's own [default: edgekit].",
        ),
        click.option(
            "--huge-pages/--no-huge-pages",
            default=None,
            help="Weights in huge pages, where the device has them and the memory [default: yes].",
        ),
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
