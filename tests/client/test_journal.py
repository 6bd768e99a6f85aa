"""The journal: devices, results, and the runs that can be resumed."""

from contextlib import suppress
from pathlib import Path

import pytest

from bulk_metadata.client.journal import Journal, JournalError, Outcome
from bulk_metadata.files.device import Device

FACTS = {"the file": "1", "the format": "csv"}
DEVICES = [
    Device(number, number + 1, identifier, b"{}")
    for number, identifier in enumerate(["SN-1", "SN-2", "SN-1", "SN-3"], 1)
]
OUTCOMES = [Outcome(1, "d1", "updated"), Outcome(3, "", "not_sent")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_unchecked_run_lists_devices_with_outcomes(path: Path) -> None:
    for devices in (DEVICES[:3], DEVICES[3:]):
        journal = Journal(path, FACTS, resume=path.exists(), key_digest="digest")
        assert not journal.is_checked
        journal.record(devices, OUTCOMES)
        journal.close(delete=False)
    journal = Journal(path, FACTS, resume=True, key_digest="other")
    assert journal.key_digest == "digest"
    assert journal.settled() == bytes([0, 1, 0, 0])
    assert journal.found(1000) == {"SN-1": "d1"}
    assert journal.counts() == {"updated": 1, "not_sent": 3}
    assert list(journal.results()) == [
        (2, "SN-1", "d1", "updated"),
        *((line, each, "", "not_sent") for _, line, each, _ in DEVICES[1:]),
    ]
    journal.close(delete=True)
    assert not path.exists()


def test_checked_run_lists_all_devices_once(path: Path) -> None:
    journal = Journal(path, FACTS, resume=False)
    with suppress(ZeroDivisionError), journal.checking():
        journal.list(DEVICES)
        raise ZeroDivisionError
    assert not journal.counts()
    with journal.checking():
        journal.list(DEVICES)
    assert journal.is_checked
    assert [(each.line, each.reason) for each in journal.repeats()] == [
        (4, "the same identifier as in line 2")
    ]
    journal.record(DEVICES[:1], OUTCOMES[:1])
    request_id = journal.request_id
    journal.close(delete=False)
    journal = Journal(path, FACTS, resume=True)
    assert journal.is_checked
    assert journal.request_id == request_id
    journal.close(delete=False)
    with pytest.raises(JournalError, match="which differs in the format"):
        Journal(path, {**FACTS, "the format": "json"}, resume=True)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("facts", [FACTS, {"the file": "2"}])
def test_run_without_results_starts_again(
    path: Path, facts: dict[str, str], resume: bool
) -> None:
    journal = Journal(path, FACTS, resume=False)
    with journal.checking():
        journal.list(DEVICES)
    journal.close(delete=False)
    journal = Journal(path, facts, resume=resume)
    assert journal.is_checked == (resume and facts == FACTS)
    assert bool(journal.counts()) == journal.is_checked
    journal.close(delete=True)
