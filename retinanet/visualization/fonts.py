"""Choose a font that can show a text."""

import functools
from collections.abc import Iterable

from PIL import ImageFont, features

# File names that Pillow finds in the font folders of Linux, macOS and Windows, those with the most scripts first.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "Arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Hiragino Sans GB.ttc",
    "PingFang.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
UNASSIGNED = "\U000fffff"  # has no glyph in any font, so it shows what a font draws for missing characters

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_for(text: str, size: int) -> tuple[Font, str]:
    """Choose a font for a text, and replace characters that no font has.

    Pillow's own font has only ASCII letters. For other texts, the first system font with all characters is used,
    or else the one with the most, and the missing characters become `?` in the returned text.

    Args:
        size: height of the letters with their ascenders, in pixels.
    """
    if not features.check("freetype2"):  # Pillow's fallback font has Latin-1 letters in one size
        return ImageFont.load_default(), text.encode("latin-1", "replace").decode("latin-1")
    needed = set(text)
    names = [None, *SYSTEM_FONTS] if not text.isascii() else [None]
    missing = {
        name: needed if _load(name, size) is None else {character for character in needed if _lacks(name, character)}
        for name in names
    }
    best = min(names, key=lambda name: len(missing[name]))  # the first of equals
    font = _load(best, size)
    assert font is not None  # Pillow's own font always exists
    return font, "".join("?" if character in missing[best] else character for character in text)


def missing_characters(texts: Iterable[str]) -> set[str]:
    """The characters of texts that are drawn as `?`, because no installed font has them."""
    return {
        character
        for text in texts
        for character, shown in zip(text, font_for(text, 20)[1], strict=True)
        if character != shown
    }


@functools.cache
def _load(name: str | None, size: int) -> ImageFont.FreeTypeFont | None:
    """Load a font by its file name, or Pillow's own; None if it is not installed."""
    try:
        font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


@functools.cache
def _lacks(name: str | None, character: str) -> bool:
    """Whether an installed font has no glyph for a character."""
    font = _load(name, 20)
    assert font is not None
    return not character.isspace() and _glyph(font, character) == _glyph(font, UNASSIGNED)


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
