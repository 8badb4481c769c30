"""The catalogue as a page: how small language models changed, drawn and in tables; one HTML file without a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from edgekit.analysis.catalogue import ModelFacts
from edgekit.analysis.trends import CHINCHILLA, Point, Share, points, shares, year_of
from edgekit.errors import HostStorageError, InputError
from edgekit.progress import Progress, silent
from edgekit.reporting import html
from edgekit.reporting.catalogue_charts import points_chart, shares_chart
from edgekit.reporting.formats import plain_text
from edgekit.reporting.sections.base import Cells, Plot, Section, texts
from edgekit.schema.storage import check_writable, write_atomically

_ATTENTION = ("MHA", "GQA", "MQA")
_ACTIVATIONS = ("relu", "gelu", "gelu, tanh", "silu", "relu squared")
_NORMS = ("LayerNorm", "RMSNorm")


def write_catalogue_report(models: Sequence[ModelFacts], path: Path | str, *, progress: Progress = silent) -> Path:
    """Write the page on ``models`` to ``path``; nothing is left there if it fails.

    Raises:
        InputError: no models, or ``path`` is a directory.
        HostStorageError: the file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"write the catalogue to {target}: it is a directory", hint="name a file, such as models.html")
    if not any(year_of(model) for model in models):
        raise InputError("write the catalogue: no model with a date of release was chosen", hint="loosen --filter")
    check_writable(target.parent, doing=f"write the catalogue to {target}")
    sections = html.drawn(catalogue_sections(models), progress)
    dates = sorted(model.released[:4] for model in models if model.released)
    text: str = html.template("catalogue.html.j2").render(
        sections=sections,
        subtitle=f"{len(models)} decoder models, released {dates[0]} to {dates[-1]}; each value has its source in the "
        "catalogue, and what no source states is not counted",
        css=html.stylesheet(),
        version=version(html.DISTRIBUTION),
    )
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise HostStorageError(f"write the catalogue to {target}: {error.strerror or error}") from error
    return target


def catalogue_sections(models: Sequence[ModelFacts]) -> list[Section]:
    """What the page shows; a finding without data is left out."""
    found = [
        _by_year(
            "attention",
            "Attention",
            models,
            "attention",
            _ATTENTION,
            "Query heads with keys and values of their own (MHA), sharing them in groups (GQA), or all sharing one "
            "pair (MQA). The number above a bar is the models of that year whose attention is known.",
        ),
        _feed_forward(models),
        _by_year(
            "activation",
            "Activation",
            models,
            "activation",
            _ACTIVATIONS,
            "The function inside the feed-forward block; GELU by its formula or by the approximation with tanh.",
        ),
        _by_year("norm", "Norm", models, "norm", _NORMS, "What is applied before or after each block."),
        _over_time(
            "vocabulary",
            "Vocabulary",
            points(models, "vocabulary", by="tied"),
            ("yes", "no"),
            "Tokens in the vocabulary; a stroke marks each year's median. Coloured by whether embedding and head are "
            "one matrix (yes) or two (no).",
            axis="tokens",
            line=None,
        ),
        _over_time(
            "training",
            "Tokens per parameter",
            points(models, "tokens_per_parameter", by="open_data"),
            ("yes", "no"),
            "Training tokens over unique parameters, where both are known; a stroke marks each year's median, the "
            f"dashed line Chinchilla's {CHINCHILLA}. Coloured by whether others can have the training data.",
            axis="tokens per parameter",
            line=CHINCHILLA,
        ),
    ]
    return [section for section in found if section is not None]


def _by_year(
    anchor: str, title: str, models: Sequence[ModelFacts], field: str, named: Sequence[str], lead: str
) -> Section | None:
    found = shares(models, field, named=named)
    if not found:
        return None
    values = [value for value in (*named, "other") if any(share.value == value for share in found)]
    plot = Plot(anchor, f"{title} by year of release", _words(found), lambda: shares_chart(found, values))
    return Section(anchor, title, lead, [plot], [_share_table(title, found, values)])


def _feed_forward(models: Sequence[ModelFacts]) -> Section | None:
    found = shares(models, "gated")
    ratios = points(models, "ffn_ratio", by="gated")
    if not found or not ratios:
        return None
    renamed = [dataclasses.replace(share, value={"yes": "gated", "no": "plain"}[share.value]) for share in found]
    dots = [dataclasses.replace(point, kind={"yes": "gated", "no": "plain"}[point.kind]) for point in ratios]
    values = ["plain", "gated"]
    plots = [
        Plot("gated", "Gated or plain, by year", _words(renamed), lambda: shares_chart(renamed, values)),
        Plot(
            "ratio",
            "Width of the feed-forward block over the model's width",
            f"{len(dots)} models; {_range(dots)}.",
            lambda: points_chart(dots, values, title="ratio", log=False, line=None),
        ),
    ]
    return Section(
        "feed-forward",
        "Feed-forward",
        "A gated block has three matrices where a plain one has two, and is usually narrower for it. A stroke marks "
        "each year's median ratio.",
        plots,
        [_share_table("Feed-forward", renamed, values)],
    )


def _over_time(
    anchor: str, title: str, found: Sequence[Point], values: Sequence[str], lead: str, *, axis: str, line: float | None
) -> Section | None:
    if not found:
        return None
    plot = Plot(
        anchor,
        f"{title}, each model",
        f"{len(found)} models; {_range(found)}.",
        lambda: points_chart(found, values, title=axis, log=True, line=line),
    )
    ends = sorted(found, key=lambda point: (-point.value, point.model))
    chosen = ends if len(ends) <= 10 else [*ends[:5], *ends[-5:]]
    rows = [[plain_text(point.model), f"{int(point.at)}", f"{point.value:,.0f}"] for point in chosen]
    caption = f"{title}: the largest and the smallest"
    notes = []
    if line is not None:
        above = sum(point.value > line for point in found)
        notes.append(f"{above} of {len(found)} models saw more than {line:g} tokens per parameter.")
    return Section(anchor, title, lead, [plot], [texts(caption, ["model", "year", axis], rows, right=[1, 2])], notes)


def _share_table(title: str, found: Sequence[Share], values: Sequence[str]) -> Cells:
    rows = []
    for year in sorted({share.year for share in found}):
        own = {share.value: share for share in found if share.year == year}
        total = next(iter(own.values())).of
        rows.append([str(year), str(total), *(f"{own[name].share:.0%}" if name in own else "0%" for name in values)])
    return texts(
        f"{title}: share of each year's models", ["year", "models", *values], rows, right=range(1, len(values) + 2)
    )


def _words(found: Sequence[Share]) -> str:
    last = max(share.year for share in found)
    first = min(share.year for share in found)
    said = []
    for year in dict.fromkeys((first, last)):
        parts = ", ".join(f"{share.value} {share.share:.0%}" for share in found if share.year == year)
        said.append(f"{year}: {parts}")
    return "; ".join(said) + "."


def _range(found: Sequence[Point]) -> str:
    values = [point.value for point in found]
    return f"from {min(values):g} to {max(values):g}"
