"""Whatever a manifest holds, reading it ends in a bundle or in one of our errors."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from bundle_making import write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, UnsupportedError
from edgekit.schema import codec
from edgekit.schema.bundle import MANIFEST, Bundle
from edgekit.schema.integrity import check_bundle, contradictions

with tempfile.TemporaryDirectory() as _scratch:
    _SOUND = codec.encode(write_bundle(Path(_scratch) / "bundle"))
_RAW = msgspec.json.decode(_SOUND)

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner)
)


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in steps:
        found += _places(child, (*path, key))
    return found


_PLACES = _places(_RAW)


def _read(data: bytes) -> Bundle | None:
    try:
        bundle = codec.decode(data, Bundle, origin="fuzz")
    except (InputError, UnsupportedError):
        return None
    contradictions(bundle)
    assert codec.decode(codec.encode(bundle), Bundle, origin="again") == bundle
    return bundle


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert _read(data) is None


@given(_values)
def test_any_json(value: Any) -> None:
    assert _read(msgspec.json.encode(value)) is None


@given(st.integers(0, len(_SOUND) - 2))
def test_any_cut(length: int) -> None:
    assert _read(_SOUND[:length]) is None


@settings(max_examples=300)
@given(st.integers(0, len(_SOUND) - 1), st.integers(0, 255))
def test_any_changed_byte(position: int, value: int) -> None:
    data = bytearray(_SOUND)
    data[position] = value
    _read(bytes(data))


@settings(max_examples=500)
@given(st.sampled_from(_PLACES), _values, st.booleans())
def test_any_edit_by_hand(place: tuple[Any, ...], value: Any, remove: bool) -> None:
    raw = copy.deepcopy(_RAW)
    node = raw
    for step in place[:-1]:
        node = node[step]
    if remove:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    _read(msgspec.json.encode(raw))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40) | st.sampled_from(["../x", "tokenizer", "tokenizer/", "model.onnx", "a" * 5000, "\ud800"]))
def test_any_path_in_the_list_of_files(path: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "bundle"
        write_bundle(directory)
        raw = copy.deepcopy(_RAW)
        raw["files"][1]["path"] = path
        (directory / MANIFEST).write_bytes(json.dumps(raw).encode())
        try:
            check_bundle(directory)
        except InputError:
            assert path != "model.onnx.data"
        else:
            assert path == "model.onnx.data"
