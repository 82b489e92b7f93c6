"""Pictures of shares over time as SVG, without any library."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape

from streams.alerts.sentences import percent

WIDTH, LEFT, RIGHT = 960, 70, 20
PANEL, GAP, HEAD, FOOT = 180, 34, 56, 30
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#5d6d7e")
LINE_CHARS = 118


@dataclass(frozen=True)
class Span:
    """Time that is coloured: an alert, or a period.

    Attributes:
        colour: Number of one of `COLOURS`.
    """

    from_ms: int
    to_ms: int
    colour: int = 0
    text: str = ""


@dataclass(frozen=True)
class Panel:
    """One line over time.

    Attributes:
        points: End of each bin and its share; ``None`` leaves a gap.
        is_share: Label the axis in percent.
        band: Interval of the share in a period: from, to, low, high.
        level: A share that was usual.
    """

    title: str
    points: Sequence[tuple[int, float | None]]
    spans: Sequence[Span] = ()
    is_share: bool = True
    band: tuple[int, int, float, float] | None = None
    level: float | None = None
    legend: Sequence[tuple[int, str]] = field(default=())


def picture(heading: str, panels: Sequence[Panel]) -> str:
    """Return an SVG document: a heading and one panel below the other, on one axis of time."""
    lines = _wrapped(heading)
    head = HEAD + 18 * (len(lines) - 1)
    height = head + len(panels) * (PANEL + GAP) + FOOT
    times = [at for panel in panels for at, _ in panel.points]
    times += [
        each for panel in panels for span in panel.spans for each in (span.from_ms, span.to_ms)
    ]
    from_ms, to_ms = (min(times), max(times)) if times else (0, 1)
    to_ms = max(to_ms, from_ms + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, line in enumerate(lines):
        parts.append(
            f'<text x="{LEFT}" y="{26 + 18 * number}" font-size="14" font-weight="bold">'
            f"{escape(line)}</text>"
        )
    for number, panel in enumerate(panels):
        parts += _panel(panel, head + number * (PANEL + GAP), from_ms, to_ms)
    return "\n".join([*parts, *_axis(height - FOOT, from_ms, to_ms), "</svg>\n"])


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > LINE_CHARS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _x(at_ms: int, from_ms: int, to_ms: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (at_ms - from_ms) / (to_ms - from_ms)


def _panel(panel: Panel, top: int, from_ms: int, to_ms: int) -> list[str]:
    values = [value for _, value in panel.points if value is not None]
    values += [panel.band[3]] if panel.band else []
    values += [panel.level] if panel.level is not None else []
    high = max(values, default=0.0) * 1.1 or 1.0
    bottom = top + PANEL

    def y(value: float) -> float:
        return bottom - PANEL * min(value, high) / high

    def x(at_ms: int) -> float:
        return _x(at_ms, from_ms, to_ms)

    parts = [f'<text x="{LEFT}" y="{top - 6}" fill="#333">{escape(panel.title)}</text>']
    for span in panel.spans:
        width = max(x(span.to_ms) - x(span.from_ms), 2.0)
        parts.append(
            f'<rect x="{x(span.from_ms):.1f}" y="{top}" width="{width:.1f}" height="{PANEL}"'
            f' fill="{COLOURS[span.colour % len(COLOURS)]}" opacity="0.15">'
            f"<title>{escape(span.text)}</title></rect>"
        )
    if panel.band is not None:
        begin, end, low, up = panel.band
        parts.append(
            f'<rect x="{x(begin):.1f}" y="{y(up):.1f}" width="{max(x(end) - x(begin), 2):.1f}"'
            f' height="{max(y(low) - y(up), 1):.1f}" fill="{COLOURS[0]}" opacity="0.3"/>'
        )
    if panel.level is not None:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(panel.level):.1f}"'
            f' y2="{y(panel.level):.1f}" stroke="#888" stroke-dasharray="4 3"/>'
        )
    for share in (0.0, high / 2, high):
        label = percent(share) if panel.is_share else f"{share:,.0f}"
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{label}</text>'
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"'
            ' stroke="#ddd"/>'
        )
    for run in _runs(panel.points):
        line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in run)
        parts.append(f'<polyline points="{line}" fill="none" stroke="#222" stroke-width="1.5"/>')
    for place, (colour, text) in enumerate(panel.legend):
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{top + 14 + 14 * place}" text-anchor="end"'
            f' fill="{COLOURS[colour % len(COLOURS)]}">{escape(text)}</text>'
        )
    return parts


def _runs(points: Sequence[tuple[int, float | None]]) -> list[list[tuple[int, float]]]:
    """Return the pieces of a line between its gaps."""
    runs: list[list[tuple[int, float]]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def _axis(y: int, from_ms: int, to_ms: int) -> list[str]:
    form = "%H:%M" if to_ms - from_ms < 2 * 86_400_000 else "%d %b"
    parts = []
    for number in range(7):
        at_ms = from_ms + (to_ms - from_ms) * number // 6
        anchor = "start" if number == 0 else "end" if number == 6 else "middle"
        text = datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)
        parts.append(
            f'<text x="{_x(at_ms, from_ms, to_ms):.1f}" y="{y + 4}" text-anchor="{anchor}">'
            f"{text}</text>"
        )
    return parts
