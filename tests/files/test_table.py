"""CSV and TSV, Excel's too: a column for each member of the metadata."""

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.reading import problems, read_all, texts

TAIL = "; nothing can be read from here on"
ONE_IDENTIFIER = 'the header must have one column "identifier"; its columns: '


def test_cells_are_strings_as_they_stand() -> None:
    table = 'identifier,serial,note\nSN-1,007,"a ""b"", c\n é😀\\"\n 42 , 1.50 ,true\n'
    assert texts(table, "csv") == {
        "SN-1": '{"serial":"007","note":"a \\"b\\", c\\n é😀\\\\"}',
        "42": '{"serial":" 1.50 ","note":"true"}',
    }


def test_types_nesting_and_empty_cells() -> None:
    table = (
        "a.b:number,identifier,a.c,on:boolean,tags:json,a:b:string\n"
        '98.60,SN-1,x,TRUE,"[1E2, ""a""]",y\n'
        " -0 ,SN-2,,false,,\n"
        ",SN-3,,,,\n"
    )
    assert texts(table, "csv") == {
        "SN-1": '{"a":{"b":98.60,"c":"x"},"on":true,"tags":[1E2, "a"],"a:b":"y"}',
        "SN-2": '{"a":{"b":-0},"on":false}',
        "SN-3": "{}",
    }


def test_excels_own() -> None:
    table = '\ufeffidentifier;name;size:number\r\nSN-1;a,b;1\r\nSN-2;"c;d\r\ne";\r\n'
    assert texts(table, "csv") == {
        "SN-1": '{"name":"a,b","size":1}',
        "SN-2": '{"name":"c;d\\r\\ne"}',
    }


def test_tabs() -> None:
    table = "identifier\tname\nSN-1\ta,b;c\n"
    expected = {"SN-1": '{"name":"a,b;c"}'}
    assert texts(table, "tsv") == texts(table, "csv") == expected


def test_lines_are_counted_where_rows_begin() -> None:
    table = 'identifier,n:number,s\n\nSN-1,1,"a\nb"\nSN-2,x,\n"S\nN",1,\n,1,\n'
    devices, wrong = read_all(table, "csv")
    assert [(d.number, d.line, d.identifier) for d in devices] == [
        (1, 3, "SN-1"),
        (3, 6, "S\nN"),
    ]
    assert wrong == [
        (5, "SN-2", 'column "n:number": "x" is not a number'),
        (8, "", "the identifier is empty"),
    ]


@pytest.mark.parametrize(
    ("header", "cell", "reason"),
    [
        ("n:number", "12,5", '"12,5" is not a number'),
        ("n:number", "007", '"007" is not a number'),
        ("n:number", "+1", '"+1" is not a number'),
        ("n:number", "NaN", '"NaN" is not a number'),
        ("n:number", "1.", '"1." is not a number'),
        ("n:number", "٣", '"٣" is not a number'),
        ("b:boolean", "yes", '"yes" is neither true nor false'),
        ("j:json", "{", '"{" is not JSON (Input data was truncated)'),
        ("j:json", "[" * 100_000, f'"{"[" * 100}..." is nested too deeply'),
        ("n:number", "x" * 10_000_000, f'"{"x" * 100}..." is not a number'),
    ],
)
def test_a_cell_that_is_not_what_its_column_is(
    header: str, cell: str, reason: str
) -> None:
    table = f"identifier;{header}\nSN-0;\nSN-1;{cell}\n"
    [(line, identifier, found)] = problems(table, "csv")
    assert (line, identifier) == (3, "SN-1")
    assert found == f'column "{header}": {reason}'


def test_all_that_is_wrong_with_a_row() -> None:
    table = "identifier,a:number,b:boolean,c\nSN-1,x,y,z\nSN-2,1\nSN-3,1,true,z,\n"
    assert problems(table, "csv") == [
        (
            2,
            "SN-1",
            'column "a:number": "x" is not a number; '
            'column "b:boolean": "y" is neither true nor false',
        ),
        (3, "", "2 cells, where the header has 4"),
        (4, "", "5 cells, where the header has 4"),
    ]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("", ONE_IDENTIFIER + "none"),
        ("SN-1,x\n", ONE_IDENTIFIER + '"SN-1", "x"'),
        ("Identifier,x\n", ONE_IDENTIFIER + '"Identifier", "x"'),
        ("identifier,identifier\n", ONE_IDENTIFIER + '"identifier", "identifier"'),
        ("identifier|a\n", ONE_IDENTIFIER + '"identifier|a"'),
        ("a" * 1000, ONE_IDENTIFIER + '"%s...' % ("a" * 99)),
        ("identifier,:number\n", 'the column ":number" does not name a member'),
        ("identifier,a..b\n", 'the column "a..b" does not name a member'),
        (
            "identifier,a:integer\n",
            'the column "a:integer" has none of the types there are: '
            "string, number, boolean, json",
        ),
        (
            "identifier,a,a:number\n",
            'the column "a:number" goes where the column "a" goes',
        ),
        ("identifier,a.b,a\n", 'the column "a" goes where the column "a.b" goes'),
        ("identifier,a,a.b\n", 'the column "a.b" goes where the column "a" goes'),
        (
            "identifier,metadata\n",
            'the column "metadata" is not needed: every column is a member of the '
            'metadata. For a member of that name call it "metadata:string"',
        ),
    ],
)
def test_a_header_that_says_nothing_clear(table: str, reason: str) -> None:
    assert problems(table, "csv") == [(1, "", reason + TAIL)]


def test_a_member_called_metadata() -> None:
    table = " identifier , metadata:string \nSN-1,x\n"
    assert texts(table, "csv") == {"SN-1": '{"metadata":"x"}'}


def test_a_quote_that_is_never_closed() -> None:
    found = problems('identifier,a\nSN-1,x\nSN-2,"y\nSN-3,z\n', "csv")
    assert found == [(3, "", "a quote is never closed" + TAIL)]


@pytest.mark.parametrize("row", [b"SN-1\xe9,x", b"SN-1,x\xe9", b'SN-1,"[""\xe9""]"'])
@pytest.mark.parametrize("column", ["a", "a:json"])
def test_a_row_that_is_not_utf_8(row: bytes, column: str) -> None:
    table = b"identifier,%s\n%s\n" % (column.encode(), row)
    assert problems(table, "csv") == [(2, "", "not UTF-8")]


def test_a_header_that_is_not_utf_8() -> None:
    table = b"identifier,a\xe9\nSN-1,x\nSN-2,x\n"
    assert problems(table, "csv") == [(1, "", "not UTF-8" + TAIL)]


@pytest.mark.parametrize("file_format", ["csv", "tsv"])
def test_utf_16_as_excel_calls_unicode_text(file_format: str) -> None:
    table = "identifier\ta\r\nSN-1\tx\r\n".encode("utf-16")
    reason = "UTF-16, where UTF-8 is needed" + TAIL
    assert problems(table, file_format) == [(1, "", reason)]


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        ("sep=;\r\nidentifier;a,b,c,d\r\nSN-1;x\r\n", [3]),
        ("sep=|\nidentifier|a,b,c,d\nSN-1|x", [3]),
        ('\nidentifier,"a,b,c,d"\n\nSN-1,x\n', [4]),
    ],
)
def test_what_stands_before_the_header(table: str, lines: list[int]) -> None:
    devices, wrong = read_all(table, "csv")
    assert wrong == []
    assert [device.line for device in devices] == lines
    assert devices[0].document == b'{"a,b,c,d":"x"}'
    # And the header's line is told where the header is.
    [(line, _, _)] = problems(table.replace("identifier", "id"), "csv")
    assert line == 2


def test_empty_columns_and_rows_that_excel_leaves_behind() -> None:
    table = "identifier;a;;\r\nSN-1;x;;\r\n;;;\r\nSN-2;;y;\r\n"
    devices, wrong = read_all(table, "csv")
    assert [device.document for device in devices] == [b'{"a":"x"}']
    assert wrong == [(4, "SN-2", '"y" is in a column that has no name')]


OLD_MAC = (
    "a carriage return that ends no line. If all lines end with one, as on old Macs, "
    "save the file with other line ends"
)


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        ("identifier,a\rSN-1,x\r", 1, OLD_MAC),
        ("identifier,a\nSN-1,x\ry\n", 2, OLD_MAC),
        ('identifier,a\nSN-1,"x"y\n', 2, "',' expected after '\"'"),
        (
            'identifier,a\nSN-1,x\nSN-2,"' + "x\n" * 6_000_000,
            3,
            "a cell of over 10485760 characters; is a quote never closed?",
        ),
    ],
)
def test_where_rows_cannot_be_told(table: str, line: int, reason: str) -> None:
    assert problems(table, "csv") == [(line, "", reason + TAIL)]


def test_columns_without_number() -> None:
    names = [f"c{number}.{number % 3}" for number in range(100_000)]
    table = ",".join(["identifier", *names]) + "\nSN-1" + ",x" * 100_000
    [device] = read_all(table, "csv")[0]
    assert device.document.startswith(b'{"c0":{"0":"x"},"c1":{"1":"x"}')


def test_a_header_nested_too_deeply() -> None:
    table = f"identifier,{'.'.join('a' * 100_000)}\nSN-1,x\nSN-2,\n"
    devices, wrong = read_all(table, "csv")
    assert wrong == [(2, "SN-1", "nested too deeply")]
    assert [device.identifier for device in devices] == ["SN-2"]


CELLS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1
)


@given(rows=st.dictionaries(CELLS.map(str.strip).filter(bool), CELLS))
def test_what_is_written_is_read(rows: dict[str, str]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["identifier", "cell"])
    writer.writerows(rows.items())
    devices, wrong = read_all(file.getvalue(), "csv")
    assert wrong == []
    assert {
        device.identifier: msgspec.json.decode(device.document)["cell"]
        for device in devices
    } == rows
