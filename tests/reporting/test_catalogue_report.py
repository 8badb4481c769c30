"""How architectures changed: the counts by hand, and the page that shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import edgekit
from edgekit.analysis.catalogue import ModelFacts
from edgekit.analysis.trends import medians, points, shares
from edgekit.errors import InputError


def made(name: str, released: str | None, **facts: object) -> ModelFacts:
    known = {"title": name, "family": None, "architecture": "llama", "parameters": 1000}
    return ModelFacts(name=name, released=released, **(known | facts))  # type: ignore[arg-type]


MODELS = [
    made(
        "a", "2023-01", attention="MHA", gated=False, activation="gelu_new", tokens_per_parameter=10.0, open_data=True
    ),
    made(
        "b", "2023-07", attention="GQA", gated=True, activation="gelu_tanh", tokens_per_parameter=30.0, open_data=True
    ),
    made("c", "2024", attention="GQA", gated=True, activation="silu", tokens_per_parameter=50.0, open_data=False),
    made("undated", None, attention="MHA", gated=True, activation="silu", tokens_per_parameter=7.0, open_data=True),
    made("unknown", "2024-02"),
]


def test_shares_count_what_is_known_and_nothing_else() -> None:
    found = {(share.year, share.value): (share.count, share.of) for share in shares(MODELS, "attention")}
    assert found == {(2023, "GQA"): (1, 2), (2023, "MHA"): (1, 2), (2024, "GQA"): (1, 1)}
    assert [(share.value, share.count) for share in shares(MODELS, "activation")] == [("gelu, tanh", 2), ("silu", 1)]
    assert [share.value for share in shares(MODELS, "attention", named=("GQA",))] == ["GQA", "other", "GQA"]


def test_points_stand_at_their_month_and_a_year_without_one_in_its_middle() -> None:
    found = points(MODELS, "tokens_per_parameter", by="open_data")
    assert [(point.model, point.at, point.kind) for point in found] == [
        ("a", 2023.0, "yes"),
        ("b", 2023.5, "yes"),
        ("c", 2024.5, "no"),
    ]
    assert medians(found) == [(2023, 20.0), (2024, 50.0)]


def test_the_page_shows_every_finding_in_colours_of_both_schemes(tmp_path: Path) -> None:
    path = edgekit.models_report(tmp_path / "models.html")
    text = path.read_text(encoding="utf-8")
    for anchor in ("attention", "feed-forward", "activation", "norm", "vocabulary", "training"):
        assert f'<section id="{anchor}"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 7
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    # A literal colour would stay the same in the dark.
    assert set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn)) <= {
        "none",
        "transparent",
        *(f"var(--{name})" for name in ("ink", "ink-2", "grid", "axis", "accent", "s0", "s1", "s2", "s3", "s4")),
    }
    assert "<script" not in text
    assert "://" not in re.sub(r'xmlns="[^"]+"', "", text)


def test_no_page_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        edgekit.models_report(tmp_path / "models.html", filters=["parameters<1"])
    with pytest.raises(InputError, match="directory"):
        edgekit.models_report(tmp_path)
    assert not (tmp_path / "models.html").exists()
