"""Labels are inside the image and, where there is room, do not overlap."""

import hypothesis.strategies as st
from hypothesis import given

from retinanet.visualization.labels import place_labels


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_above_the_box_inside_it_or_below_it():
    # 100 x 100 pixels; labels of 30 x 10.
    assert place_labels([[20, 40, 60, 80]], [(30, 10)], (100, 100)) == [(20, 30, 50, 40)]
    assert place_labels([[20, 5, 60, 80]], [(30, 10)], (100, 100)) == [(20, 5, 50, 15)]  # no room above
    assert place_labels([[90, 40, 99, 80]], [(30, 10)], (100, 100)) == [(70, 30, 100, 40)]  # moved to the left
    # Of three equal boxes, the first is above, the second inside, and the third below.
    places = place_labels([[20, 40, 60, 80]] * 3, [(30, 10)] * 3, (100, 100))
    assert places == [(20, 30, 50, 40), (20, 40, 50, 50), (20, 81, 50, 91)]


@given(
    st.lists(
        st.tuples(st.integers(0, 199), st.integers(0, 199), st.integers(0, 199), st.integers(0, 199)),
        min_size=1,
        max_size=12,
    ),
    st.integers(10, 60),
)
def test_labels_are_inside_the_image_and_do_not_overlap(corners, width):
    # A column has 20 lines of 10 pixels, and each of at most 11 earlier labels touches at most two of them; boxes may
    # choose between fewer lines only because a label above or below the image is no candidate.
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners]
    places = place_labels(boxes, [(width, 10)] * len(boxes), (400, 200))
    for left, top, right, bottom in places:
        assert 0 <= left and right <= 200 and 0 <= top and bottom <= 400
    assert not any(overlap(a, b) for index, a in enumerate(places) for b in places[:index])


def test_in_a_full_image_labels_overlap_but_stay_inside():
    places = place_labels([[0, 0, 30, 30]] * 20, [(30, 10)] * 20, (30, 30))
    assert all(0 <= top <= 20 and left == 0 for left, top, _, _ in places)


def test_a_label_larger_than_the_image_starts_in_it():
    assert place_labels([[5, 5, 9, 9]], [(50, 40)], (20, 20)) == [(0, 0, 50, 40)]
