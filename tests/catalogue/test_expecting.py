"""What a run is expected to need: whether it fits, what is said of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import edgekit
from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.resident import FAULT_AROUND, Request, looked_up, resident
from edgekit.analysis.configurations import configuration, known_decoder
from edgekit.analysis.estimator.expecting import Expectation, decoder_of_bundle, expect, expected_speed
from edgekit.analysis.metrics import Test
from edgekit.api.expecting import told, without_too_large
from edgekit.errors import InputError, UnsupportedError
from edgekit.progress import ProgressEvent
from edgekit.schema.bundle import Architecture, Bundle, Rope
from edgekit.schema.device_profile import load_device_profile
from edgekit.schema.protocol import load_protocol
from edgekit.schema.recipe import load_recipe
from tests.schema.bundle_making import write_bundle

GIB = 2**30


def expected(
    recipe: str = "w4", *, profile: str | None = "raspberry-pi-5", free: int | None = GIB, **changes: Any
) -> Expectation:
    decoder = decoder_of(configuration("llama-3.2-1b"), origin="test")
    protocol = msgspec.structs.replace(load_protocol("default"), **changes)
    known = load_device_profile(profile) if profile else None
    runtime = "executorch" if recipe == "w4a8" else "onnxruntime"
    return expect(
        decoder,
        load_recipe(recipe),
        runtime,
        protocol,
        context=2048,
        threads=[4],
        profile=known,
        available_bytes=free,
    )


def test_what_cannot_fit_is_told_from_what_may() -> None:
    four, floats = expected("w4", free=2 * GIB), expected("fp32", free=2 * GIB)
    assert (four.fits, floats.fits) == (True, False)
    assert floats.peak is not None
    assert floats.peak.low > 4.3 * GIB
    assert expected("fp32", free=None).fits is None
    assert "DOES NOT FIT: fp32 on onnxruntime" in told([four, floats])
    assert without_too_large([four, floats], ["fp32", "w4"], ["onnxruntime"]) == ["w4"]
    with pytest.raises(UnsupportedError, match="none of the recipes fits") as refusal:
        without_too_large([floats], ["fp32"], ["onnxruntime"])
    assert "--allow-too-large" in str(refusal.value.hint)


def test_times_follow_the_protocol_and_are_not_made_up() -> None:
    assert expected(profile=None).seconds is None
    assert "not known for this device" in told([expected(profile=None)])
    ten, twenty = expected(repetitions=10).seconds, expected(repetitions=20).seconds
    assert ten is not None
    assert twenty is not None
    assert twenty.value == pytest.approx(2 * ten.value)
    assert ten.low < ten.value < ten.high
    longer = expected(repetitions=10, generates=[256]).seconds
    assert longer is not None
    assert longer.value > 1.3 * ten.value
    rested = expected(repetitions=10, gap_s=30.0).seconds
    assert rested is not None
    assert rested.value == pytest.approx(ten.value + 300)


def test_a_lookup_keeps_the_pages_it_touched() -> None:
    assert looked_up(0, 10) == 0
    assert looked_up(600 << 20, 1) == pytest.approx(FAULT_AROUND, rel=0.01)
    assert looked_up(8 << 20, 10_000) == pytest.approx(8 << 20, rel=0.01)
    decoder = decoder_of(configuration("llama-3.2-1b"), origin="test")
    parts = [
        resident(decoder, load_recipe("fp32"), "onnxruntime", Request(2048, 128, filled, filled))
        for filled in (128, 2048)
    ]
    assert parts[1].weights_file > parts[0].weights_file
    assert parts[1].kv_cache > 10 * parts[0].kv_cache


@pytest.mark.parametrize("name", ["llama-3.2-1b", "smollm2-135m", "qwen3-0.6b", "pythia-160m", "opt-125m"])
def test_a_bundles_facts_give_its_decoder_back(name: str, tmp_path: Path) -> None:
    decoder = decoder_of(configuration(name), origin=name)
    attention = decoder.layers[0].attention
    assert attention is not None
    shape = Architecture(
        family=decoder.model_type,
        layers=len(decoder.layers),
        hidden=decoder.hidden,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        ffn=next(matrix.rows for matrix in decoder.layers[0].matrices if matrix.name == "up"),
        vocab=decoder.vocabulary,
        max_position=2048,
        parameters=decoder.parameters,
        tied_embedding=decoder.tied,
        activation=decoder.activation,
        norm_eps=1e-5,
        rope=Rope(theta=1e4, rotary_dim=decoder.rotary_dim) if decoder.rotary_dim else None,
    )
    bundle = msgspec.structs.replace(write_bundle(tmp_path), architecture=shape)
    found = decoder_of_bundle(bundle)
    assert found is not None
    assert found.gated == decoder.gated
    assert sum(matrix.elements for matrix in found.linears) == sum(matrix.elements for matrix in decoder.linears)
    wrong: Bundle = msgspec.structs.replace(
        bundle, architecture=msgspec.structs.replace(shape, parameters=2 * shape.parameters)
    )
    assert decoder_of_bundle(wrong) is None


def test_an_expected_speed_lies_inside_its_interval_and_falls_with_depth() -> None:
    decoder = decoder_of(configuration("llama-3.2-1b"), origin="test")
    profile = load_device_profile("raspberry-pi-5")
    speeds = []
    for depth in (0, 1024):
        test = Test(threads=4, kind="decode", tokens=64, depth=depth)
        speed, rates = expected_speed(decoder, load_recipe("w4"), "onnxruntime", test, profile)
        assert speed.low < speed.value < speed.high
        assert not speed.holds(speed.high * 1.01)
        assert "bandwidth" in rates.source
        speeds.append(speed.value)
    assert speeds[1] < speeds[0]


def test_a_source_that_must_be_opened_first_is_not_guessed(tmp_path: Path) -> None:
    assert known_decoder("someone/some-model") is None
    assert known_decoder(str(tmp_path / "model.gguf")) is None
    assert known_decoder("llama-3.2-1b") is not None


def test_a_run_says_what_it_expects_and_refuses_before_it_exports(tmp_path: Path) -> None:
    heard: list[ProgressEvent] = []
    with pytest.raises(UnsupportedError, match="none of the recipes fits"):
        edgekit.run(
            "arch:llama-3.2-3b:layers=400",
            recipes=["fp32"],
            bundles=tmp_path / "bundles",
            out=tmp_path / "runs",
            progress=heard.append,
        )
    assert [event.stage for event in heard] == ["estimate"]
    assert "DOES NOT FIT" in heard[0].detail
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no recipe"):
        edgekit.run("smollm2-135m", recipes=["w5"], bundles=tmp_path / "b", out=tmp_path / "r")
