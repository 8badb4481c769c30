"""What the report's charts share. Every text in a chart was made safe by its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.reporting.svg import series_colour

#: Positions drawn of a decode, and samples of a memory curve: more cannot be told apart at this width.
MAX_POINTS = 220
BAR_STEP = 34
MIB = 2**20
#: Pixels for the labels of bars: half of a plot.
_BAR_LABEL = 215
#: Pixels of a plot to the right of its axis, and of a legend's symbol with the gap to the next column, of one
#: character, and of the longest label, which is cut there.
_LEGEND, _LEGEND_SYMBOL, _LEGEND_CHARACTER, _LEGEND_LABEL = 375, 34, 7.5, 150
_LEGEND_COLUMNS = 4


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


def legend(labels: Sequence[str], symbol: str, **look: Any) -> Any:
    """A legend above a plot, in as many columns as labels of that length leave room for."""
    import altair as alt

    column = _LEGEND_SYMBOL + min(_LEGEND_CHARACTER * max(map(len, labels), default=0), _LEGEND_LABEL)
    columns = max(1, min(_LEGEND_COLUMNS, int(_LEGEND // column)))
    return alt.Legend(title=None, values=list(labels), columns=columns, symbolType=symbol, symbolOpacity=1, **look)


def bar_axis() -> Any:
    """The axis of bars that each have a name of their own."""
    import altair as alt

    return alt.Axis(title=None, labelFontSize=12, labelLimit=_BAR_LABEL)


def bar_label(label: str, test: str, threads: int) -> str:
    """A bar's label: what tells it from its neighbours first, for a long name of a bundle is cut off at its end."""
    return f"{test}, {threads}t: {label}"


@dataclass(frozen=True)
class Stack:
    """One stacked bar: its parts as name, length and tooltip, in their order, and the figure at its end."""

    bar: str
    parts: Sequence[tuple[str, float, str]]
    text: str

    @property
    def length(self) -> float:
        """Of all parts; what is below zero has no length to draw."""
        return sum(max(length, 0.0) for _, length, _ in self.parts)


def stacked(stacks: Sequence[Stack], paint: Mapping[str, str], *, title: str, columns: int | None = None) -> Any:
    """Stacked bars below each other; ``paint`` has the colour of each part, ``columns`` of the legend."""
    import altair as alt

    values: list[dict[str, Any]] = []
    for stack in stacks:
        start = 0.0
        for name, length, about in stack.parts:
            end = start + max(length, 0.0)
            values.append({"bar": stack.bar, "part": name, "start": start, "end": end, "about": about})
            start = end
    ends = [{"bar": stack.bar, "end": stack.length, "text": stack.text} for stack in stacks]
    limit = max((stack.length for stack in stacks), default=1.0) * 1.25
    legend: dict[str, Any] = {"title": None, "symbolType": "square", "symbolStrokeWidth": 0, "symbolOpacity": 1}
    if columns is not None:
        legend |= {"columns": columns, "columnPadding": 24}
    y = alt.Y("bar:N", sort=[stack.bar for stack in stacks], axis=bar_axis())
    bars = (
        alt.Chart(inline(values))
        .mark_bar(height={"band": 0.66})
        .encode(
            y=y,
            x=alt.X("start:Q", axis=alt.Axis(title=title), scale=alt.Scale(domain=[0, limit], nice=False)),
            x2=alt.X2("end:Q"),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(paint), range=list(paint.values())),
                legend=alt.Legend(**legend),
            ),
            description=alt.Description("about:N"),
        )
    )
    text = (
        alt.Chart(inline(ends))
        .mark_text(align="left", dx=6, fontWeight=600)
        .encode(y=y, x=alt.X("end:Q"), text=alt.Text("text:N"))
    )
    return alt.layer(bars, text).properties(height={"step": BAR_STEP})
