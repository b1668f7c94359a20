import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.visualization.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Series, nice_ticks, write_svg

SVG = "{http://www.w3.org/2000/svg}"


def drawn(charts: list[Chart], tmp_path, **arguments) -> ElementTree.Element:
    write_svg(charts, tmp_path / "plot.svg", **arguments)
    return ElementTree.parse(tmp_path / "plot.svg").getroot()


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_line_over_the_whole_range_connects_opposite_corners_of_the_axes(tmp_path):
    line = Series("rising", [0.0, 10.0], [0.0, 1.0])
    root = drawn([Chart("title", "x", "y", [line], y_range=(0, 1))], tmp_path)
    path = f"M{LEFT:.1f},{HEIGHT - BOTTOM:.1f}L{WIDTH - RIGHT:.1f},{TOP:.1f}"
    assert path in [element.get("d") for element in root.iter(f"{SVG}path")]
    assert {"title", "x", "y", "rising", "0", "10"} <= set(texts(root))


def test_points_and_whiskers_are_drawn_at_their_values(tmp_path):
    points = Series("ap", [0, 1], [10.0, 20.0], spread=[0.0, 5.0], style="points")
    root = drawn([Chart("t", "", "AP", [points], ticks={0: "a", 1: "b"}, y_range=(0, 40))], tmp_path)
    height = HEIGHT - BOTTOM - TOP
    centres = [float(element.get("cy")) for element in root.iter(f"{SVG}circle")][:2]
    assert centres == pytest.approx([TOP + height * 0.75, TOP + height * 0.5], abs=0.1)
    (whisker,) = [d for element in root.iter(f"{SVG}path") if "h8m" in (d := element.get("d"))]
    low, high = re.fullmatch(r"M\S+ (\S+)h8m-4 0V(\S+)m-4 0h8", whisker).groups()
    assert [float(low), float(high)] == pytest.approx([TOP + height * 0.625, TOP + height * 0.375], abs=0.1)


def test_values_that_a_logarithmic_axis_cannot_show_are_skipped(tmp_path):
    line = Series("s", [0.0, 1.0, 2.0, 3.0], [math.nan, 0.0, 0.1, 0.001])
    root = drawn([Chart("t", "x", "y", [line], log_y=True)], tmp_path)
    (path,) = [d for element in root.iter(f"{SVG}path") if "L" in (d := element.get("d"))]
    assert path.count(",") == 2
    assert "nan" not in (tmp_path / "plot.svg").read_text()
    assert {"0.1", "0.01", "1e-3"} <= set(texts(root))


def test_charts_are_arranged_in_rows(tmp_path):
    one = Chart("t", "x", "y", [Series("s", [0.0, 1.0], [0.0, 1.0])])
    root = drawn([one] * 3, tmp_path, columns=2)
    assert (root.get("width"), root.get("height")) == (str(2 * WIDTH), str(2 * HEIGHT))
    assert len(list(root.iter(f"{SVG}g"))) == 3


def test_empty_and_constant_series_are_drawn_and_titles_are_escaped(tmp_path):
    root = drawn([Chart("a < b & c", "x", "y", [])], tmp_path)
    assert "a < b & c" in texts(root)
    drawn([Chart("t", "x", "y", [Series("flat", [1.0], [0.0])])], tmp_path)


def test_small_values_keep_their_precision(tmp_path):
    root = drawn([Chart("t", "x", "y", [], y_range=(0, 0.003))], tmp_path)
    assert {"5e-4", "1e-3", "1.5e-3", "2e-3", "2.5e-3", "3e-3"} <= set(texts(root))


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low, width):
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 7
    for first, second in itertools.pairwise(ticks):
        leading = (second - first) / 10 ** math.floor(math.log10(second - first) + 1e-6)
        assert any(leading == pytest.approx(round_step, rel=1e-6) for round_step in (1, 2, 5))
    slack = 1e-6 * max(abs(low), width)
    assert all(low - slack <= tick <= low + width + slack for tick in ticks)


def test_bars_stand_on_the_axis_and_do_not_overlap(tmp_path):
    bars = Series("", [0.25, 0.75], [2.0, 1.0], style="bars")
    root = drawn([Chart("t", "x", "y", [bars], x_range=(0, 1), y_range=(0, 4))], tmp_path)
    rects = [{key: float(element.get(key)) for key in ("x", "y", "width", "height")}
             for element in root.iter(f"{SVG}rect") if element.get("class") == "series0"]  # fmt: skip
    assert [rect["height"] for rect in rects] == pytest.approx(
        [(HEIGHT - TOP - BOTTOM) / 2, (HEIGHT - TOP - BOTTOM) / 4], abs=0.1
    )
    assert all(rect["y"] + rect["height"] == pytest.approx(HEIGHT - BOTTOM, abs=0.1) for rect in rects)
    assert rects[0]["x"] + rects[0]["width"] < rects[1]["x"]
    centres = [rect["x"] + rect["width"] / 2 for rect in rects]
    axis = WIDTH - LEFT - RIGHT
    assert centres == pytest.approx([LEFT + axis / 4, LEFT + axis * 3 / 4], abs=0.1)


def test_control_characters_in_names_are_escaped(tmp_path):
    root = drawn([Chart("a\x00b", "x", "y", [Series("\u202e<c>", [0.0, 1.0], [0.0, 1.0])])], tmp_path)
    assert {"a\\x00b", "\\u202e<c>"} <= set(texts(root)) and root.get("aria-label") == "a\\x00b"


def test_legend_above_the_axes_is_one_row(tmp_path):
    names = ["precision", "recall", "F1"]
    lines = [Series(name, [0.0, 1.0], [0.0, 1.0]) for name in names]
    root = drawn([Chart("t", "x", "y", lines, y_range=(0, 1), legend="above")], tmp_path)
    entries = [element for element in root.iter(f"{SVG}text") if element.text in names]
    assert {element.get("y") for element in entries} == {f"{TOP - 6:.1f}"}
    assert sorted(names, key=lambda name: [float(e.get("x")) for e in entries if e.text == name]) == names
