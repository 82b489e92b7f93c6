"""Small charts as SVG text."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 50
_COLOURS = ("#0b6e4f", "#c1292e", "#2d6cdf", "#b8860b", "#6a4c93", "#555555")
Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    x_label: str,
    lines: Mapping[str, Points],
    *,
    x_max: float,
    y_max: float,
    x_step: float,
    y_step: float,
    y_is_percent: bool = True,
) -> str:
    """Return a chart of lines from the origin, with a legend, as an SVG document."""

    def x_of(value: float) -> float:
        return _LEFT + value / x_max * (WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - _BOTTOM - value / y_max * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 22, title, "middle", size=14),
        _text(WIDTH / 2, HEIGHT - 12, x_label, "middle"),
    ]
    for number in range(round(y_max / y_step) + 1):
        value = number * y_step
        label = f"{value:.0%}" if y_is_percent else f"{value:g}"
        parts.append(_line(_LEFT, y_of(value), WIDTH - _RIGHT, y_of(value)))
        parts.append(_text(_LEFT - 8, y_of(value) + 4, label, "end"))
    for number in range(round(x_max / x_step) + 1):
        value = number * x_step
        parts.append(_text(x_of(value), HEIGHT - _BOTTOM + 18, f"{value:g}", "middle"))
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = HEIGHT - _BOTTOM - 12 - 16 * (len(lines) - 1 - number)
        parts.append(_line(WIDTH - 340, y - 4, WIDTH - 316, y - 4, colour, 2))
        parts.append(_text(WIDTH - 310, y, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def stacked_bars(
    title: str, x_label: str, parts: Sequence[str], bars: Mapping[str, Sequence[float]]
) -> str:
    """Return horizontal bars, each made of the same parts, with their sums, as an SVG document."""
    left, pitch, thickness = 190.0, 34.0, 20.0
    height = _TOP + 24 + pitch * len(bars) + 30
    longest = max(sum(values) for values in bars.values())

    def width_of(value: float) -> float:
        return value / longest * (WIDTH - left - 70)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(WIDTH / 2, 22, title, "middle", size=14),
        _text((left + WIDTH) / 2, height - 8, x_label, "middle"),
    ]
    for number, part in enumerate(parts):
        x = left + 110 * number
        drawn.append(_box(x, _TOP - 4, 12, 12, _COLOURS[number]))
        drawn.append(_text(x + 18, _TOP + 6, part, "start"))
    for number, (name, values) in enumerate(bars.items()):
        x, y = left, _TOP + 24 + pitch * number
        drawn.append(_text(left - 8, y + 15, name, "end"))
        for colour, value in zip(_COLOURS, values, strict=False):
            drawn.append(_box(x, y, width_of(value), thickness, colour))
            x += width_of(value)
        drawn.append(_text(x + 6, y + 15, f"{sum(values):.1f}", "start"))
    return "\n".join([*drawn, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {at} fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, *, size: int = 12) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {at}>{escape(text)}</text>"


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd", width: int = 1
) -> str:
    at = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {at} stroke="{colour}" stroke-width="{width}"/>'
