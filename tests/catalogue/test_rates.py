"""Rates: what was put into made-up times must come out, and a prediction must not know what it predicts."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from edgekit.analysis.accounting.families import decoder_of
from edgekit.analysis.accounting.formats import formats_of
from edgekit.analysis.accounting.resident import Held, Request, resident
from edgekit.analysis.configurations import configuration
from edgekit.analysis.estimator.amounts import NAMES, amounts
from edgekit.analysis.estimator.fitting import cases_of, fit_rates, left_out, rates_of
from edgekit.analysis.estimator.proof import Prediction
from edgekit.analysis.estimator.proof_runs import leave_one_shape_out, summarize_runs
from edgekit.analysis.estimator.rating import rate_of, share_beyond, time_of
from edgekit.errors import InputError
from edgekit.schema.own_runs import OwnMemory, OwnRow, OwnRuns, OwnTest
from edgekit.schema.recipe import load_recipe

SOURCES = [
    "arch:smollm2-135m:layers=8:vocab=8000",
    "arch:tinyllama-1.1b:layers=2:vocab=16000",
    "arch:qwen2.5-0.5b:layers=4:vocab=12000",
    "arch:amd-llama-135m:layers=8:vocab=8000",
    "arch:qwen3-0.6b:layers=4:vocab=16000",
    "arch:smollm2-360m:layers=5:vocab=32000",
]
#: Seconds for 1e9 bytes, multiply-adds or elements, and for a block.
TRUE = {
    "read float32": 0.05,
    "read int8": 0.06,
    "read int4": 0.08,
    "multiply float32": 0.02,
    "multiply int8": 0.008,
    "multiply int4": 0.01,
    "cache": 0.1,
    "attend": 0.2,
    "attention": 0.03,
    "elements": 0.4,
    "blocks": 60e-6,
    "passes": 90e-6,
    "beyond float32": 0.03,
    "beyond int8": 0.015,
    "beyond int4": 0.005,
    "shared": 0.032,
}


def made_rows(rates: Mapping[str, float], *, noise: float = 0.0, sources: list[str] = SOURCES) -> list[OwnRow]:
    draw = random.Random(3)
    rows = []
    for source in sources:
        decoder = decoder_of(configuration(source), origin=source)
        for recipe in ("fp32", "w8", "w4"):
            formats = formats_of(decoder, load_recipe(recipe), "onnxruntime")
            tests = []
            for kind, tokens, depth in (
                ("prefill", 48, 0),
                ("prefill", 192, 0),
                ("decode", 24, 0),
                ("decode", 24, 384),
            ):
                new, seen = (tokens, depth) if kind == "prefill" else (1, depth + tokens // 2)
                time = time_of(amounts(decoder, formats, "onnxruntime", new=new, depth=seen), rates)
                time *= 1 + draw.uniform(-noise, noise)
                made = {"median_s": time, "low_s": time, "high_s": time, "samples": 3}
                tests.append(OwnTest(kind=kind, tokens=tokens, depth=depth, **made))  # type: ignore[arg-type]
            rows.append(
                OwnRow(
                    source=source,
                    runtime="onnxruntime",
                    recipe=recipe,
                    threads=1,
                    size_bytes=1,
                    kv_cache_bytes=1,
                    kernels=[],
                    load_s=None,
                    tests=tests,
                    memory=None,
                )
            )
    return rows


def test_rates_come_out_as_they_were_put_in() -> None:
    [found] = fit_rates(cases_of(made_rows(TRUE))).values()
    assert set(found) - {"wide"} == set(TRUE)
    assert found["wide"] < 1e-4, "nothing of the kind was put in"
    for name in TRUE:
        assert found[name] == pytest.approx(TRUE[name], rel=0.05)


def test_the_last_cache_is_the_devices_and_not_a_runtimes() -> None:
    """Each runtime and number of threads has its own rates, and all of them the same cache."""
    one = made_rows(TRUE)
    slower_rates = {name: value * 2 for name, value in TRUE.items()} | {"shared": TRUE["shared"]}
    two = [replaced(row, threads=2) for row in made_rows(slower_rates)]
    found = fit_rates(cases_of([*one, *two]))
    assert set(found) == {("onnxruntime", 1), ("onnxruntime", 2)}
    assert {rates["shared"] for rates in found.values()} == {TRUE["shared"]}
    assert found["onnxruntime", 2]["read int8"] == pytest.approx(2 * found["onnxruntime", 1]["read int8"], rel=0.05)


def test_what_the_cache_has_not_got_is_read_from_memory() -> None:
    rates = {"read int8": 0.01, "beyond int8": 0.04, "shared": 0.030}
    assert share_beyond(0.02, 0.03) == 0.0
    assert share_beyond(0.06, 0.03) == 0.5
    assert time_of({"weights": 0.06, "read int8": 0.06}, rates) == pytest.approx(0.06 * 0.01 + 0.03 * 0.04)
    # All small models: a rate beyond the cache comes from the device's memory, and no large model is read for nothing.
    small = [
        "arch:smollm2-135m:layers=2:hidden=64:heads=2:kv_heads=2:head_dim=32:ffn=128:vocab=512",
        "arch:smollm2-135m:layers=4:hidden=64:heads=2:kv_heads=2:head_dim=32:ffn=128:vocab=512",
        "arch:smollm2-135m:layers=2:hidden=128:heads=2:kv_heads=2:head_dim=64:ffn=256:vocab=512",
    ]
    known = {"read float32": 0.09, "read int8": 0.08, "read int4": 0.07}
    [found] = fit_rates(cases_of(made_rows(TRUE, sources=small)), lambda threads: known).values()
    for kind in ("float32", "int8", "int4"):
        assert found[f"read {kind}"] + found[f"beyond {kind}"] >= 0.99 * known[f"read {kind}"]


def replaced(row: OwnRow, **changes: object) -> OwnRow:
    return OwnRow(**{name: getattr(row, name) for name in row.__struct_fields__} | changes)


def test_a_shape_is_predicted_without_having_been_seen() -> None:
    cases = cases_of(made_rows(TRUE))
    for case, value in zip(cases, left_out(cases), strict=True):
        assert value == pytest.approx(case.test.median_s, rel=0.05)
    # One shape measured at three times its time: its own prediction must not move towards it.
    spoilt = [replaced(row, tests=slower(row)) if row.source == SOURCES[0] else row for row in made_rows(TRUE)]
    cases = cases_of(spoilt)
    for case, value in zip(cases, left_out(cases), strict=True):
        if case.source == SOURCES[0]:
            assert value == pytest.approx(case.test.median_s / 3, rel=0.05)


def slower(row: OwnRow) -> list[OwnTest]:
    return [
        OwnTest(**{name: getattr(test, name) for name in test.__struct_fields__} | {"median_s": test.median_s * 3})
        for test in row.tests
    ]


def test_noise_shows_in_the_spread() -> None:
    [quiet] = rates_of(cases_of(made_rows(TRUE)))
    [noisy] = rates_of(cases_of(made_rows(TRUE, noise=0.1)))
    assert quiet.decode_spread < 0.01
    assert 0.03 < noisy.decode_spread < 0.12
    assert (noisy.models, noisy.tests, noisy.threads) == (6, 72, 1)


def test_two_models_say_nothing_of_a_third() -> None:
    with pytest.raises(InputError, match="3 different models"):
        rates_of(cases_of(made_rows(TRUE, sources=SOURCES[:2])))


def test_work_without_a_rate_takes_its_kins() -> None:
    assert rate_of("read int4", {"read int8 dynamic": 2.0, "read float32": 9.0}) == 2.0
    assert rate_of("multiply int8 dynamic", {"multiply int8": 3.0, "read int8": 9.0}) == 3.0
    assert rate_of("cache", {"read int8": 1.0}) == 0.0
    assert rate_of("beyond int4", {"beyond int8": 0.5}) == 0.5
    assert all(name in NAMES for name in TRUE if not name.startswith(("beyond", "shared")))


def test_a_prefill_leaves_out_what_only_the_last_position_needs() -> None:
    decoder = decoder_of(configuration("arch:tinyllama-1.1b:layers=1"), origin="test")
    formats = formats_of(decoder, load_recipe("fp32"), "onnxruntime")
    found = amounts(decoder, formats, "onnxruntime", new=100, depth=0)
    # One layer: only query, key and value are computed for all positions; the rest is read once.
    qkv = (32 + 4 + 4) * 64 * 2048
    rest = 2048 * 2048 + 3 * 2048 * 5632 + 32000 * 2048
    assert found["multiply float32"] == pytest.approx(100 * qkv / 1e9)
    assert found["read float32"] == pytest.approx(4 * rest / 1e9)
    assert found["attention"] == pytest.approx(2 * 2048 * 5050 / 1e9)
    step = amounts(decoder, formats, "onnxruntime", new=1, depth=9)
    assert step["cache"] == pytest.approx(2 * 4 * 64 * 10 * 4 / 1e9)
    # Four heads of keys are read, and each of 32 heads of queries is multiplied with its own copy of them.
    assert step["attend"] == pytest.approx(2 * 32 * 64 * 10 / 1e9)
    assert "attend" not in found
    assert step["read float32"] == pytest.approx(4 * (qkv + rest) / 1e9)


def test_the_proof_of_made_up_runs_is_exact_and_says_so() -> None:
    memory = OwnMemory(
        observed=1,
        peak=200 << 20,
        weights_file=0,
        weights_private=0,
        kv_cache=0,
        activations=0,
        rest=0,
        longest_pass=384,
        filled=408,
        tokens=408,
    )
    rows = [replaced(row, memory=memory) for row in made_rows(TRUE, noise=0.02)]
    data = OwnRuns(
        schema_version=1,
        name="made",
        title="made",
        measured_at="2026-01-01",
        processor="none",
        cpus=1,
        memory_bytes=None,
        versions={},
        context=1024,
        rows=rows,
    )
    found = {item.quantity: item for item in summarize_runs(leave_one_shape_out(data))}
    assert found["decode"].mean_error < 0.03
    assert found["time to first token"].mean_error < 0.03
    assert found["decode"].naive_mean_error > 0.1
    assert found["decode"].coverage > 0.8
    # Two hundred MiB whatever the model is not what a model weighs.
    assert found["memory"].mean_error > 0.2


def test_memory_beside_weights_is_fitted_without_the_shape_that_is_predicted() -> None:
    """Peaks made with known amounts are predicted exactly, and a shape's own peak does not move its prediction."""
    held = Held(process=40e6, layer=0.2e6, live=3.0, live_rounded=5.0)

    def peaks(spoilt: str | None) -> list[OwnRow]:
        rows = []
        for row in made_rows(TRUE):
            decoder = decoder_of(configuration(row.source), origin=row.source)
            request = Request(1024, 384, 408, 408)
            parts = resident(decoder, load_recipe(row.recipe), row.runtime, request, held)
            peak = int((parts.without_process + held.process) * (2 if row.source == spoilt else 1))
            memory = OwnMemory(
                observed=1,
                peak=peak,
                weights_file=0,
                weights_private=0,
                kv_cache=0,
                activations=0,
                rest=0,
                longest_pass=384,
                filled=408,
                tokens=408,
            )
            rows.append(replaced(row, memory=memory))
        return rows

    def predicted(rows: list[OwnRow]) -> dict[tuple[str, str], Prediction]:
        data = OwnRuns(
            schema_version=1,
            name="made",
            title="made",
            measured_at="2026-01-01",
            processor="none",
            cpus=1,
            memory_bytes=None,
            versions={},
            context=1024,
            rows=rows,
        )
        found = leave_one_shape_out(data)
        return {(item.model, item.setting): item for item in found if item.quantity == "memory"}

    honest, spoilt = predicted(peaks(None)), predicted(peaks(SOURCES[0]))
    assert all(abs(item.error) < 0.001 for item in honest.values())
    own = [key for key in honest if key[0] == SOURCES[0].removeprefix("arch:")]
    assert own
    for key in own:
        assert spoilt[key].predicted == pytest.approx(honest[key].predicted)
        assert spoilt[key].error == pytest.approx(-0.5, abs=0.01)
