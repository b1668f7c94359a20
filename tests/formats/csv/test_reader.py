import csv
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retinanet.config import DataSource
from retinanet.errors import InputError
from retinanet.formats.csv.reader import read_csv
from retinanet.formats.read import read_dataset
from tests.helpers.annotation_files import boxes_by_image, message_of

HEADER = "image_path,xmin,ymin,xmax,ymax,label\n"


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a CSV file and possibly its class file, and returns the DataSource."""

    def write(content, classes=None):
        file = tmp_path / "some.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if classes is not None:
            (tmp_path / "classes.csv").write_text(classes)
        return DataSource(annotations=str(file))

    return write


def fault_of(source) -> str:
    return message_of(read_csv, source)


# ---- layouts

# One box from (1, 2) to (4, 6.5) on a.jpg: left 1, top 2, width 4 - 1 = 3, height 6.5 - 2 = 4.5.
ONE_BOX = {"a.jpg": [("cat", [1.0, 2.0, 3.0, 4.5])]}


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "a.jpg,1,2,4,6.5,cat\n",
        "label,ymax,xmax,ymin,xmin,image_path\ncat,6.5,4,2,1,a.jpg\n",
        "Filename;Class;X1;Y1;X2;Y2;score\na.jpg;cat;1;2;4;6.5;0.9\n",
        "image_path\txmin\tymin\txmax\tymax\tlabel\na.jpg\t1\t2\t4\t6.5\tcat\n",
        "a.jpg,1,2,4,6.5,cat\n",
        "a.jpg;1;2;4;6.5;cat",
        "\n\n" + HEADER + "\n,,,,,\na.jpg, 1 ,2.0,4e0, 6.5, cat \n",
        "\ufeff" + HEADER.replace("\n", "\r\n") + '"a.jpg","1","2","4","6.5","cat"\r\n',
        (HEADER + "a.jpg,1,2,4,6.5,cat\n").encode("utf-16"),
        "sep=;\n" + HEADER.replace(",", ";") + "a.jpg;1;2;4;6.5;cat\n",
        HEADER + "a.jpg,1,2,4,6.5,cat,,\n",
    ],
    ids=["DeepForest", "column order", "semicolons", "tabs", "no header", "no header, semicolons", "blanks",
         "quotes and BOM", "UTF-16", "line of Excel", "empty fields at the end"],
)  # fmt: skip
def test_every_layout_is_read(table, content):
    assert boxes_by_image(read_csv(table(content))) == ONE_BOX


def test_quoted_fields_keep_delimiters_and_quotes(table):
    source = table('"a, b.jpg",1,2,4,6.5,"big, ""old"" cat"\n')
    assert boxes_by_image(read_csv(source)) == {"a, b.jpg": [('big, "old" cat', [1.0, 2.0, 3.0, 4.5])]}


def test_rows_without_a_box_are_images_without_objects(table):
    read = read_csv(table(HEADER + "b.jpg,,,,,\na.jpg,1,2,4,6.5,cat\nc.jpg,0,0,0,0,dog\nd.jpg,,,,,cat\n"))
    assert boxes_by_image(read) == {"b.jpg": [], **ONE_BOX, "c.jpg": [], "d.jpg": []}
    assert read.category_names == ("cat",)


def test_images_are_in_order_of_appearance_and_boxes_in_line_order(table):
    read = read_csv(table(HEADER + "b.jpg,1,1,2,2,x\na.jpg,3,3,4,4,y\nb.jpg,5,5,6,6,x\n"))
    assert read.file_names == ("b.jpg", "a.jpg")
    assert read.image_index.tolist() == [0, 1, 0]
    assert (read.entry, read.entry_numbers.tolist()) == ("line", [2, 3, 4])
    assert read.image_ids is None and np.isnan(read.areas).all() and not read.is_crowd.any()


def test_line_numbers_count_the_lines_of_the_file(table):
    read = read_csv(table('\n"a\nb.jpg",1,1,2,2,x\n\nc.jpg,1,1,2,2,x\n'))
    assert read.file_names == ("a\nb.jpg", "c.jpg")
    assert read.entry_numbers.tolist() == [2, 5]


def test_sizes_are_read_from_their_columns(table):
    read = read_csv(
        table(
            "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,640,480.0,cat,1,2,3,4\nb.jpg,-1,,cat,1,2,3,4\n"
            "a.jpg,0,0,cat,1,2,3,4\n"
        )
    )
    assert read.sizes.tolist() == [[480, 640], [0, 0]]  # height, width
    assert read_csv(table(HEADER + "a.jpg,1,2,3,4,cat\n")).sizes.tolist() == [[0, 0]]


# ---- classes


def test_classes_are_sorted_by_name(table):
    read = read_csv(table(HEADER + "a.jpg,1,2,3,4,dog\na.jpg,1,2,3,4,cat\n"))
    assert (read.category_names, read.category_ids, read.category_index.tolist()) == (("cat", "dog"), None, [1, 0])


@pytest.mark.parametrize("classes", ["dog,0\ncat,2\nowl,1\n", "name,id\ndog,0\ncat,2\nowl,1\n"])
def test_class_file_determines_order_and_ids(table, classes):
    read = read_csv(table(HEADER + "a.jpg,1,2,3,4,dog\na.jpg,1,2,3,4,cat\n", classes))
    assert (read.category_names, read.category_ids) == (("dog", "owl", "cat"), (0, 1, 2))
    assert read.category_index.tolist() == [0, 2]


def test_faults_of_the_class_file_are_reported(table):
    message = fault_of(table(HEADER + "a.jpg,1,2,3,4,dog\n", "dog,0\ncat,0\ndog,1\nowl\nbat,x\nfox,1.5\nant,-1\n"))
    assert message == (
        "classes.csv: 2 problem(s)\n"
        "  2 row(s) repeat a name or an id; both must be unique (line 2 (['cat', '0']); line 3 (['dog', '1']))\n"
        "  4 row(s) are not a class, expected name,id with an integer id (line 4 (['owl']); "
        "line 5 (['bat', 'x']); line 6 (['fox', '1.5']); ...)"
    )


def test_class_missing_from_the_class_file_is_reported(table):
    message = fault_of(table(HEADER + "a.jpg,1,2,3,4,dog\nb.jpg,1,2,3,4,cow\nc.jpg,1,2,3,4,cow\n", "dog,0\n"))
    assert message == (
        "some.csv: 1 class(es) are not in classes.csv; add them to that file or correct their names (line 3 ('cow'))"
    )


# ---- faults


def test_all_faults_are_reported_with_their_lines(table):
    message = fault_of(
        table(
            HEADER
            + "a.jpg,1,2,3,x,cat\na.jpg,nan,2,3,4,cat\na.jpg,1,inf,3,4,cat\na.jpg,1,2,,4,cat\n,1,2,3,4,cat\n"
            + "a.jpg,1,2,3,4,\na.jpg,1,2,3,4\na.jpg,1,2,3,4,cat,dog\na.jpg,1e9,2,3,4,cat\na.jpg,1_0,2,3,4,cat\n"
        )
    )
    assert message == (
        "some.csv: 7 problem(s)\n"
        "  1 row(s) have an invalid ymax, expected a number of pixels (line 2 ('x'))\n"
        "  3 row(s) have an invalid xmin, expected a number of pixels (line 3 ('nan'); line 10 ('1e9'); "
        "line 11 ('1_0'))\n"
        "  1 row(s) have an invalid ymin, expected a number of pixels (line 4 ('inf'))\n"
        "  1 row(s) have an invalid xmax, expected a number of pixels (line 5 (''))\n"
        "  1 row(s) have no image_path; add the name of the image or remove the row (line 6)\n"
        "  1 row(s) have a box but no label; add the class name or remove the box (line 7)\n"
        "  2 row(s) do not have 6 fields (line 8 (5); line 9 (7))"
    )


def test_only_the_first_faults_are_listed(table):
    message = fault_of(table(HEADER + "a.jpg,1,2,3,x,cat\n" * 1000))
    assert message == (
        "some.csv: 1000 row(s) have an invalid ymax, expected a number of pixels (line 2 ('x'); line 3 ('x'); "
        "line 4 ('x'); ...)"
    )


def test_decimal_commas_are_reported(table):
    message = fault_of(table("a.jpg;1,5;2;3;4;cat\n"))
    assert message == (
        "some.csv: 1 row(s) have an invalid x1, expected a number of pixels; write numbers with a decimal point, not a "
        "comma (line 1 ('1,5'))"
    )


def test_contradicting_sizes_are_reported(table):
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    message = fault_of(table(head + "a.jpg,640,480,c,1,2,3,4\na.jpg,480,640,c,1,2,3,4\nb.jpg,wide,1.5,c,1,2,3,4\n"))
    assert message == (
        "some.csv: 2 problem(s)\n"
        "  1 row(s) contradict the image size in an earlier row of the same image; correct one (line 3 ('a.jpg'))\n"
        "  1 row(s) have an invalid image size, expected whole numbers of pixels (line 4 (('wide', '1.5')))"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected rows image_path,xmin,ymin,xmax,ymax,label"),
        (b"\n \r\n", "is empty; expected rows image_path,xmin,ymin,xmax,ymax,label"),
        (HEADER, "has no boxes; expected rows image_path,xmin,ymin,xmax,ymax,label"),
        ("a.jpg,,,,,\n", "has no boxes; expected rows image_path,xmin,ymin,xmax,ymax,label"),
        ("image_path,xmin,ymin,width,height,label\na.jpg,1,2,3,4,cat\n",
         "line 1 lacks the columns xmax, ymax; found ['image_path', 'xmin', 'ymin', 'width', ...]; expected a header "
         "with image_path,xmin,ymin,xmax,ymax,label, or rows with these columns and no header"),
        ("xmin,image,xmin,ymin,xmax,ymax,label\n", "line 1 has the column 'xmin' twice; remove one"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text; save it as UTF-8"),
        ("a.jpg,1,2,3,4,方块".encode("gbk"), "is not UTF-8 text; save it as UTF-8"),
        (b"a.jpg,1,2,3,4,cat\nb.jpg,1,2,3,4,c\0t\n",
         "line 2: has a NUL byte, so it is not a CSV file; correct the path"),
        (b"a," * 1_000_000, "line 1: has over 1048576 characters, so it is not a CSV file; correct the path"),
        (b"a," * 200_000, "line 1 lacks the columns image_path, xmin"),
        (b'a.jpg,1,2,3,4,cat\nb.jpg,1,2,3,4,"cat\n', "line 2: is not valid CSV: unexpected end of data; check the"),
        (b'a.jpg,1,2,3,4,"' + b"x" * 200_000 + b'"\n', "line 1: is not valid CSV: field larger than field limit"),
        (b'a.jpg,1,2,3,4,"c"at\n', "line 1: is not valid CSV: ',' expected after '\"'; check the quotes there"),
    ],
    ids=range(14),
)  # fmt: skip
def test_file_that_is_not_a_table_is_rejected(table, content, message):
    found = fault_of(table(content))
    assert found.startswith(f"some.csv: {message}")
    assert len(found) < 400


def test_missing_file_is_reported(tmp_path):
    for name, reason in (("none.csv", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(InputError, match=reason):
            read_csv(DataSource(annotations=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "sub/../../secret.jpg", "x" * 5000, "sub/" * 2000])
def test_file_names_must_not_point_outside_the_folder(table, tmp_path, name):
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.jpg")
    (tmp_path / "sub").mkdir()
    source = table(f"{name},1,2,3,4,cat\n").model_copy(update={"images": str(tmp_path / "sub")})
    with pytest.raises(InputError, match=r"point outside|are not in"):
        read_dataset((source,))


FIELD = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "a.jpg", "1", "2.5", "nan", "1e400", "-7", "cat", '"', "\0"])
)
GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.lists(FIELD, max_size=8).map(",".join), max_size=8).map("\n".join),
    st.lists(st.lists(FIELD, min_size=6, max_size=6).map(",".join), max_size=8).map(
        lambda rows: HEADER + "\n".join(rows)
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GARBAGE)
def test_garbage_raises_only_input_errors(table, content):
    source = table(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        read = read_csv(source)
    except InputError:
        return
    assert np.isfinite(read.boxes_xywh).all() and len(read.boxes_xywh) == len(read.image_index) > 0
    assert read.image_index.max() < len(read) and read.category_index.max() < len(read.category_names)


NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda text: text == text.strip() and "\r" not in text
)
PIXELS = st.floats(0.25, 1e6).map(lambda value: round(value, 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAME, PIXELS, PIXELS, PIXELS, PIXELS, NAME), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_rows_written_by_the_csv_module_are_read(table, rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([HEADER.strip().split(","), *rows])
    read = read_csv(table(text.getvalue()))
    assert [read.file_names[index] for index in read.image_index] == [row[0] for row in rows]
    assert [read.category_names[index] for index in read.category_index] == [row[5] for row in rows]
    assert read.boxes_xywh.tolist() == [[x1, y1, x2 - x1, y2 - y1] for _, x1, y1, x2, y2, _ in rows]
