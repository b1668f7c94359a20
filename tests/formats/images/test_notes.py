"""Notes about images: value ranges, additional frames and ambiguous orientations."""

import numpy as np
import pytest

from retinanet.errors import InputError
from retinanet.formats.images.notes import MAX_DECODED, ImageNotes, orientation_is_ambiguous, sample_notes
from retinanet.formats.images.opened import ImageHeader
from retinanet.formats.images.reader import open_bands, read_header
from retinanet.formats.images.settings import ImageSettings
from tests.helpers.datasets import dataset_of, image_record
from tests.helpers.image_files import HEIGHT, IMAGE, MAX_PIXELS, SECOND_FRAME, WIDTH, exif, tiff
from tests.helpers.tiff_files import tiff_of


def notes_of(paths, annotated_size=(HEIGHT, WIDTH), **options):
    settings = ImageSettings(max_pixels=MAX_PIXELS, **options)
    notes = ImageNotes("truth.json", value_range=settings.value_range)
    for path in paths:
        with open_bands(path, settings) as opened:
            notes.add(opened, annotated_size)
    return notes


def range_texts(notes):
    """Severity and text of the findings about value ranges, which are the only findings."""
    assert all((item.kind, item.where) == ("value_range", "truth.json") for item in notes.findings())
    return [f"{item.severity}: {item.text}" for item in notes.value_ranges()]


def write_tiffs(folder, *maxima, dtype="<u2"):
    paths = [folder / f"{number}.tif" for number in range(len(maxima))]
    for path, maximum in zip(paths, maxima, strict=True):
        kinds = {"u": 1, "i": 2, "f": 3}
        path.write_bytes(
            tiff(np.array([[10, maximum]]), dtype=dtype, bits=8 * int(dtype[2:]), sample_format=kinds[dtype[1]])
        )
    return paths


# ---- orientation


@pytest.mark.parametrize(
    ("orientation", "wide", "square"),
    [(1, False, False), *[(o, True, True) for o in (2, 3, 4)], *[(o, False, True) for o in (5, 6, 7, 8)]],
)
def test_orientations_that_the_size_does_not_reveal(tmp_path, orientation, wide, square):
    for size, expected in (((WIDTH, HEIGHT), wide), ((20, 20), square)):
        IMAGE.resize(size).save(tmp_path / "image.jpg", exif=exif(orientation))
        header = read_header(tmp_path / "image.jpg", max_pixels=MAX_PIXELS)
        assert header.orientation == orientation
        assert orientation_is_ambiguous(header, (header.height, header.width)) == expected


def test_orientation_of_boxes_on_stored_pixels_is_clear():
    header = ImageHeader(40, 30, 6, "JPEG", 3, "uint8")  # stored as 30 x 40
    assert not orientation_is_ambiguous(header, (30, 40))


def test_ambiguous_orientations_are_counted(tmp_path):
    paths = []
    for orientation in (1, 3, 4, 6):
        paths.append(tmp_path / f"{orientation}.jpg")
        IMAGE.copy().save(paths[-1], exif=exif(orientation))
    (finding,) = notes_of(paths).findings()
    assert (finding.severity, finding.kind) == ("warning", "ambiguous_orientation")
    assert finding.text.startswith("2 image(s) are mirrored, rotated by 180 degrees, or square and rotated")
    assert finding.examples == (str(paths[1]), str(paths[2]))
    assert notes_of(paths[:1]).findings() == ()


# ---- frames


def test_images_with_additional_frames_are_counted(tmp_path):
    several = {"save_all": True, "append_images": [SECOND_FRAME.copy()]}
    for name, options in (
        ("a.gif", several),
        ("b.png", several),
        ("c.webp", several),
        ("d.tif", several),
        ("e.gif", {}),
    ):
        IMAGE.copy().save(tmp_path / name, **options)
    (finding,) = notes_of(sorted(tmp_path.iterdir())).findings()
    assert (finding.severity, finding.kind) == ("note", "several_frames")
    assert finding.message == "4 image(s) are animations or have several pages; only the first frame or page is used"
    assert finding.examples[0] == str(tmp_path / "a.gif")
    assert notes_of([tmp_path / "e.gif"]).findings() == ()


# ---- bands


def test_a_fourth_band_that_is_not_used_is_reported(tmp_path):
    for name, bands in (("four.tif", 4), ("three.tif", 3)):
        (tmp_path / name).write_bytes(tiff_of(np.full((HEIGHT, WIDTH, bands), 7, np.uint8)))
    for mode, name in (("CMYK", "cmyk.jpg"), ("RGBA", "alpha.png")):  # their fourth band is not one of the scene
        IMAGE.convert(mode).save(tmp_path / name)
    paths = sorted(tmp_path.iterdir())
    (finding,) = notes_of(paths).findings()
    assert (finding.severity, finding.kind) == ("note", "unused_bands")
    assert list(finding.examples) == [str(tmp_path / "four.tif")] and "set model.in_channels=4" in finding.message
    assert notes_of([tmp_path / "four.tif"], bands=(1, 2, 3)).findings() == ()
    assert notes_of([tmp_path / "four.tif"], channels=4).findings() == ()


# ---- value range


def test_value_range_is_described_once_for_each_type(tmp_path):
    (tmp_path / "floats").mkdir()
    paths = write_tiffs(tmp_path, 3000, 1728) + write_tiffs(tmp_path / "floats", 250, dtype="<f4")
    IMAGE.copy().save(tmp_path / "eight.png")
    assert range_texts(notes_of([*paths, tmp_path / "eight.png"])) == [
        "note: 1 image(s) have float32 samples, from 10 to 250: data.value_range auto scales [0, 255] to 0..255",
        "note: 2 image(s) have uint16 samples, from 10 to 3000: data.value_range auto scales [0, 4095] to 0..255",
    ]


def test_different_ranges_are_reported_with_a_setting_that_makes_them_equal(tmp_path):
    (words,) = range_texts(notes_of(write_tiffs(tmp_path, 3000, 900, 2000)))
    assert words == (
        "warning: 3 image(s) have uint16 samples, from 10 to 3000: data.value_range auto scales different ranges "
        "to 0..255 ([0, 4095] in 2, [0, 1023] in 1), so brightness differs between images; set data.value_range to "
        "one range for all, such as [0, 4095]"
    )
    (words,) = range_texts(notes_of(write_tiffs(tmp_path, -500, 900, -7, dtype="<i2")))
    assert words.endswith("such as [-500, 1023]")


def test_values_beyond_the_range_of_the_config_are_counted(tmp_path):
    paths = write_tiffs(tmp_path, 3000, 900, 2000)
    (words,) = range_texts(notes_of(paths, value_range=(0, 2000)))
    assert words == (
        "warning: 3 image(s) have uint16 samples, from 10 to 3000: data.value_range scales [0, 2000] to 0..255; 1 of "
        "them have values beyond it, which are clipped"
    )
    (words,) = range_texts(notes_of(paths, value_range=(0, 3000)))
    assert words.startswith("note: ") and words.endswith("scales [0, 3000] to 0..255")


def test_only_the_first_images_are_decoded(tmp_path):
    (path,) = write_tiffs(tmp_path, 3000)
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(path.read_bytes()[:-1])
    (words,) = range_texts(notes_of([path] * MAX_DECODED + [damaged]))
    assert words.startswith(
        f"note: {MAX_DECODED + 1} image(s) have uint16 samples, from 10 to 3000 in the first {MAX_DECODED}:"
    )
    with pytest.raises(InputError, match="truncated"):
        notes_of([damaged])


def test_sampled_images_are_spread_over_the_dataset_and_unreadable_ones_are_skipped(tmp_path):
    paths = write_tiffs(tmp_path, *range(100, 1100, 100))  # 100, 200, ... 1000
    paths[4].write_bytes(b"not an image")
    data = dataset_of([image_record(path, 1, 2, [], image_id=number) for number, path in enumerate(paths)])
    settings = ImageSettings(max_pixels=MAX_PIXELS)
    # Three evenly spaced images of ten: the first, number 4, which cannot be read, and the last.
    (words,) = range_texts(sample_notes(data, "truth.json", settings, max_images=3))
    assert words.startswith("warning: 2 image(s) have uint16 samples, from 10 to 1000:")
    (words,) = range_texts(sample_notes(data, "truth.json", settings, max_images=99))
    assert words.startswith("warning: 9 image(s) have uint16 samples")
    assert sample_notes(data.first(0), "truth.json", settings, max_images=3).findings() == ()


def test_value_range_covers_only_the_selected_bands(tmp_path):
    values = np.array([[[1, 2, 3, 9000, 5, 6, 7, 8]]], dtype=np.uint16)
    (tmp_path / "image.tif").write_bytes(tiff_of(values))
    (words,) = range_texts(notes_of([tmp_path / "image.tif"], bands=(1, 2, 3)))
    assert "from 1 to 3:" in words
    with pytest.raises(InputError, match="has 8 bands, expected 1, 3 or 4"):
        notes_of([tmp_path / "image.tif"])


def test_more_than_three_bands_have_a_range_each(tmp_path):
    """Maxima of 200, 900, 4000 and 9000 lead to 255, 1023, 4095 and 16383; in the second image, band 2 to 4095."""
    paths = [tmp_path / "one.tif", tmp_path / "two.tif"]
    for path, second in zip(paths, (900, 2000), strict=True):
        path.write_bytes(tiff_of(np.array([[[200, second, 4000, 9000]]], dtype=np.uint16)))
    (words,) = range_texts(notes_of(paths[:1], channels=4))
    assert words.startswith("note: 1 image(s) have uint16 samples, from 200 to 9000: ")
    assert words.endswith("auto scales [[0, 255], [0, 1023], [0, 4095], [0, 16383]] to 0..255")
    (words,) = range_texts(notes_of(paths, channels=4))
    assert words.startswith("warning: 2 image(s)") and "[[0, 255], [0, 4095], [0, 4095], [0, 16383]] in 1" in words
    assert words.endswith(
        "set data.value_range to one range for each channel, such as [[0, 255], [0, 4095], [0, 4095], [0, 16383]]"
    )
    fixed = ((0.0, 255.0), (0.0, 1000.0), (0.0, 4095.0), (0.0, 9000.0))
    (words,) = range_texts(notes_of(paths, channels=4, value_range=fixed))
    assert words.startswith("warning: ") and "scales [[0, 255], [0, 1000], [0, 4095], [0, 9000]] to 0..255" in words
    assert words.endswith("; 1 of them have values beyond it, which are clipped")
