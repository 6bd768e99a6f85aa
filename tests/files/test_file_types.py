"""Files of other types: each is named, with a fix, before it is decoded."""

import bz2
import codecs
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from bulk_metadata.files import Options
from bulk_metadata.files.device import FileError
from bulk_metadata.files.formats import encoding_of
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import Source
from tests.files.reading import problems, read_all

TABLE = b"identifier;State\r\nSN-1;x\r\n"


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("fleet.csv"), io.BytesIO(b""))
    return content.getvalue()


def sqlite(tmp: str = "/tmp") -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE devices (identifier text)")
    return bytes(connection.serialize())


ODS = zipped(mimetype=b"application/vnd.oasis.opendocument.spreadsheet")
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000)
PSQL = b" identifier | state \n------------+-------\n SN-1       | x\n"
MYSQL = b"+------------+\n| identifier |\n+------------+\n| SN-1       |\n"
EXCEL_XML = (
    b'<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>\n<Workbook/>'
)


# Content, file type and fix.
FILES = [
    (zipped(xl__workbook=b""), "an Excel workbook", 'In Excel, choose "File'),
    (OLE, "an Excel workbook", 'In Excel, choose "File'),
    (ODS, "an OpenDocument spreadsheet", 'In LibreOffice, choose "File'),
    (
        zipped(Index__Document_iwa=b"").replace(b"_iwa", b".iwa"),
        "a Numbers spreadsheet",
        'In Numbers, choose "File',
    ),
    (zipped(word__document=b""), "a Word document", "Export the devices as CSV"),
    (zipped(fleet=TABLE), "a zip archive", "Unzip it"),
    (gzip.compress(gzip.compress(TABLE)), "compressed twice with gzip", "gunzip"),
    (bz2.compress(TABLE), "compressed with bzip2", "Unpack it"),
    (lzma.compress(TABLE), "compressed with xz", "Unpack it"),
    (gzip.compress(tar()), "a tar archive", "Unpack it"),
    (b"PAR1\x15\x04\x15", "a Parquet file", "Export the devices as CSV"),
    (sqlite(), "a database", "Export the devices as CSV"),
    (b"PGDMP\x01", "a database dump", "Export the devices as CSV"),
    (b"--\n-- PostgreSQL database dump\n--\n", "a database dump", "Export the"),
    (b"INSERT INTO devices VALUES", "a database dump", "Export the devices as CSV"),
    (b"%PDF-1.7\n", "a PDF document", "Export the devices as CSV"),
    (b"\xff\xd8\xff\xe0", "an image", "Export the devices as CSV"),
    (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "a web page (HTML)", "Download the"),
    (b"<table><tr><td>identifier", "a web page (HTML)", "Download the file"),
    (b"<!-- c -->\n" * 100 + b"<html>", "a web page (HTML)", "Download the file"),
    (b"<!-- c -->\n" * 100 + b"<devices/>", "an XML file", "Export the devices"),
    (EXCEL_XML, "a spreadsheet in XML", 'In Excel, choose "File'),
    (
        b'<?xml version="1.0"?><devices/>',
        "an XML file",
        "Export the devices as CSV",
    ),
    (PSQL, "a table for display, not a CSV file", "\\copy"),
    (MYSQL, "a table for display, not a CSV file", "\\copy"),
    (TABLE.decode().encode("utf-32"), "UTF-32 text", "CSV UTF-8"),
    (
        TABLE.decode().encode("utf-16-le"),
        "UTF-16 without a byte order mark",
        "--encoding utf-16-le",
    ),
    (
        TABLE.decode().encode("utf-16-be"),
        "UTF-16 without a byte order mark",
        "--encoding utf-16-be",
    ),
    (bytes(5000), "not a text file", "Copy, download or export the file again"),
    (b"", "empty", "Check that the export has finished"),
    (codecs.BOM_UTF8 + b"\r\n", "empty", "Check that the export has finished"),
    (codecs.BOM_UTF16_LE, "empty", "Check that the export has finished"),
    (gzip.compress(b""), "empty", "Check that the export has finished"),
]


@pytest.mark.parametrize(("content", "file_type", "fix"), FILES, ids=range(len(FILES)))
@pytest.mark.parametrize("extension", ["csv", "json", "xlsx"])
def test_other_file_type_is_named_with_fix(
    content: bytes, file_type: str, fix: str, extension: str, tmp_path: Path
) -> None:
    path = tmp_path / f"fleet.{extension}"
    path.write_bytes(content)
    with Source(str(path)) as source, pytest.raises(FileError) as raised:
        DeviceFile(source, Options())
    assert raised.value.as_problem().message.startswith(f"the file is {file_type}. ")
    assert raised.value.as_problem()[:3] == (0, 0, "")
    assert fix in raised.value.fix


@pytest.mark.parametrize(
    ("head", "is_text"),
    [
        (b"", True),
        (b"\0" + b"x" * 7, True),
        (bytes(12) + b"x" * 88 + bytes(9), True),
        (bytes(12) + b"x" * 87 + bytes(1), False),
    ],
    ids=["0 of 0", "1 of 8", "12 of 100", "13 of 100"],
)
def test_few_nul_bytes_may_be_text(head: bytes, is_text: bool) -> None:
    with nullcontext() if is_text else pytest.raises(FileError):
        assert encoding_of(head, "utf-8") == "utf-8"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_utf_16_requires_byte_order_mark(encoding: str) -> None:
    content = TABLE.decode().encode(encoding)
    reason = "the file does not begin with a byte order mark of UTF-16"
    assert problems(content, "csv", encoding="utf-16") == [(0, "", reason)]


@pytest.mark.parametrize(
    "header",
    [
        b"Parent,identifier",
        b"PAR1,identifier",
        b"Object,identifier",
        b"ID;Place|identifier",
    ],
)
def test_header_does_not_match_file_type(header: bytes) -> None:
    devices, found = read_all(
        header.replace(b"ID;Place|", b"ID,") + b"\nx,SN-1\n", "csv"
    )
    assert found == []
    assert [device.identifier for device in devices] == ["SN-1"]
