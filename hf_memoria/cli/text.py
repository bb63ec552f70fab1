"""Text of files and of standard input, decoded, or refused with where it is wrong and what to do."""

from __future__ import annotations

import codecs
import io

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose mark the one of UTF-32 begins with.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK = "\ufeff"

REMEDY = "Convert it to UTF-8, as `iconv -f latin1 -t utf-8` does"


def decode_text(content: bytes, name: str, encoding: str | None = None, remedy: str = REMEDY) -> str:
    """Return bytes as text, without a byte order mark, every end of a line a newline.

    Args:
        content: the bytes.
        name: the name of what they come from, for errors.
        encoding: name of their encoding; None is UTF-8, or what a byte order mark says.
        remedy: the advice for an error, without a full stop.

    Raises:
        ValueError: if they are not text in that encoding, with the first byte that is wrong; or if there is no such
            encoding.
    """
    marked = next((found for mark, found in _MARKS if content.startswith(mark)), "utf-8")
    expected = encoding or marked
    try:
        text = str(content, expected)
    except UnicodeDecodeError as error:
        got = f"0x{content[error.start]:02x} ({error.reason}) at byte {error.start} of {len(content)}"
        raise ValueError(f"{name} must be text in {expected.upper()}; got {got}. {remedy}.") from error
    except LookupError as error:
        known = "an encoding that Python knows, as utf-8, utf-16, latin-1 or cp1252"
        raise ValueError(f"the encoding of {name} must be {known}; got {encoding!r}.") from error
    if encoding is None and marked == "utf-8" and "\0" in text:
        where = len(text.partition("\0")[0].encode())
        raise ValueError(
            f"{name} must be text in UTF-8; got 0x00 at byte {where} of {len(content)}, as UTF-16 without a byte "
            f"order mark has, or what is no text. {remedy}."
        )
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text.removeprefix(_MARK), final=True)
