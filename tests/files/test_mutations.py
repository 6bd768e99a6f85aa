"""Samples with random changes: each is read or rejected with a clear message."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bulk_metadata.files import Options
from bulk_metadata.files.device import FileError, ProblemList
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import Source
from tests.random_search import examples

SAMPLES = [path.read_bytes() for path in (Path(__file__).parent / "samples").iterdir()]

PIECES = st.binary(max_size=3) | st.sampled_from(
    [
        *[b",", b";", b"\t", b'"', b"'", b"\n", b"\r", b"\\N", b"\\", b"{", b"}", b"["],
        *[b"=", b"=A1", b"#N/A", b"NULL", b"identifier", b"metadata", b":number", b"."],
        *[b"sep=;", b"\xef\xbb\xbf", b"\xe2\x80\x8b", b"\xed\xa0\x80", b'"devices":'],
    ]
)
# Position, number of bytes to delete, and bytes to insert.
CHANGES = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 5), PIECES), min_size=1, max_size=5
)

INTERNALS = re.compile(r"codec|decod|surrogate|Error [-(]|msgspec|Expecting|delimiter")


@examples(200)
@given(
    content=st.sampled_from(SAMPLES),
    changes=CHANGES,
    file_format=st.sampled_from(["csv", "json", "ndjson"]),
    encoding=st.sampled_from(["utf-8", "windows-1252", "utf-16-le"]),
)
def test_changed_sample_is_read_or_rejected(
    content: bytes,
    changes: list[tuple[int, int, bytes]],
    file_format: str,
    encoding: str,
    tmp_path: Path,
) -> None:
    for position, deleted, inserted in changes:
        content = content[:position] + inserted + content[position + deleted :]
    path = tmp_path / "fleet"
    path.write_bytes(content)
    messages: list[str] = []
    problems = ProblemList("fleet", messages.append)
    options = Options(file_format, encoding, allow_empty=True)
    with Source(str(path)) as source:
        try:
            for chunk in DeviceFile(source, options).read():
                for problem in chunk.problems:
                    problems.add(problem)
                for device in chunk.devices:
                    assert device.document.decode().startswith("{")
                    assert device.identifier.encode()
                    if file_format == "csv":
                        assert not device.identifier.startswith(("=", "\\N"))
        except FileError as error:
            problems.add(error.as_problem())
    for message in messages:
        assert message.encode()
        assert not INTERNALS.search(message)
