"""Draw charts as SVG for any browser: lines, bars, and points with error bars, on linear or logarithmic axes.

The colours are attributes, which a page may replace for a dark background: its elements have classes, see `style.css`.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple

from retinanet.runtime.console import escape_controls

COLORS = ("#1f6fb4", "#d9541e", "#2b9348", "#8e44ad", "#b8860b", "#607d8b")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 2")  # keep lines distinguishable in black and white
WIDTH, HEIGHT = 520, 380  # size of one chart, in pixels
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 52  # margins around the axes of a chart
LETTER = 6.4  # approximate width of a letter in small text, in pixels
SLANT = 55  # angle in degrees of tick labels that would not fit side by side


class Series(NamedTuple):
    """One line, or set of points, or bars centred at equally spaced `x`.

    Values that are not finite, or not positive on a logarithmic axis, are skipped.
    """

    name: str  # "": not in the legend
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None  # half the length of the error bar at each point
    style: Literal["line", "points", "bars"] = "line"


class Chart(NamedTuple):
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    ticks: dict[float, str] | None = None  # labels by position on the x axis, instead of numbers
    x_range: tuple[float, float] | None = None  # None: the range of the values
    y_range: tuple[float, float] | None = None  # None: the range of the values with error bars; includes 0 if linear
    log_y: bool = False
    legend: Literal["left", "right", "above"] = "left"  # in the axes, or in one row above them


class _Axis(NamedTuple):
    """Maps values in low..high to pixels in start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


def write_svg(charts: Sequence[Chart], path: Path, *, columns: int = 2) -> None:
    """Write the charts to one SVG file, in rows of `columns` charts."""
    path.write_text(svg_of(charts, columns=columns) + "\n", encoding="utf-8")


def svg_of(charts: Sequence[Chart], *, columns: int = 2) -> str:
    """Draw the charts as one SVG image, in rows of `columns` charts."""
    columns = min(columns, len(charts))
    bottoms = [_bottom(chart) for chart in charts]
    row_height = HEIGHT - BOTTOM + max(bottoms)
    width, height = columns * WIDTH, math.ceil(len(charts) / columns) * row_height
    label = escape(escape_controls("; ".join(chart.title for chart in charts)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="charts-image" role="img" aria-label="{label}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12">',
        f'<rect class="paper" width="{width}" height="{height}" fill="white"/>',
    ]
    for number, chart in enumerate(charts):
        x, y = number % columns * WIDTH, number // columns * row_height
        parts += [f'<g transform="translate({x} {y})">', *_draw(chart), "</g>"]
    return "\n".join([*parts, "</svg>"])


def _bottom(chart: Chart) -> float:
    """Margin below the axes; slanted tick labels need more room."""
    longest = max((len(name) for name in (chart.ticks or {}).values()), default=0)
    return BOTTOM + math.sin(math.radians(SLANT)) * LETTER * (longest - 4) if longest > 4 else BOTTOM


def _draw(chart: Chart) -> list[str]:
    x_axis, y_axis = _axes(chart)
    parts = [_text(WIDTH / 2, 18, chart.title[:90], anchor="middle", size=13 if len(chart.title) < 70 else 10.5)]
    parts += _frame(chart, x_axis, y_axis)
    inside = [_drawn(one, number, x_axis, y_axis) for number, one in enumerate(chart.series)]
    parts += [line for lines in inside for line in lines]
    return parts + _legend(chart)


def _legend(chart: Chart) -> list[str]:
    longest = max((len(one.name) for one in chart.series), default=0)
    x = WIDTH - RIGHT - 40 - LETTER * longest if chart.legend == "right" else LEFT + 10
    y = TOP - 6 if chart.legend == "above" else TOP + 14
    parts = []
    for number, one in enumerate(chart.series):
        if not one.name:
            continue
        if one.style == "line":
            mark = _stroke(f"M{x:g} {y - 4}h24", number)
        else:
            mark = _mark(x + 12, y - 4, number) if one.style == "points" else _bar(x + 6, y - 9, 12, 10, number)
        parts += [mark, _text(x + 30, y, one.name, halo=True)]
        if chart.legend == "above":
            x += 50 + 1.3 * LETTER * len(one.name)  # with room for larger letters on a narrow screen
        else:
            y += 16
    return parts


def _axes(chart: Chart) -> tuple[_Axis, _Axis]:
    places = list(chart.ticks or {}) or [x for one in chart.series for x in one.x]
    padding = 0.5 if chart.ticks else 0.0
    low, high = chart.x_range or (min(places, default=0.0) - padding, max(places, default=1.0) + padding)
    x_axis = _Axis(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT, log=False)
    values = [0.0] if not chart.log_y else []
    for one in chart.series:
        for y, half in zip(one.y, one.spread or [0.0] * len(one.y), strict=True):
            values += [
                value for value in (y - half, y + half) if math.isfinite(value) and (value > 0 or not chart.log_y)
            ]
    low, high = chart.y_range or (min(values, default=0.1), max(values, default=1.0))
    if chart.y_range is None and chart.log_y:
        low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    elif chart.y_range is None:
        room = 0.05 + 0.07 * len(chart.series) * (chart.legend != "above")  # for the legend
        high += room * (high - low)
    return x_axis, _Axis(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP, log=chart.log_y)


def _frame(chart: Chart, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in _decades(y_axis) if y_axis.log else nice_ticks(y_axis.low, y_axis.high):
        y = y_axis(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" class="gridline" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 6, y + 4, _number(value), anchor="end"))
    names = chart.ticks or {value: _number(value) for value in nice_ticks(x_axis.low, x_axis.high)}
    slanted = any(len(name) > 4 for name in names.values()) and chart.ticks is not None
    for value, name in names.items():
        x = x_axis(value)
        parts.append(f'<path d="M{x:.1f} {bottom}v4" class="axis" stroke="#444"/>')
        turn = f' transform="rotate({-SLANT} {x:.1f} {bottom + 14})"' if slanted else ""
        parts.append(_text(x, bottom + (14 if slanted else 17), name, anchor="end" if slanted else "middle", more=turn))
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" class="axis" stroke="#444"/>')
    parts.append(_text((LEFT + right) / 2, HEIGHT - 14, chart.x_label, anchor="middle"))
    middle = (TOP + bottom) / 2
    parts.append(_text(16, middle, chart.y_label, anchor="middle", more=f' transform="rotate(-90 16 {middle})"'))
    return parts


def _drawn(series: Series, number: int, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    spread = series.spread or [0.0] * len(series.x)
    points = [(x, y, half) for x, y, half in zip(series.x, series.y, spread, strict=True) if y_axis.holds(y)]
    parts = []
    for x, y, half in points:
        if half > 0:
            low, high = (max(TOP, min(HEIGHT - BOTTOM, y_axis(end))) if y_axis.holds(end) else HEIGHT - BOTTOM
                         for end in (y - half, y + half))  # fmt: skip
            at = x_axis(x)
            parts.append(_stroke(f"M{at - 4:.1f} {low:.1f}h8m-4 0V{high:.1f}m-4 0h8", number, dashed=False))
    if series.style == "points":
        return parts + [_mark(x_axis(x), y_axis(y), number) for x, y, _ in points]
    if series.style == "bars":
        return _bars([(x, y) for x, y, _ in points], series, number, x_axis, y_axis)
    corners = " ".join(f"{x_axis(x):.1f},{_inside(y_axis(y)):.1f}" for x, y, _ in points)
    return [*parts, _stroke("M" + corners.replace(" ", "L"), number)] if points else parts


def _bars(points: list[tuple[float, float]], series: Series, number: int, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """Bars from the bottom of the axes, transparent, so that those of another series stay visible behind them."""
    width = 0.9 * (x_axis(series.x[1]) - x_axis(series.x[0])) if len(series.x) > 1 else 20.0
    bottom = HEIGHT - BOTTOM
    tops = [(x_axis(x) - width / 2, _inside(y_axis(y))) for x, y in points]
    return [_bar(left, top, width, bottom - top, number) for left, top in tops]


def _bar(left: float, top: float, width: float, height: float, number: int) -> str:
    return (
        f'<rect {_color(number)} x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
        'fill="currentColor" fill-opacity="0.6"/>'
    )


def _inside(pixel: float) -> float:
    """Clamp to the axes, so that a line that leaves the range runs along the edge."""
    return max(TOP, min(HEIGHT - BOTTOM, pixel))


def _decades(axis: _Axis) -> list[float]:
    first, last = round(math.log10(axis.low)), round(math.log10(axis.high))
    step = max(1, math.ceil((last - first) / 8))
    return [10.0**power for power in range(first, last + 1, step)]


def _number(value: float) -> str:
    """Format a tick label to fit the margin: 0.5, 1000, 1e-5."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at most `most` multiples of 1, 2 or 5 times a power of ten in low..high; high must exceed low."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _stroke(path: str, number: int, *, dashed: bool = True) -> str:
    dash = DASHES[number % len(DASHES)] if dashed else ""
    return (
        f'<path {_color(number)} d="{path}" fill="none" stroke="currentColor" stroke-width="1.8"'
        + (f' stroke-dasharray="{dash}"' if dash else "")
        + "/>"
    )


def _mark(x: float, y: float, number: int) -> str:
    """Draw the mark of a point: discs and hollow diamonds alternate between series."""
    if number % 2 == 0:
        return f'<circle {_color(number)} cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"/>'
    return (
        f'<path {_color(number, "paper")} d="M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z" fill="white" stroke="currentColor" '
        'stroke-width="1.8"/>'
    )


def _color(number: int, *classes: str) -> str:
    """Attributes that set the colour of a series, and further classes."""
    place = number % len(COLORS)
    return f'class="{" ".join((f"series{place}", *classes))}" color="{COLORS[place]}"'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: float = 11, more: str = "", halo: bool = False
) -> str:
    kind = "ink halo" if halo else "ink"
    behind = ' stroke="white" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}" fill="#222"'
        f"{behind}{more}>{escape(escape_controls(text))}</text>"
    )
