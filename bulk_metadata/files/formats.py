"""The formats of device files, and the detection of files of other types."""

import codecs
import re
from pathlib import PurePath
from typing import NamedTuple

from bulk_metadata.files import advice
from bulk_metadata.files.device import FileError

# File name extension -> format. Each may be followed by .gz.
FORMATS = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}


class UnknownFormatError(Exception):
    """The file name does not determine a format."""


class Signature(NamedTuple):
    """A file type that is not a device file."""

    # Matches the beginning of the file. A dot matches any byte.
    pattern: bytes
    file_type: str
    fix: str


# The first match determines the file type. A possessive quantifier (*+) skips comments:
# otherwise each comment would double the time.
SIGNATURES = (
    Signature(rb"PK\x03\x04.*?word/document", "a Word document", advice.EXPORT),
    Signature(
        rb"PK\x03\x04.*?(?:xl/(?:workbook|worksheets|styles)|\[Content_Types\]\.xml)"
        rb"|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|\t[\0\x02\x04\x08][\x04-\x10]\0",
        "an Excel workbook",
        advice.SAVE_EXCEL,
    ),
    Signature(
        rb"PK\x03\x04.{26}mimetypeapplication/vnd\.(?:oasis|sun)",
        "an OpenDocument spreadsheet",
        advice.SAVE_LIBREOFFICE,
    ),
    Signature(
        rb"PK\x03\x04.*?Index(?:\.zip|/[\w-]+\.iwa)",
        "a Numbers spreadsheet",
        advice.SAVE_NUMBERS,
    ),
    Signature(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", advice.UNZIP),
    Signature(rb"\x1f\x8b", "compressed twice with gzip", advice.GUNZIP),
    Signature(rb"BZh[1-9]1AY&SY", "compressed with bzip2", advice.UNPACK),
    Signature(rb"\xfd7zXZ\0", "compressed with xz", advice.UNPACK),
    Signature(rb"\x28\xb5\x2f\xfd", "compressed with zstd", advice.UNPACK),
    Signature(rb"\x04\x22\x4d\x18", "compressed with lz4", advice.UNPACK),
    Signature(rb"\x1f[\x9d\xa0]", "compressed with compress", advice.UNPACK),
    Signature(rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", advice.UNPACK),
    Signature(rb"Rar!\x1a\x07", "a RAR archive", advice.UNPACK),
    Signature(rb".{257}ustar", "a tar archive", advice.UNPACK),
    Signature(rb"PAR[1E](?![\w ,;|\t\r\n])", "a Parquet file", advice.EXPORT),
    Signature(
        rb"(?:ARROW1|FEA1|Obj\x01|\x89HDF)(?![\w ,;|\t\r\n])",
        "a binary data file",
        advice.EXPORT,
    ),
    Signature(
        rb"SQLite format 3\0|\0\x01\0\0Standard (?:Jet|ACE) DB",
        "a database",
        advice.EXPORT,
    ),
    Signature(
        rb"PGDMP|PGCOPY\n|\s*(?:--[^\n]*\n\s*)*--[^\n]*(?:Postgre|MySQL|MariaDB)[^\n]*dump"
        rb"|(?i:\s*(?:INSERT INTO|CREATE TABLE|COPY \S+ \())",
        "a database dump",
        advice.EXPORT,
    ),
    Signature(rb"%PDF-", "a PDF document", advice.EXPORT),
    Signature(rb"\{\\rtf", "a Word document", advice.EXPORT),
    Signature(
        rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*", "an image", advice.EXPORT
    ),
    Signature(
        rb"\s*<\?xml.*?office:document|ID;P(?:CALC|WXL|SCALC)|TABLE\r?\n0,1\r?\n",
        "a spreadsheet in a text format (.fods, .slk or .dif)",
        advice.SAVE_LIBREOFFICE,
    ),
    Signature(
        rb"\s*<\?xml.*?(?:office:spreadsheet|Excel\.Sheet)",
        "a spreadsheet in XML",
        advice.SAVE_EXCEL,
    ),
    Signature(
        rb"(?i)\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+"
        rb"<(?:!doctype|html|head|body|table|meta|script|style)\b",
        "a web page (HTML)",
        advice.EXPORT_FROM_PAGE,
    ),
    Signature(
        rb"\s*(?:<!--.*?-->\s*)*+<(?:\?xml|[A-Za-z][\w:.-]*[\s/>])",
        "an XML file",
        advice.EXPORT,
    ),
    Signature(
        rb"\s*\+-[-+]*+\s*\n|(?=[^\n]*\|)[^\n]*+\n(?=[^\n]*--)[-+|: ]++\r?\n",
        "a table for display, not a CSV file",
        advice.EXPORT_FROM_DATABASE,
    ),
    Signature(rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32 text", advice.ENCODING),
)

# Byte order mark -> encoding.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# Bytes that are examined for NUL bytes, and the share of them that text may have: text
# in UTF-16 with a header in ASCII has one in two.
SAMPLE_BYTES = 100
MAX_NUL_SHARE = 1 / 8


def check_file_type(head: bytes) -> None:
    """Raise FileError if a file that begins with ``head`` is not a text file."""
    text = head.removeprefix(codecs.BOM_UTF8)
    if not text.strip() or text in MARKS:
        raise FileError(0, "the file is empty", advice.EMPTY)
    for pattern, file_type, fix in SIGNATURES:
        if re.match(pattern, text, re.DOTALL):
            raise FileError(0, f"the file is {file_type}", fix)


def encoding_of(head: bytes, chosen: str) -> str:
    """Return the encoding of a file that begins with ``head``: the one of its byte
    order mark, otherwise the ``chosen`` one. Raises FileError for binary data,
    and for UTF-16 of unknown byte order."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if chosen == "utf-16":
        reason = "the file does not begin with a byte order mark of UTF-16"
        raise FileError(0, reason, advice.BYTE_ORDER)
    sample = head[:SAMPLE_BYTES]
    if chosen.startswith("utf-16") or sample.count(0) <= len(sample) * MAX_NUL_SHARE:
        return chosen
    if min(sample[::2].count(0), sample[1::2].count(0)) == 0:
        raise FileError(0, "the file is UTF-16 without a byte order mark", advice.UTF16)
    raise FileError(0, "the file is not a text file", advice.DAMAGED)


def format_of(name: str, default: str | None) -> str:
    """Return the format of a file with this name. Raises UnknownFormatError if there is
    no ``default``."""
    extension = PurePath(name.lower().removesuffix(".gz")).suffix
    if found := FORMATS.get(extension, default):
        return found
    raise UnknownFormatError(
        f'Unknown file name extension "{extension}". Set the format with --format. '
        f"Known extensions: {', '.join(FORMATS)}, each also with .gz."
    )
