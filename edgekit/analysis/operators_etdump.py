"""Reading ExecuTorch's ETDump, the flatbuffer that its event tracer writes (``etdump_schema_flatcc.fbs``).

ExecuTorch's own reader comes with PyTorch; this half has none. The few fields a profile needs are read here, every
offset checked: the file comes from a device.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from edgekit.analysis.operator_calls import Call, Pass
from edgekit.errors import InputError

_IDENTIFIER = b"ED00"
#: Slots of the schema's tables, in the order of their fields.
_RUN_DATA = 1
_RUN_NAME, _RUN_EVENTS = 0, 3
_PROFILE_EVENT = 0
_NAME, _INSTRUCTION, _DELEGATE_NAME, _START, _END = 0, 2, 4, 6, 7
#: Names that the runtime gives; a block of this name is one forward pass.
_PASS_BLOCK, _PASS, _KERNEL, _DELEGATE = "Execute", "Method::execute", "OPERATOR_CALL", "DELEGATE_CALL"
#: Tables of one file that may be read: a hostile file can make few bytes stand for many.
_MAX_EVENTS = 50_000_000


class _Buffer:
    """A flatbuffer: tables by position, fields by slot. Raises ``struct.error`` or IndexError beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._strings: dict[int, str] = {}
        self._vtables: dict[int, tuple[int, ...]] = {}

    def number(self, form: str, at: int) -> int:
        if at < 0:
            raise IndexError(at)
        value: int = struct.unpack_from(form, self._data, at)[0]
        return value

    def target(self, at: int) -> int:
        return at + self.number("<I", at)

    def field(self, table: int, slot: int) -> int | None:
        """Position of a table's field, or None where it has its default."""
        place = table - self.number("<i", table)
        slots = self._vtables.get(place)
        if slots is None:
            size = self.number("<H", place)
            slots = struct.unpack_from(f"<{max(size - 4, 0) // 2}H", self._data, place + 4)
            self._vtables[place] = slots
        return table + slots[slot] if slot < len(slots) and slots[slot] else None

    def text(self, table: int, slot: int) -> str | None:
        at = self.field(table, slot)
        if at is None:
            return None
        start = self.target(at)
        if start not in self._strings:
            size = self.number("<I", start)
            raw = self._data[start + 4 : start + 4 + size]
            if len(raw) != size:
                raise IndexError(start)
            self._strings[start] = raw.decode("utf-8", "replace")
        return self._strings[start]

    def tables(self, table: int, slot: int) -> Iterator[int]:
        at = self.field(table, slot)
        if at is None:
            return
        start = self.target(at)
        for index in range(self.number("<I", start)):
            yield self.target(start + 4 + 4 * index)


def read_profile(path: Path) -> list[Pass]:
    """All forward passes since the program was loaded, in order, on the probe's clock.

    A call's key is its instruction's number. Operations inside a delegate come before the call of the delegate itself,
    in the order in which they ran; XNNPACK counts their time in whole microseconds and drops the rest.

    Raises:
        InputError: the file is missing, cut short or no ETDump.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}") from error
    try:
        # The runtime puts the size before it; written otherwise it begins with the root's place.
        start = 4 if data[8:12] == _IDENTIFIER else 0
        if data[start + 4 : start + 8] != _IDENTIFIER:
            raise InputError(f"read {path}: no ETDump of a version this edgekit reads")
        buffer = _Buffer(data)
        blocks = buffer.tables(buffer.target(start), _RUN_DATA)
        return [_read_pass(buffer, block) for block in blocks if buffer.text(block, _RUN_NAME) == _PASS_BLOCK]
    except (struct.error, IndexError, OverflowError, MemoryError) as error:
        raise InputError(f"read {path}: the ETDump is cut short or damaged ({error})") from error


def _read_pass(buffer: _Buffer, block: int) -> Pass:
    calls: list[Call] = []
    names: dict[int, str] = {}
    start = end = 0
    for event in buffer.tables(block, _RUN_EVENTS):
        at = buffer.field(event, _PROFILE_EVENT)
        if at is None:
            continue
        profile = buffer.target(at)
        began, ended = (_number(buffer, profile, slot, "<Q", 0) for slot in (_START, _END))
        instruction = _number(buffer, profile, _INSTRUCTION, "<i", -1)
        name, operation = buffer.text(profile, _NAME), buffer.text(profile, _DELEGATE_NAME)
        taken = max(ended - began, 0)
        if operation is not None:
            # XNNPACK numbers the operations of one name.
            calls.append(Call(str(instruction), operation.partition(" #")[0], began, taken, inside=True))
        elif name == _PASS:
            start, end = began, ended
        elif name == _DELEGATE:
            calls.append(Call(str(instruction), _DELEGATE, began, taken, delegate=True))
        elif name == _KERNEL:
            calls.append(Call(str(instruction), names.get(instruction, _KERNEL), began, taken))
        elif name is not None:
            # The kernel's own event, inside the call.
            names[instruction] = name.removeprefix("native_call_")
        if len(calls) > _MAX_EVENTS:
            raise OverflowError(len(calls))
    return Pass(start, end, tuple(calls))


def _number(buffer: _Buffer, table: int, slot: int, form: str, default: int) -> int:
    at = buffer.field(table, slot)
    return default if at is None else buffer.number(form, at)
