"""Device profiles: whole, sourced, and possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.schema import device_profile
from edgekit.schema.device_profile import device_names, load_device_profile, value_paths


@pytest.mark.parametrize("name", device_names())
def test_every_value_is_sourced_or_marked_assumed(name: str) -> None:
    profile = load_device_profile(name)
    assert profile.name == name
    assert all(source.strip() for source in profile.provenance.values())
    assert set(profile.assumed) < set(value_paths(profile))
    assert 1 <= profile.fast_cores <= sum(cluster.count for cluster in profile.clusters)
    speeds = [cluster.max_ghz * cluster.int8_per_cycle for cluster in profile.clusters]
    assert speeds == sorted(speeds, reverse=True), "fastest cluster first"


def test_the_common_devices_are_there() -> None:
    assert {"snapdragon-8-gen-3", "tensor-g4", "raspberry-pi-5", "rk3588", "x86-laptop"} <= set(device_names())


def test_an_unknown_device_offers_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_device_profile("snapdragon-8-gen3")
    assert "snapdragon-8-gen-3" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("realistic_gb_s = 10.2", "realistic_gb_s = 20.0"),
        ("realistic_gb_s = 10.2", "realistic_gb_s = -1.0"),
        ("available_share = 0.85", "available_share = 1.5"),
        ('"memory.kind" = ', '"memory.colour" = '),
        ("sizes_gib = [2, 4, 8, 16]", "sizes_gib = []"),
        ("[memory]", "[memory"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (device_profile.profiles_dir() / "devices" / "raspberry-pi-5.toml").read_text()
    assert old in text
    folder = tmp_path / "devices"
    folder.mkdir()
    (folder / "raspberry-pi-5.toml").write_text(text.replace(old, new))
    monkeypatch.setattr(device_profile, "profiles_dir", lambda: tmp_path)
    with pytest.raises(InputError):
        load_device_profile("raspberry-pi-5")


@pytest.mark.parametrize("power", ["0", "-2.5", "nan"])
def test_a_power_that_cannot_be_is_refused(power: str, tmp_path: Path) -> None:
    text = (device_profile.profiles_dir() / "devices" / "raspberry-pi-4.toml").read_text()
    assert "power_w = 3.06" in text
    (tmp_path / "mine.toml").write_text(text.replace("power_w = 3.06", f"power_w = {power}"))
    with pytest.raises(InputError, match="power"):
        load_device_profile(str(tmp_path / "mine.toml"))


def test_a_power_without_a_source_is_refused(tmp_path: Path) -> None:
    text = (device_profile.profiles_dir() / "devices" / "raspberry-pi-5.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("spread = 0.25", "spread = 0.25\npower_w = 5.0"))
    with pytest.raises(InputError, match="power_w"):
        load_device_profile(str(tmp_path / "mine.toml"))
