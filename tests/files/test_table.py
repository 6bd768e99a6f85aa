"""CSV and TSV: one column for each member of the metadata."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_metadata.files import Options
from bulk_metadata.files.columns import parse_number
from bulk_metadata.files.device import DeviceError, FileError
from bulk_metadata.files.table import csv_writer, read_table
from tests.files.reading import problems, read_all, texts

REST = "; the rest of the file was not checked"


def test_cells_are_strings_verbatim() -> None:
    table = 'identifier,serial,note\nSN-1,007,"a ""b"", c\n é😀"\n 42 , 1.50 ,true\n'
    assert texts(table, "csv") == {
        "SN-1": '{"serial":"007","note":"a \\"b\\", c\\n é😀"}',
        "42": '{"serial":" 1.50 ","note":"true"}',
    }


def test_types_nest_and_empty_cells_are_omitted() -> None:
    table = (
        "a.b:number,identifier,a.c,on:Boolean,tags:json,a:b:string\n"
        '98.60,SN-1,x,TRUE,"[1E2, ""a""]",y\n'
        " -0 ,SN-2,,false, ,\n"
    )
    assert texts(table, "csv") == {
        "SN-1": '{"a":{"b":98.60,"c":"x"},"on":true,"tags":[1E2, "a"],"a:b":"y"}',
        "SN-2": '{"a":{"b":-0},"on":false}',
    }


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("site.city", '{"site":{"city":"x"}}'),
        (r"site\.city", '{"site.city":"x"}'),
        (r"v1\.2.beta", '{"v1.2":{"beta":"x"}}'),
        (r"C:\\a.b:string", r'{"C:\\a":{"b":"x"}}'),
        ("Temp. (°C)", '{"Temp. (°C)":"x"}'),
        ("Temp.(°C)", '{"Temp.(°C)":"x"}'),
        ("Max. Temp.", '{"Max. Temp.":"x"}'),
        ("Notes...", '{"Notes...":"x"}'),
        (".NET", '{".NET":"x"}'),
        ("metadata:string", '{"metadata":"x"}'),
    ],
)
def test_dot_nests_only_between_names(name: str, document: str) -> None:
    assert texts(f"identifier,{name}\nSN-1,x\n", "csv") == {"SN-1": document}


@pytest.mark.parametrize(
    "table",
    [
        'identifier,"a;b;c;d",e\nSN-1,x,y\n',
        "identifier;a,b;e\r\nSN-1;x;y\r\n",
        'e;"a,b;c,d";identifier\r\ny;x;SN-1\r\n',
        "identifier\ta;b,c|d\te\nSN-1\tx\ty\n",
        "a;b;c;d|IDENTIFIER|e\nx|SN-1|y\n",
        'a;"e\r\nf";identifier\r\nx;y;SN-1\r\n',
        'a;size 5";identifier\r\nx;y;SN-1\r\n',
        "sep=#\nidentifier#a;b;c;d#e\nSN-1#x#y\n",
        '\ufeff"SEP=\t"\r\nidentifier\ta;b;c;d\te\r\nSN-1\tx\ty\r\n',
        '#TYPE Device\r\n"identifier","a;b","e"\r\n"SN-1","x","y"\r\n',
        "\n;;\n\n \nidentifier;a,b;e\n\n;;\nSN-1;x;y\n",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separator_is_detected(table: str, end: str, encoding: str) -> None:
    content = table.replace("\r\n", "\n").replace("\n", end).encode(encoding)
    [(identifier, document)] = texts(content, "csv").items()
    assert identifier == "SN-1"
    assert list(json.loads(document).values()) in (["x", "y"], ["y", "x"])


def test_identifier_column_can_have_another_name() -> None:
    table = "Serial Number;identifier\nSN-1;x\n"
    assert texts(table, "csv", identifier_column=" serial number") == {
        "SN-1": '{"identifier":"x"}'
    }


def test_metadata_column_contains_json_objects() -> None:
    table = (
        'Metadata;identifier;\n" {""a"": 1.0, ""b"": ""#N/A \\\\N""} ";SN-1;\n{};SN-2;'
    )
    expected = {"SN-1": '{"a": 1.0, "b": "#N/A \\\\N"}', "SN-2": "{}"}
    assert texts(table, "csv") == expected
    assert problems("identifier;metadata\nSN-1;\\N\nSN-2; \n", "csv") == [
        (2, "SN-1", "the device has no metadata"),
        (3, "SN-2", "the device has no metadata"),
    ]


def test_lines_are_counted_where_rows_begin() -> None:
    table = 'identifier,n:number,s\n\nSN-1,1,"a\nb"\nSN-2,x,\n"S\nN",1,\n,1,\n'
    devices, found = read_all(table, "csv")
    assert [(d.number, d.line, d.identifier) for d in devices] == [
        (1, 3, "SN-1"),
        (3, 6, "S\nN"),
    ]
    assert found == [
        (5, "SN-2", 'column "n:number": expected a number, got "x"'),
        (8, "", "the identifier is empty"),
    ]


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        *[
            ("n:number", cell, f'expected a number, got "{cell}"')
            for cell in (
                "12,5",
                "1.234,5",
                "007",
                "+1",
                "NaN",
                "1.",
                ".5",
                "1 000",
                "٣",
            )
        ],
        ("n:number", "x" * 10_000_000, f'expected a number, got "{"x" * 100}..."'),
        ("b:boolean", "yes", 'expected true or false, got "yes"'),
        ("j:json", "{", 'expected JSON, got "{"'),
        ("j:json", "#REF!", '"#REF!" is an error value of a formula'),
        ("j:json", "[" * 100_000, "the JSON has too many levels of nesting"),
        ("metadata", "x", 'expected JSON, got "x"'),
    ],
)
def test_cell_of_another_type_is_rejected(column: str, cell: str, reason: str) -> None:
    table = f"identifier;{column}\nSN-0;{{}}\nSN-1;{cell}\n"
    assert problems(table, "csv")[-1] == (3, "SN-1", f'column "{column}": {reason}')


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        (
            "-1.234,50",
            "Use a decimal point instead of a comma, without a thousands separator: "
            "3.70",
        ),
        (
            "12 V",
            "Use digits and a decimal point, without a thousands separator: 1234.5",
        ),
    ],
)
def test_invalid_number_has_fix(cell: str, fix: str) -> None:
    with pytest.raises(DeviceError) as raised:
        parse_number(cell)
    assert raised.value.fix == fix


def test_all_errors_of_row_are_reported() -> None:
    table = (
        "identifier,a:number,b:boolean,c\nSN-1,x,#NV,z\nSN-2,1\n"
        "SN-3,1,true,z,,4,\xf6\nSN-4,1,true,z,,\nSN-\xf6,1,true,z,\xf6,4\n"
    )
    assert problems(table.encode("latin-1"), "csv") == [
        (
            2,
            "SN-1",
            'column "b:boolean": "#NV" is an error value of a formula; '
            'column "a:number": expected a number, got "x"',
        ),
        (3, "", "expected 4 cells (as in the header), got 2"),
        (4, "", 'expected 4 cells (as in the header), got 7; surplus cell: "4"'),
        (
            6,
            "",
            '"?" is not UTF-8 (or the encoding set with --encoding): byte 0xF6',
        ),
    ]


ONE_IDENTIFIER = "the header must have one identifier column; its columns: "


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        ("\n\n;;\n", 3, ONE_IDENTIFIER + "none"),
        ("SN-1;x,y;z\n", 1, ONE_IDENTIFIER + '"SN-1", "x,y", "z"'),
        ("sep=;\nSN-1,x\n", 2, ONE_IDENTIFIER + '"SN-1,x"'),
        ("sep=;\nidentifier=a;b\n", 2, ONE_IDENTIFIER + '"identifier=a", "b"'),
        ("a" * 1000, 1, ONE_IDENTIFIER + '"%s...' % ("a" * 99)),
        (b"\nidentifi\xe9r,a\n", 2, ONE_IDENTIFIER + '"identifi?r", "a"'),
        ("identifier,Identifier\n", 1, ONE_IDENTIFIER + '"identifier", "Identifier"'),
        ("\"id\"x,'a'b\n\n" * 200, 1, ONE_IDENTIFIER + '""id"x,\'a\'b"'),
        (
            b"identifier,a\xe9\n",
            1,
            '"a?" is not UTF-8 (or the encoding set with --encoding): byte 0xE9',
        ),
        ("identifier,:number\n", 1, 'the column ":number" has an empty name'),
        ("identifier,a..b\n", 1, 'the column "a..b" has an empty name'),
        (
            "identifier,a:integer\n",
            1,
            'the column "a:integer" has the type "integer", which is unknown',
        ),
        (
            "identifier,a,a:number\n",
            1,
            'the columns "a" and "a:number" have the same member',
        ),
        ("identifier,a.b,a\n", 1, 'the columns "a.b" and "a" have the same member'),
        ("identifier,a,a.b\n", 1, 'the columns "a" and "a.b" have the same member'),
        (
            "identifier,metadata,a\n",
            1,
            'the table has the column "metadata" and other columns',
        ),
        ("identifier,\n", 1, 'the table has no column except "identifier"'),
    ],
)
def test_unclear_header_is_rejected(table: bytes | str, line: int, reason: str) -> None:
    assert problems(table, "csv") == [(line, "", reason)]


@pytest.mark.parametrize(("header", "is_json"), [("[1],2", True), ("a,[1]", False)])
def test_json_in_table_has_fix(header: str, is_json: bool) -> None:
    with pytest.raises(FileError) as raised:
        read_table(io.StringIO(header), Options())
    assert ("the file contains JSON" in raised.value.fix) == is_json


def test_repeated_header_is_skipped() -> None:
    table = (
        "sep=;\nidentifier;a;b\nSN-1;x;y\n\ufeffsep=;\n\ufeffIdentifier;a;b\n"
        '\ufeff"SN-2";x;y\nidentifier;b;a\nb;identifier\nSN=;x;\nsep=;x;\n'
    ).replace("Identifier", "identifier")
    devices, found = read_all(table, "csv")
    assert [(device.number, device.identifier) for device in devices] == [
        (1, "SN-1"),
        (2, "SN-2"),
        (5, "SN="),
        (6, "sep="),
    ]
    assert found == [
        (7, "identifier", "the row is another header"),
        (8, "", "the row is another header"),
    ]


@pytest.mark.parametrize("row", [b"SN-1\xe9,x", b"SN-1,x\xe9", b'SN-1,"[""\xe9""]"'])
@pytest.mark.parametrize("column", ["a", "a:json"])
def test_invalid_byte_is_reported_with_column(row: bytes, column: str) -> None:
    table = b"identifier,%s\nSN-0,1\n%s\n" % (column.encode(), row)
    [(line, _, reason)] = problems(table, "csv")
    assert line == 3
    name = "identifier" if row.startswith(b"SN-1\xe9") else column
    assert reason.startswith(f'column "{name}": "')
    assert "?" in reason
    assert "is not UTF-8" in reason
    assert "byte 0xE9" in reason


def test_nameless_column_must_be_empty() -> None:
    table = "identifier;a;;\r\nSN-1;x;;\r\n;;;\r\nSN-2;;y;\r\n"
    devices, found = read_all(table, "csv")
    assert [device.document for device in devices] == [b'{"a":"x"}']
    assert found == [(4, "SN-2", 'column "": "y" is in a column without a name')]


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        (
            'identifier,a\nSN-1,x\nSN-2,"x"y\n',
            3,
            "a cell continues after its closing double quote",
        ),
        (
            'identifier,a\nSN-1,x\nSN-2,"y\nSN-3,z\n',
            3,
            "a double quote is never closed",
        ),
        (
            'identifier,a\nSN-1,x\nSN-2,"' + "x\n" * 6_000_000,
            3,
            "a cell has more than 10,485,760 characters",
        ),
        (
            "identifier,a\nSN-1,x\nSN-2," + "x" * 10_485_760,
            3,
            "the line has more than 10,485,760 characters",
        ),
    ],
)
def test_broken_rows_end_the_file(table: str, line: int, reason: str) -> None:
    assert problems(table, "csv")[-1] == (line, "", reason + REST)


@pytest.mark.parametrize("lines", [100, 101])
def test_header_has_up_to_100_lines(lines: int) -> None:
    table = '"a%s",identifier\nx,SN-1\n' % ("\n" * (lines - 1))
    devices, found = read_all(table, "csv")
    assert (len(devices), len(found)) == ((1, 0) if lines == 100 else (0, 1))


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_header_with_line_breaks_has_up_to_64_kib(size: int) -> None:
    table = '"%s\n",identifier\nx,SN-1\n' % ("a" * (size - 2))
    devices, found = read_all(table, "csv")
    assert (len(devices), len(found)) == ((1, 0) if size == 65_536 else (0, 1))


def test_many_columns_are_read() -> None:
    names = [f"c{number}.d{number % 3}" for number in range(100_000)]
    table = ",".join(["identifier", *names]) + "\nSN-1" + ",x" * 100_000
    [device] = read_all(table, "csv")[0]
    assert device.document.startswith(b'{"c0":{"d0":"x"},"c1":{"d1":"x"}')


def test_deeply_nested_header_is_rejected() -> None:
    table = f"identifier,{'.'.join('a' * 100_000)},b\nSN-1,x,\nSN-2,,y\n"
    devices, found = read_all(table, "csv")
    assert found == [(2, "SN-1", "the metadata has too many levels of nesting")]
    assert [device.identifier for device in devices] == ["SN-2"]


# Without the characters of values that cannot be intended, such as NULL and 1E+05.
CELLS = st.text(
    alphabet=st.characters(
        codec="utf-8",
        exclude_characters="#=\\'NnEe",
        exclude_categories=["Cc", "Cf", "Cs"],
    )
    | st.sampled_from("\t\n\r"),
    min_size=1,
)


@given(rows=st.dictionaries(CELLS.map(str.strip).filter(bool), CELLS))
def test_written_rows_are_read_back(rows: dict[str, str]) -> None:
    file = io.StringIO(newline="")
    writer = csv_writer(file)
    writer.writerow(["identifier", "cell"])
    writer.writerows(rows.items())
    devices, found = read_all(file.getvalue(), "csv")
    assert found == []
    assert {
        device.identifier: json.loads(device.document)["cell"] for device in devices
    } == rows
