"""What the report's charts share. Every text in a chart was made safe by its caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.reporting.svg import series_colour

#: Positions drawn of a decode, and samples of a memory curve: more cannot be told apart at this width.
MAX_POINTS = 220
BAR_STEP = 34
MIB = 2**20
#: Pixels for the labels of bars: half of a plot.
_BAR_LABEL = 215


def inline(values: list[dict[str, Any]]) -> Any:
    """Records as a chart's data."""
    import altair as alt

    return alt.InlineData(values)


def scale_of(labels: Sequence[str]) -> Any:
    """One colour per label, the same in every plot of a report."""
    import altair as alt

    return alt.Scale(domain=list(labels), range=[series_colour(index) for index in range(len(labels))])


def colours(labels: Sequence[str]) -> Any:
    """The channel that colours by the field ``colour``, without a legend."""
    import altair as alt

    return alt.Color("colour:N", scale=scale_of(labels), legend=None)


def bar_axis() -> Any:
    """The axis of bars that each have a name of their own."""
    import altair as alt

    return alt.Axis(title=None, labelFontSize=12, labelLimit=_BAR_LABEL)


def bar_label(label: str, test: str, threads: int) -> str:
    """A bar's label: what tells it from its neighbours first, for a long name of a bundle is cut off at its end."""
    return f"{test}, {threads}t: {label}"
