"""The catalogue: each file is whole, sourced, and within what was published."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from edgekit.analysis.accounting.families import decoder_of
from edgekit.errors import InputError, UnsupportedError
from edgekit.schema import model_index, model_profile
from edgekit.schema.model_profile import ModelProfile, load_model_profile, model_names

PROFILES = {name: load_model_profile(name) for name in model_names()}
SMALLEST, LARGEST = 30e6, 5e9


def buildable() -> list[ModelProfile]:
    return [profile for profile in PROFILES.values() if profile.unbuildable is None]


def published_range(profile: ModelProfile) -> tuple[float, float]:
    """What the published figure can stand for: itself, or all that rounds to it."""
    count = profile.parameters
    assert count is not None
    if count.published is not None:
        return count.published, count.published
    assert count.published_as is not None
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?([MB])", count.published_as)
    assert match, count.published_as
    unit = {"M": 1e6, "B": 1e9}[match[3]]
    value = float(f"{match[1]}.{match[2] or 0}") * unit
    half = 0.5 * unit / 10 ** len(match[2] or "")
    return value - half, value + half


def test_there_are_at_least_ninety_that_build() -> None:
    assert len(buildable()) >= 90
    assert all(SMALLEST <= profile.parameters.unique <= LARGEST for profile in buildable() if profile.parameters)


def test_names_and_hub_addresses_are_unique() -> None:
    assert len({profile.hub for profile in PROFILES.values()}) == len(PROFILES)
    assert all(profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", PROFILES)
def test_every_value_has_a_source_and_the_count_is_explained(name: str) -> None:
    profile = PROFILES[name]
    assert profile.family
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", profile.released or "")
    assert all(source.strip() for source in profile.provenance.values())
    count = profile.parameters
    assert count is not None
    assert count.source
    low, high = published_range(profile)
    agrees = low <= count.unique <= high
    # An explanation where there is nothing to explain would be as wrong as none where there is.
    assert agrees == (count.difference is None), (count.unique, low, high)


#: Recurrent or compressed state in place of keys and values: the estimator says so instead of guessing.
WITHOUT_OPERATOR_MODEL = {"mamba", "minicpm3", "qwen3_5_text", "recurrent_gemma"}


@pytest.mark.parametrize("name", PROFILES)
def test_the_operator_model_has_every_parameter(name: str) -> None:
    profile = PROFILES[name]
    if profile.config["model_type"] in WITHOUT_OPERATOR_MODEL:
        with pytest.raises(UnsupportedError, match=profile.config["model_type"]):
            decoder_of(profile.config, origin=name)
        return
    assert profile.parameters is not None
    assert decoder_of(profile.config, origin=name).parameters == profile.parameters.unique


def test_the_index_is_up_to_date() -> None:
    found = model_index.index_path().read_bytes()
    assert found == model_index.build_index(), "run: python tools/index_models.py"
    assert model_index.all_model_profiles() == list(PROFILES.values())


def test_a_changed_file_is_seen_without_a_new_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(model_index.profiles_dir() / "models", tmp_path / "models")
    for module in (model_index, model_profile):
        monkeypatch.setattr(module, "profiles_dir", lambda: tmp_path)
    path = tmp_path / "models" / "gpt2.toml"
    path.write_text(path.read_text().replace('title = "GPT-2"', 'title = "changed"'))
    titles = {profile.name: profile.title for profile in model_index.all_model_profiles()}
    assert titles["gpt2"] == "changed"
    assert len(titles) == len(PROFILES)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_model_profile("smollm2-135")
    assert "smollm2-135m" in str(caught.value)


CONTRADICTIONS = {
    "heads that do not divide the width": {"num_attention_heads": 7},
    "key heads that do not divide the heads": {"num_key_value_heads": 2},
    "no layers": {"num_hidden_layers": 0},
    "a million layers": {"num_hidden_layers": 1_000_000},
    "text for a number": {"intermediate_size": "wide"},
    "an empty vocabulary": {"vocab_size": 0},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictory_shapes_are_refused(change: dict[str, object]) -> None:
    config = {key: value for key, value in PROFILES["smollm2-135m"].config.items() if key != "head_dim"}
    with pytest.raises(InputError):
        decoder_of(config | change, origin="test")


def test_a_missing_value_is_named() -> None:
    config = {key: value for key, value in PROFILES["smollm2-135m"].config.items() if key != "vocab_size"}
    with pytest.raises(InputError, match="vocab_size"):
        decoder_of(config, origin="test")
