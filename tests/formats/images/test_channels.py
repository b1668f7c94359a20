"""Images that do not have three channels, in one file and in several."""

import numpy as np
import pytest
import torch
from PIL import Image

from retinanet.errors import InputError
from retinanet.formats.images import opened as image_module
from retinanet.formats.images.reader import open_bands, read_header, read_image
from retinanet.formats.images.settings import ImageSettings
from tests.helpers.image_files import HEIGHT, MAX_PIXELS, NOISE, WIDTH, exif, with_alpha
from tests.helpers.tiff_files import tiff_of

GREY = NOISE[..., 0]
SIX = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 6), dtype=np.uint8)
ALPHA, UNSPECIFIED = (338, 3, [2]), (338, 3, [0])  # the TIFF tag ExtraSamples


def read(path, channels, **options):
    """Pixels as an array (H, W, C)."""
    pixels = read_image(path, max_pixels=MAX_PIXELS, channels=channels, **options)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "RGBA", "P"])
def test_one_channel_is_pillows_grey(tmp_path, mode, file_format):
    image = Image.fromarray(NOISE)
    image = with_alpha(image.convert(mode[:-1])) if mode.endswith("A") else image.convert(mode)
    try:
        image.save(tmp_path / "image", file_format)
    except (OSError, ValueError):
        pytest.skip(f"{file_format} cannot store {mode}")
    with Image.open(tmp_path / "image") as stored:
        grey = stored.mode in ("1", "L", "LA")
        expected = np.asarray(stored.convert("L") if grey else stored.convert("RGB").convert("L"))
    assert np.array_equal(read(tmp_path / "image", 1)[..., 0], expected)


def test_grey_file_is_decoded_without_conversion_to_rgb(tmp_path, monkeypatch):
    decoded = []
    original = image_module.decode_8_bits
    monkeypatch.setattr(
        image_module, "decode_8_bits", lambda *args, **kwargs: decoded.append(original(*args, **kwargs)) or decoded[-1]
    )
    Image.fromarray(GREY).save(tmp_path / "image.png")
    read(tmp_path / "image.png", 1)
    assert [tuple(pixels.shape) for pixels in decoded] == [(1, HEIGHT, WIDTH)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_applies_to_one_channel(tmp_path, orientation):
    Image.fromarray(GREY).save(tmp_path / "image.png", exif=exif(orientation))
    shown, stored = (read(tmp_path / "image.png", 1, apply_orientation=apply) for apply in (True, False))
    assert np.array_equal(stored[..., 0], GREY)
    rgb = read(tmp_path / "image.png", 3)
    assert np.array_equal(shown, rgb[..., :1])


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("channels", [2, 4, 5, 6])
def test_all_bands_of_a_tiff(tmp_path, channels, planar):
    (tmp_path / "image.tif").write_bytes(tiff_of(SIX[..., :channels], planar=planar))
    assert np.array_equal(read(tmp_path / "image.tif", channels), SIX[..., :channels])


def test_selected_bands_in_order(tmp_path):
    (tmp_path / "image.tif").write_bytes(tiff_of(SIX))
    assert np.array_equal(read(tmp_path / "image.tif", 4, bands=(6, 1, 1, 3)), SIX[..., [5, 0, 0, 2]])
    assert np.array_equal(read(tmp_path / "image.tif", 1, bands=(5,)), SIX[..., [4]])
    with pytest.raises(InputError, match=r"has 6 band\(s\).* selects band 7"):
        read(tmp_path / "image.tif", 4, bands=(1, 2, 3, 7))


@pytest.mark.parametrize(
    ("bands", "tags", "channels", "words"),
    [
        (3, (), 4, r"has 3 band\(s\) besides alpha, expected 4 \(model\.in_channels\); set model\.in_channels=3"),
        (6, (), 4, r"has 6 .*expected 4 .*; select 4 of them with data\.bands, or set model\.in_channels=6"),
        (4, (ALPHA,), 4, r"has 3 .*expected 4.* band 4 is marked as alpha: if it is not, select it with data\.bands"),
        (5, (), 1, r"has 5 .*expected 1 "),
        (2, (ALPHA,), 2, r"has 1 .*expected 2 "),
    ],
)
def test_wrong_number_of_bands_names_both_numbers_and_the_file(tmp_path, bands, tags, channels, words):
    (tmp_path / "image.tif").write_bytes(tiff_of(SIX[..., :bands], photometric=2 if bands > 2 else 1, tags=tags))
    with pytest.raises(InputError, match=f"image.tif: {words}"):
        read(tmp_path / "image.tif", channels)


def test_png_with_alpha_has_three_bands(tmp_path):
    with_alpha(Image.fromarray(NOISE)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=r"image\.png: has 3 band\(s\) besides alpha, expected 4"):
        read(tmp_path / "image.png", 4)


def test_alpha_is_not_a_band_unless_it_is_selected(tmp_path):
    four = SIX[..., :4]
    (tmp_path / "rgbn.tif").write_bytes(tiff_of(four, photometric=2, tags=(UNSPECIFIED,)))
    (tmp_path / "rgba.tif").write_bytes(tiff_of(four, photometric=2, tags=(ALPHA,)))
    assert np.array_equal(read(tmp_path / "rgbn.tif", 4), four)
    assert read_header(tmp_path / "rgba.tif", max_pixels=MAX_PIXELS).bands_without_alpha == (1, 2, 3)
    assert np.array_equal(read(tmp_path / "rgba.tif", 4, bands=(1, 2, 3, 4)), four)
    five = tiff_of(SIX[..., :5], photometric=2, tags=((338, 3, [2, 0]),))  # alpha before near infrared
    (tmp_path / "rgban.tif").write_bytes(five)
    assert np.array_equal(read(tmp_path / "rgban.tif", 4), SIX[..., [0, 1, 2, 4]])


def test_each_of_five_16_bit_bands_has_its_own_range(tmp_path):
    """Maxima of 200, 900, 4000, 10000 and 60000: ranges 255, 1023, 4095, 16383 and 65535."""
    values = np.array([[[200, 900, 4000, 10000, 60000], [100, 0, 1, 2, 3]]], dtype=np.uint16)
    (tmp_path / "image.tif").write_bytes(tiff_of(values))
    expected = np.floor(values[0, 0] / np.array([255, 1023, 4095, 16383, 65535]) * 255 + 0.5)
    assert read(tmp_path / "image.tif", 5)[0, 0].tolist() == expected.tolist() == [200, 224, 249, 156, 233]
    assert read(tmp_path / "image.tif", 3, bands=(1, 2, 3))[0, 0].tolist() == [12, 56, 249]  # share 4095
    assert read(tmp_path / "image.tif", 5, value_range=(0.0, 65535.0))[0, 0].tolist() == [1, 4, 16, 39, 233]
    ranges = ((0.0, 200.0), (0.0, 1800.0), (0.0, 4000.0), (5000.0, 15000.0), (0.0, 120000.0))
    assert read(tmp_path / "image.tif", 5, value_range=ranges)[0, 0].tolist() == [255, 128, 255, 128, 128]


# ---- several files

PATTERNS = ("{stem}.png", "{stem}_ir.tif")


def write_pair(folder, heat, *, colour=NOISE, orientation=1):
    Image.fromarray(colour).save(folder / "a.png", exif=exif(orientation))
    (folder / "a_ir.tif").write_bytes(tiff_of(heat))
    return folder / "a.png"


def test_bands_of_two_files_are_joined_in_order(tmp_path):
    path = write_pair(tmp_path, SIX[..., :2])
    both = np.concatenate([NOISE, SIX[..., :2]], axis=2)
    assert np.array_equal(read(path, 5, band_files=PATTERNS), both)
    assert np.array_equal(read(path, 3, band_files=PATTERNS, bands=(5, 2, 4)), both[..., [4, 1, 3]])
    assert np.array_equal(read(path, 1, band_files=PATTERNS, bands=(4,)), both[..., [3]])
    assert np.array_equal(read(path, 3, band_files=PATTERNS, bands=(4,)), both[..., [3, 3, 3]])


def test_each_file_has_its_own_range(tmp_path):
    heat = np.full((HEIGHT, WIDTH, 1), 2000, np.uint16)
    path = write_pair(tmp_path, heat)
    expected = np.concatenate([NOISE, np.full((HEIGHT, WIDTH, 1), 125, np.uint8)], axis=2)  # 2000 / 4095 * 255 = 124.5
    assert np.array_equal(read(path, 4, band_files=PATTERNS), expected)
    ranges = ((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1000.0, 3000.0))  # 8-bit files are not scaled
    assert (read(path, 4, band_files=PATTERNS, value_range=ranges)[..., 3] == 128).all()


def test_orientation_applies_to_each_file(tmp_path):
    rotated = np.ascontiguousarray(np.rot90(NOISE, -1))  # as displayed: orientation 6 is stored unrotated
    path = write_pair(tmp_path, rotated[..., :1], orientation=6)
    shown = read(path, 4, band_files=PATTERNS)
    assert np.array_equal(shown[..., :3], rotated) and np.array_equal(shown[..., 3], rotated[..., 0])
    with pytest.raises(InputError, match="rotated differently by EXIF"):
        read(path, 4, band_files=PATTERNS, apply_orientation=False)


def test_files_of_different_sizes_are_rejected(tmp_path):
    path = write_pair(tmp_path, SIX[:-1, :, :1])
    with pytest.raises(InputError, match=rf"a_ir\.tif: is {WIDTH}x{HEIGHT - 1}, but .*a\.png is {WIDTH}x{HEIGHT}; all"):
        read(path, 4, band_files=PATTERNS)


def test_wrong_total_of_bands_and_missing_file(tmp_path):
    path = write_pair(tmp_path, SIX[..., :2])
    with pytest.raises(InputError, match=r"a\.png, .*a_ir\.tif: have 3 \+ 2 bands besides alpha, expected 4"):
        read(path, 4, band_files=PATTERNS)
    with pytest.raises(InputError, match=r"3 \+ 2 bands besides alpha, but data\.bands selects band 6"):
        read(path, 1, band_files=PATTERNS, bands=(6,))
    (tmp_path / "a_ir.tif").unlink()
    with pytest.raises(InputError, match=r"a_ir\.tif: No such file"):
        read(path, 5, band_files=PATTERNS)


def test_scaled_types_are_those_of_all_files(tmp_path):
    path = write_pair(tmp_path, np.zeros((HEIGHT, WIDTH, 1), np.float32))
    settings = ImageSettings(max_pixels=MAX_PIXELS, band_files=PATTERNS, channels=4)
    with open_bands(path, settings) as opened:
        assert opened.scaled_types == ["float32"] and not opened.has_more_frames()
