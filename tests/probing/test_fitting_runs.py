"""From bundles to fitted estimates: exported, measured here, fitted into this machine's profile, used by estimates."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import edgekit
from edgekit.cli.main import cli
from edgekit.deploy.toolchain import host_abi
from edgekit.errors import InputError
from edgekit.schema.device_profile import load_device_profile

_SHAPE = "arch:smollm2-135m:heads=2:kv_heads=2:vocab=512:context=128"
SOURCES = [
    f"{_SHAPE}:layers=2:hidden=64:head_dim=32:ffn=128",
    f"{_SHAPE}:layers=4:hidden=64:head_dim=32:ffn=128",
    f"{_SHAPE}:layers=2:hidden=128:head_dim=64:ffn=256",
]
#: Another shape than any that was measured.
OTHER = f"{_SHAPE}:layers=3:hidden=128:head_dim=64:ffn=256"


def test_runs_of_real_bundles_are_fitted_and_estimates_use_them(
    tmp_path: Path, export_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host_abi() is None:
        pytest.skip("the probe runs on Linux only")
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path / "data"))
    bundles = [
        outcome.directory
        for source in SOURCES
        for outcome in edgekit.export(source, recipes=["w8"], out=tmp_path / "bundles", allow_unfaithful=True)
        if outcome.directory is not None
    ]
    assert len(bundles) == len(SOURCES)
    runs = edgekit.probe(
        bundles,
        out=tmp_path / "runs",
        prompts=[8, 32],
        generates=[8],
        repetitions=2,
        threads=[1],
        allow_unfaithful=True,
    )

    # Rates are of a device that is known.
    with pytest.raises(InputError, match="not calibrated"):
        edgekit.fit_profile(runs)
    device = edgekit.calibrate(rounds=2, seconds=1.0, buffer_mib=16, threads=[1]).profile.name
    before = edgekit.estimate(OTHER, device=device, recipe="w8", prompt=32, generated=8, threads=1)
    assert before.rates.source == "the device's bandwidth and arithmetic"
    with pytest.raises(InputError, match="3 different models"):
        edgekit.fit_profile(runs[:2])

    done = CliRunner().invoke(cli, ["calibrate", *map(str, runs), "-o", "json"])
    assert done.exit_code == 0, done.output
    [rates] = load_device_profile(device).fitted
    assert (rates.runtime, rates.threads, rates.models) == ("onnxruntime", 1, len(SOURCES))
    assert rates.tests == sum(len(measured(run)) for run in runs)
    # Every kind of work that these runs had has its rate, and no rate is negative.
    assert {"read int8", "multiply int8", "cache", "attention", "elements", "blocks"} <= set(rates.seconds)
    assert all(value >= 0 for value in rates.seconds.values())

    after = edgekit.estimate(OTHER, device=device, recipe="w8", prompt=32, generated=8, threads=1)
    assert after.rates.source == f"{rates.tests} tests of {rates.models} models on this device, 1 threads"
    for name in ("decode", "time to first token"):
        figure = after.figure(name)
        assert figure.value != before.figure(name).value
        assert 0 < figure.low < figure.value < figure.high
    read = next(term for term in after.figure("decode").terms if term.name == "read int8")
    amount = float(read.how.split()[0])
    assert read.value == pytest.approx(amount * rates.seconds["read int8"], rel=1e-3)
    # The other runtime was not measured: it keeps what the device allows.
    other = edgekit.estimate(OTHER, device=device, recipe="w8", runtime="executorch", prompt=32, generated=8, threads=1)
    assert other.rates.source == before.rates.source
    # A new calibration forgets no fit.
    assert edgekit.calibrate(rounds=2, seconds=1.0, buffer_mib=16, threads=[1]).profile.fitted == [rates]


def measured(run: Path) -> list[str]:
    from edgekit.analysis import metrics
    from edgekit.analysis.load import load_run

    loaded = load_run(run)
    return sorted(
        {
            str(metrics.key_of(trial, data.launch.threads))
            for data in loaded.launches
            for trial, _ in metrics.counted_trials(data)
        }
    )
