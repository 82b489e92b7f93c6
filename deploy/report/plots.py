"""Plots as SVG text, the same bytes for the same numbers."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from deploy.report.periods import Rows, weeks_of, whole_weeks

# Okabe and Ito 2008: told apart by the colour-blind, too.
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#6A4C93",
    "#8C564B",
    "#17BECF",
)
OTHER, UNKNOWN = "#BBBBBB", "#E4E4E4"
SIZE_INCHES = (8.4, 4.0)
TICKS_MAX = 7
_STYLE: Any = {
    "svg.hashsalt": "tokentide",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Plot = Callable[[Rows], str]


LEGEND_MAX = 24
SHOWN_MAX = 11
"""Values with a colour of their own."""


def _drawn(draw: Callable[[Figure], None]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def colours_of(values: Sequence[str]) -> dict[str, str]:
    """Return a colour for each value: grey for what is other or not known."""
    found = {"other": OTHER, "unknown": UNKNOWN}
    named = [value for value in values if value not in found]
    for at, value in enumerate(named):
        found[value] = COLOURS[at % len(COLOURS)]
    return found


def stacked_shares(key: str, share: str = "token_share") -> Plot:
    """Return what draws the shares of each week as bars that add up to 100 %.

    Args:
        key: The column of the values; partial weeks are hatched.
    """

    def plot(rows: Rows) -> str:
        weeks = weeks_of(rows)
        of = {(row["week"], row[key]): float(row[share] or 0) for row in rows}
        partial = {row["week"] for row in rows if row["is_partial"]}
        values = sorted(
            {row[key] for row in rows},
            key=lambda v: (v == "unknown", v == "other", -sum(of.get((w, v), 0) for w in weeks)),
        )
        # The numbers beside the figure have all; a legend of thirty names has none.
        for value in [v for v in values if v not in ("other", "unknown")][SHOWN_MAX:]:
            values.remove(value)
            for week in weeks:
                of[week, "other"] = of.get((week, "other"), 0.0) + of.get((week, value), 0.0)
            if "other" not in values:
                values.insert(SHOWN_MAX, "other")
        colours = colours_of(values)

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            below = [0.0] * len(weeks)
            labels = [f"{week:%-d %b %y}" for week in weeks]
            for value in values:
                heights = [of.get((week, value), 0.0) for week in weeks]
                bars = axes.bar(
                    labels, heights, bottom=below, label=value, color=colours[value], width=0.85
                )
                for week, bar in zip(weeks, bars, strict=True):
                    if week in partial:
                        bar.set_hatch("//")
                        bar.set_edgecolor("white")
                below = [low + height for low, height in zip(below, heights, strict=True)]
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
            step = -(-len(weeks) // TICKS_MAX)
            axes.set_xticks(range(0, len(weeks), step), labels[::step])
            _legend(axes)

        return _drawn(draw)

    return plot


def lines(key: str | None, *columns: str, label: str, percent: bool = False) -> Plot:
    """Return what draws numbers by week.

    Args:
        key: A line for each value of this column, of the one number; None: a line for each number.
    """

    def plot(rows: Rows) -> str:
        # A week that is not over would look like a fall.
        rows = whole_weeks(rows)
        weeks = weeks_of(rows)
        names = list(columns) if key is None else _largest(rows, key, columns[0])
        at: dict[tuple[Any, str], Any] = {
            (row["week"], name if key is None else row[key]): row[name]
            for row in rows
            for name in columns
        }

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            for name, colour in colours_of(names).items():
                values = [at.get((week, name)) for week in weeks]
                points = [float("nan") if value is None else float(value) for value in values]
                if name in names:
                    axes.plot(range(len(weeks)), points, label=name, color=colour, lw=2)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(label)
            if percent:
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
            else:
                axes.yaxis.set_major_formatter(FuncFormatter(_short))
            step = -(-len(weeks) // TICKS_MAX)
            axes.set_xticks(
                range(0, len(weeks), step), [f"{week:%-d %b %y}" for week in weeks[::step]]
            )
            _legend(axes)

        return _drawn(draw)

    return plot


def _largest(rows: Rows, key: str, column: str) -> list[str]:
    """Return the names of the largest values by the sum of a column, in order of the alphabet."""
    sums: dict[str, float] = {}
    for row in rows:
        sums[row[key]] = sums.get(row[key], 0.0) + float(row[column] or 0)
    return sorted(sorted(sums, key=lambda name: (-sums[name], name))[:SHOWN_MAX])


def bars(key: str, column: str, label: str, most: int = 15, *, percent: bool = False) -> Plot:
    """Return what draws the largest values of a whole period, the largest on top."""

    def plot(rows: Rows) -> str:
        shown = [row for row in rows if row[column] is not None][:most][::-1]
        names = [str(row[key]) for row in shown]

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            axes.barh(names, [float(row[column]) for row in shown], color=COLOURS[0])
            axes.set_xlabel(label)
            form = (lambda x, _: f"{x:.1%}") if percent else _short
            axes.xaxis.set_major_formatter(FuncFormatter(form))

        return _drawn(draw)

    return plot


def parts(key: str, part: str) -> Plot:
    """Return what draws what each value of a whole period is made of, as bars of 100 %."""

    def plot(rows: Rows) -> str:
        names = sorted({row[key] for row in rows}, reverse=True)
        kinds = sorted({row[part] for row in rows if row["token_share"] is not None})
        share = {(row[key], row[part]): float(row["token_share"] or 0) for row in rows}
        colours = colours_of(kinds)

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            left = [0.0] * len(names)
            for kind in kinds:
                widths = [share.get((name, kind), 0.0) for name in names]
                axes.barh(names, widths, left=left, label=kind, color=colours[kind])
                left = [start + width for start, width in zip(left, widths, strict=True)]
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
            if 0 < len(kinds) <= LEGEND_MAX:
                _legend(axes)

        return _drawn(draw)

    return plot


def scatter(key: str, group: str) -> Plot:
    """Return what draws price against use, both logarithmic, cut at the medians."""

    def plot(rows: Rows) -> str:
        groups = sorted({row[group] for row in rows})

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            for name in groups:
                mine = [row for row in rows if row[group] == name]
                x = [row["usd_per_million_tokens"] for row in mine]
                axes.scatter(
                    x,
                    [row["tokens"] for row in mine],
                    s=22,
                    label=name,
                    color=colours_of(groups)[name],
                )
            for row in rows[:8]:
                axes.annotate(
                    row[key],
                    (row["usd_per_million_tokens"], row["tokens"]),
                    fontsize=7,
                    xytext=(4, 3),
                    textcoords="offset points",
                )
            axes.axvline(rows[0]["median_usd_per_million_tokens"], color=OTHER, lw=1)
            axes.axhline(rows[0]["median_tokens"], color=OTHER, lw=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("USD per million tokens, paid")
            axes.set_ylabel("tokens")
            _legend(axes)

        return _drawn(draw)

    return plot


def intervals(key: str, low: str, value: str, high: str, label: str) -> Plot:
    """Return what draws points with their intervals."""

    def plot(rows: Rows) -> str:
        shown = [row for row in rows if row[value] is not None][::-1]

        def draw(figure: Figure) -> None:
            axes = figure.add_subplot()
            for at, row in enumerate(shown):
                axes.plot([row[low], row[high]], [at, at], color=COLOURS[0], lw=2)
                axes.plot(row[value], at, "o", color=COLOURS[0])
            axes.axvline(0, color=OTHER, lw=1)
            axes.set_yticks(range(len(shown)), [f"{row[key]}" for row in shown])
            axes.set_xlabel(label)

        return _drawn(draw)

    return plot


def _short(number: float, _: int) -> str:
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g} {name}"
    return f"{number:g}"


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
