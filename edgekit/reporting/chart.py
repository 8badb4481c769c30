"""What the report's charts share. Every text in a chart was made safe by its caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.reporting.svg import series_colour

#: Positions drawn of a decode, and samples of a memory curve: more cannot be told apart at this width.
MAX_POINTS = 220
BAR_STEP = 34
MIB = 2**20


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
