"""16-bit PNG, and installations without torchcodec."""

import importlib.util
import sys

import numpy as np
import pytest

from retinanet.formats.images import decode as decode_module
from retinanet.formats.images import opened as image_module
from retinanet.formats.images.reader import read_header
from tests.helpers.image_files import HEIGHT, IMAGE, MAX_PIXELS, ODD_EXIF, SECOND_FRAME, WIDE, WIDTH, chunk, png, read

ROUNDED = np.floor(WIDE / 257 + 0.5).astype(np.uint8)  # 0..65535 to 0..255
CHANNELS = {0: [0, 0, 0], 4: [0, 0, 0], 2: [0, 1, 2], 6: [0, 1, 2]}  # by colour type
NUM_CHANNELS = {0: 1, 4: 2, 2: 3, 6: 4}


def png_of(values, color, extra=b""):
    samples = values[..., : NUM_CHANNELS[color]].astype(">u2")
    return png([row.tobytes() for row in samples], depth=16, color=color, extra=extra)


@pytest.mark.parametrize("color", CHANNELS)
@pytest.mark.parametrize("apply_orientation", [True, False])
def test_16_bit_png_is_scaled_and_rotated(tmp_path, color, apply_orientation, decoder):
    (tmp_path / "image").write_bytes(png_of(WIDE, color, extra=chunk(b"eXIf", ODD_EXIF["big endian"][0])))
    expected = ROUNDED[..., CHANNELS[color]]
    pixels = read(tmp_path / "image", apply_orientation=apply_orientation)
    assert np.array_equal(pixels, np.rot90(expected, -1) if apply_orientation else expected)


@pytest.mark.parametrize("color", CHANNELS)
def test_12_bits_in_a_16_bit_png_keep_all_their_bits(tmp_path, color, decoder):
    values = WIDE % 4096
    (tmp_path / "image").write_bytes(png_of(values, color))
    expected = np.floor(values * 255 / 4095 + 0.5).astype(np.uint8)
    assert np.array_equal(read(tmp_path / "image"), expected[..., CHANNELS[color]])
    header = read_header(tmp_path / "image", max_pixels=MAX_PIXELS)
    assert header == image_module.ImageHeader(HEIGHT, WIDTH, 1, "PNG", len(set(CHANNELS[color])), "uint16")


def test_bands_of_a_16_bit_png(tmp_path):
    (tmp_path / "image").write_bytes(png_of(WIDE, 2))
    assert np.array_equal(read(tmp_path / "image", bands=(3, 1, 2)), ROUNDED[..., [2, 0, 1]])
    assert np.array_equal(read(tmp_path / "image", bands=(2,)), ROUNDED[..., [1, 1, 1]])


def test_damaged_16_bit_png_is_an_error(tmp_path):
    data = png_of(WIDE, 2)
    for name, cut in {"few rows": len(data) // 2, "no end of data": len(data) - 30}.items():
        (tmp_path / "image").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="damaged or truncated PNG"):
            read(tmp_path / "image")
            pytest.fail(name)


def second_copy_of_the_module():
    spec = importlib.util.spec_from_file_location("second_copy", decode_module.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("torchcodec", ["absent", "built for another torch"])
def test_pillow_decodes_if_torchcodec_cannot_be_imported(tmp_path, monkeypatch, caplog, torchcodec):
    if torchcodec == "absent":
        monkeypatch.setitem(sys.modules, "torchcodec", None)  # importing it raises ModuleNotFoundError
    else:
        (tmp_path / "torchcodec").mkdir()
        (tmp_path / "torchcodec/__init__.py").write_text('raise RuntimeError("undefined symbol\\nand more lines")')
        monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec" and sys.modules[name]]:
        monkeypatch.delitem(sys.modules, name)
    module = second_copy_of_the_module()
    assert module.decode_image is None
    warned = [record.getMessage() for record in caplog.records]
    assert warned == (
        [] if torchcodec == "absent" else ["torchcodec cannot be imported; using Pillow instead: undefined symbol"]
    )
    IMAGE.copy().save(tmp_path / "image.jpg")
    expected = read(tmp_path / "image.jpg")
    monkeypatch.setattr(image_module, "decode_8_bits", module.decode_8_bits)
    assert np.array_equal(read(tmp_path / "image.jpg"), expected)


def test_first_frame_of_an_animation_with_16_bits(tmp_path):
    animation = tmp_path / "animated.png"
    IMAGE.copy().save(animation, save_all=True, append_images=[SECOND_FRAME])
    actl = animation.read_bytes()
    start = actl.index(b"acTL") - 4
    data = png_of(WIDE, 2, extra=actl[start : start + 20])  # declares two frames
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(read(tmp_path / "image"), ROUNDED[..., :3])
