"""What images tell of themselves before they are decoded."""

from __future__ import annotations

import struct

#: How PNG and JPEG begin; what begins otherwise is no image.
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
#: The kinds of PNG without colours: grey, and grey with transparency.
_GREY_PNG = (0, 4)
#: The markers of JPEG before which the size stands: start of frame, of every coding.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Markers without a length.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})

#: Height and width in pixels, and whether there are colours.
Header = tuple[int, int, bool]


def read(image: bytes) -> Header | None:
    """The header of an image; None if it is neither PNG nor JPEG, or not as much as a header."""
    if image.startswith(PNG):
        return _png(image)
    return _jpeg(image) if image.startswith(JPEG) else None


def _png(image: bytes) -> Header | None:
    if len(image) < 26:
        return None
    width, height = struct.unpack_from(">II", image, 16)
    return height, width, image[25] not in _GREY_PNG


def _jpeg(image: bytes) -> Header | None:
    place = 2
    while place + 9 < len(image):
        if image[place] != 0xFF:
            return None
        marker = image[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", image, place + 5)
            return height, width, components > 1
        else:
            place += 2 + int(struct.unpack_from(">H", image, place + 2)[0])
    return None
