"""The font chosen for a text has all of its characters, or they are replaced."""

import pytest
from PIL import ImageFont, features

from retinanet.visualization import fonts
from retinanet.visualization.fonts import font_for, missing_characters

pytestmark = pytest.mark.skipif(not features.check("freetype2"), reason="Pillow without FreeType has one font")


@pytest.fixture
def without_system_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "SYSTEM_FONTS", ())


def has_dejavu() -> bool:
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        return False
    return True


def test_ascii_is_shown_in_pillows_own_font():
    font, text = font_for("cat 0.75", 20)
    assert text == "cat 0.75" and font.getname() == ImageFont.load_default(20).getname()


@pytest.mark.skipif(not has_dejavu(), reason="the font DejaVu Sans is not installed")
@pytest.mark.parametrize("text", ["Größe", "Łódź", "Привет", "Ωμ →"])
def test_other_letters_are_shown_in_a_system_font(text):
    font, shown = font_for(text, 20)
    assert shown == text and font.size == 20
    masks = {bytes(font.getmask(character)) for character in text if character != " "}
    assert bytes(font.getmask(fonts.UNASSIGNED)) not in masks
    assert missing_characters([text]) == set()


def test_letters_without_a_font_are_replaced(without_system_fonts):
    _, shown = font_for("Größe 0.3", 20)
    assert shown == "Gr??e 0.3"
    assert missing_characters(["Größe", "cat?"]) == {"ö", "ß"}


def test_unassigned_characters_have_no_font():
    assert missing_characters(["a\U000ffffe"]) == {"\U000ffffe"}
