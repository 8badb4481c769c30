"""Reading onnxruntime's profile: Chrome trace events, microseconds since the session began to profile."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.analysis.operator_calls import Call, Pass
from edgekit.errors import InputError

_NS_PER_US = 1000
_RUN = "model_run"
_KERNEL = "_kernel_time"


class _Arguments(msgspec.Struct):
    op_name: str = ""


class _Event(msgspec.Struct):
    cat: str
    name: str
    ts: int
    dur: int
    args: _Arguments = msgspec.field(default_factory=_Arguments)


_DECODER = msgspec.json.Decoder(list[_Event])


def read_profile(path: Path) -> list[Pass]:
    """All forward passes of a session, in order; a call's key is the node's name.

    Raises:
        InputError: the file is missing, cut short or no such profile.
    """
    try:
        events = _DECODER.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"read {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InputError(f"read {path}: no whole onnxruntime profile ({error})") from error
    # A pass is written when it ends, so after its nodes; sorting puts what contains before what is contained.
    nodes = sorted((event for event in events if event.cat == "Node" and event.dur >= 0), key=lambda event: event.ts)
    passes = sorted(
        (event for event in events if event.name == _RUN and event.dur >= 0), key=lambda event: (event.ts, -event.dur)
    )
    found = []
    at = 0
    for run in passes:
        while at < len(nodes) and nodes[at].ts < run.ts:
            at += 1
        calls = []
        while at < len(nodes) and nodes[at].ts + nodes[at].dur <= run.ts + run.dur:
            node = nodes[at]
            # What surrounds a kernel (fences) is written as events of their own.
            if node.name.endswith(_KERNEL):
                name = node.name.removesuffix(_KERNEL)
                calls.append(Call(name, node.args.op_name or name, node.ts * _NS_PER_US, node.dur * _NS_PER_US))
            at += 1
        found.append(Pass(run.ts * _NS_PER_US, (run.ts + run.dur) * _NS_PER_US, tuple(calls)))
    return found
