"""Padded shapes of the usual size, and hypothesis strategies for image sizes and padded shapes."""

from hypothesis import strategies as st

from retinanet.data.padded_shapes import PaddedShapes

USUAL = PaddedShapes(longer=1333, aspects=(1.0, 1.34, 1.5), divisor=32)

SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)
SHAPES = st.builds(
    lambda shorter, more, aspects, divisor: (
        shorter,
        PaddedShapes(longer=max(shorter) + more, aspects=aspects, divisor=divisor),
    ),
    shorter=st.lists(st.integers(1, 1200), min_size=1, max_size=4),
    more=st.integers(0, 1200),
    aspects=st.lists(st.sampled_from([1.0, 1.25, 4 / 3, 1.34, 1.5, 16 / 9, 2.0]) | st.floats(1, 5), max_size=4),
    divisor=st.sampled_from([1, 8, 32, 128]),
)
