"""The update: complete replacement, in one statement, and ordered results."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec import Raw
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.queries import update_metadata
from tests.conftest import Organization, Post, connect
from tests.support.service import PATH

NO_DEVICE = {"deviceId": "", "status": "not_found"}


def test_published_example_is_reproduced(post: Post, acme: Organization) -> None:
    acme.insert("SN-A100", "SN-B200")
    response = post(
        """{"devices": {
            "SN-A100": {"firmwareVersion": "3.2.1", "status": "active",
                        "location": "Building A"},
            "SN-B200": {"firmwareVersion": "3.2.1", "status": "maintenance"},
            "SN-UNKNOWN": {"status": "active"}}}"""
    )
    ids = acme.ids()
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert json.loads(response.text, object_pairs_hook=list) == [
        ("success", True),
        ("updated", 2),
        ("notFound", 1),
        (
            "results",
            [
                [
                    ("identifier", "SN-A100"),
                    ("deviceId", ids["SN-A100"]),
                    ("status", "updated"),
                ],
                [
                    ("identifier", "SN-B200"),
                    ("deviceId", ids["SN-B200"]),
                    ("status", "updated"),
                ],
                [
                    ("identifier", "SN-UNKNOWN"),
                    ("deviceId", ""),
                    ("status", "not_found"),
                ],
            ],
        ),
    ]
    assert acme.metadata() == {
        "SN-A100": {
            "firmwareVersion": "3.2.1",
            "status": "active",
            "location": "Building A",
        },
        "SN-B200": {"firmwareVersion": "3.2.1", "status": "maintenance"},
    }


def test_metadata_is_replaced_not_merged(post: Post, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2", metadata={"kept": False, "nested": {"a": 1}})
    post({"devices": {"SN-1": {"nested": {"b": 2}}, "SN-2": {}}})
    assert acme.metadata() == {"SN-1": {"nested": {"b": 2}}, "SN-2": {}}


def test_no_device_is_created(post: Post, acme: Organization) -> None:
    response = post({"devices": {"SN-1": {}, "SN-2": {}}})
    assert response.json == {
        "success": True,
        "updated": 0,
        "notFound": 2,
        "results": [
            {"identifier": "SN-1", **NO_DEVICE},
            {"identifier": "SN-2", **NO_DEVICE},
        ],
    }
    assert acme.rows() == []


def test_other_devices_are_unchanged(post: Post, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2", "SN-3", metadata={"a": 1})
    before = acme.rows()
    # Equal metadata counts as an update, too.
    post({"devices": {"SN-2": {"a": 1}}})
    after = acme.rows()
    assert (after[0], after[2]) == (before[0], before[2])
    assert acme.updated() == {"SN-2"}


def test_updated_at_never_decreases(
    acme: Organization, config: Config, owner_url: str
) -> None:
    """A request that waits for a lock may have started before the last update."""
    acme.insert("SN-1", "SN-2")
    other = connect(owner_url)
    other.autocommit = False
    service = connect_service(config)
    with other.cursor() as locker, service.cursor() as cursor:
        locker.execute("SELECT FROM devices WHERE identifier = 'SN-1' FOR UPDATE")
        documents = dict.fromkeys(["SN-1", "SN-2"], Raw(b"{}"))
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(update_metadata, cursor, acme.id, documents)
            wait_until_locked(acme.cursor)
            acme.cursor.execute(
                "UPDATE devices SET updated_at = clock_timestamp()"
                " WHERE identifier = 'SN-2' RETURNING updated_at"
            )
            [[between]] = acme.cursor.fetchall()
            other.commit()
            waiting.result()
    other.close()
    service.close()
    acme.cursor.execute("SELECT updated_at FROM devices WHERE identifier = 'SN-2'")
    [[last]] = acme.cursor.fetchall()
    assert last == between


def wait_until_locked(cursor: Cursor) -> None:
    """Return when a session of the service waits for another's lock."""
    for _ in range(1000):
        cursor.execute(
            "SELECT count(*) > 0 FROM pg_stat_activity"
            " WHERE application_name = 'bulk-metadata'"
            " AND datname = current_database()"
            " AND cardinality(pg_blocking_pids(pid)) > 0"
        )
        if cursor.fetchall() == [(True,)]:
            return
        time.sleep(0.01)
    raise AssertionError("it never waited")


def test_created_at_and_id_are_unchanged(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    select = "SELECT organization_id, id, identifier, created_at FROM devices"
    acme.cursor.execute(select)
    before = acme.cursor.fetchall()
    post({"devices": {"SN-1": {"a": 1}}})
    acme.cursor.execute(select)
    assert acme.cursor.fetchall() == before


def test_results_have_body_order(post: Post, acme: Organization) -> None:
    keys = ["b", "10", "9", "a", "2", "1", "é", "Z", "01", "-1"]
    acme.insert(*keys[::2])
    response = post({"devices": {key: {} for key in keys}})
    assert response.json is not None
    assert [result["identifier"] for result in response.json["results"]] == keys
    assert response.json["updated"] + response.json["notFound"] == len(keys)


def test_keys_equal_after_trimming_are_one_device(
    post: Post, acme: Organization
) -> None:
    acme.insert("SN-1", "SN-2")
    response = post(
        '{"devices": {"SN-1": {"a": 1}, "SN-2": {"a": 2}, " SN-1": {"a": 3},'
        ' "SN-2": {"a": 4}, "SN-1\\u3000": {"a": 5}}}'
    )
    assert response.json is not None
    assert (response.json["updated"], response.json["notFound"]) == (2, 0)
    identifiers = [result["identifier"] for result in response.json["results"]]
    assert identifiers == ["SN-1", "SN-2"]
    assert acme.metadata() == {"SN-1": {"a": 5}, "SN-2": {"a": 4}}


@pytest.mark.parametrize("first", ['{"SN-1": {"a": 1}}', '{"SN-2": 1}', "[1]", "null"])
def test_last_devices_member_wins(first: str, post: Post, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2")
    response = post(f'{{"devices": {first}, "devices": {{"SN-2": {{"a": 2}}}}}}')
    assert response.status_code == 200
    assert acme.metadata() == {"SN-1": {}, "SN-2": {"a": 2}}


def test_1000_keys_can_be_one_device(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    response = post(
        {"devices": {" " * number + "SN-1": {"a": number} for number in range(1000)}}
    )
    assert response.json is not None
    assert (response.json["updated"], len(response.json["results"])) == (1, 1)
    assert acme.metadata() == {"SN-1": {"a": 999}}


# All characters that str.strip removes.
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x110000))))


def test_identifiers_are_trimmed_of_white_space(post: Post, acme: Organization) -> None:
    acme.insert("SN 1")
    response = post({"devices": {f"{WHITE_SPACE}SN 1{WHITE_SPACE}": {"a": 1}}})
    assert response.json is not None
    assert response.json["results"][0]["identifier"] == "SN 1"
    assert acme.metadata() == {"SN 1": {"a": 1}}


@pytest.mark.parametrize("identifier", ["", " ", WHITE_SPACE, "\0", "SN-1\0", "\0SN-1"])
def test_impossible_identifier_is_not_found(
    identifier: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    response = post({"devices": {identifier: {"a": 1}, "SN-1": {"b": 2}}})
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["results"][0] == {
        "identifier": identifier.strip(),
        **NO_DEVICE,
    }
    assert acme.metadata() == {"SN-1": {"b": 2}}


SPECIAL = [
    "%s",
    "%%",
    "%(x)s",
    "%",
    "\\",
    "\\\\",
    "'",
    "''",
    '"',
    "'; DROP TABLE devices; --",
    "E'\\x41'",
    "$$",
    "{}",
    "NULL",
    "line\nbreak",
    "carriage\r\nreturn",
    "tab\tinside",
    "\u0001control",
    "zero\u200bwidth",
    "🚚",
    "é",  # composed
    "e\u0301",  # decomposed
    "ﬁ",
    "fi",
    "SN-1",
    "sn-1",
    "\u202eright to left",
    "\U0010ffff",
    "\ue000",
    "\ufeffx",
]


def test_special_characters_are_stored_verbatim(post: Post, acme: Organization) -> None:
    acme.insert(*SPECIAL)
    sent = {
        text: {"value": text, text: [text, {text: text}], "number": number}
        for number, text in enumerate(SPECIAL)
    }
    response = post(json.dumps({"devices": sent}))
    assert response.json is not None
    assert response.json["updated"] == len(SPECIAL)
    assert acme.metadata() == sent
    assert post(json.dumps({"devices": sent}, ensure_ascii=False)).json == response.json
    assert acme.metadata() == sent


def test_matching_is_exact(post: Post, acme: Organization) -> None:
    acme.insert("SN-1", "e\u0301", "007")
    others = ["sn-1", "SN-1 0", "SN-", "SN-%", "é", "7"]
    response = post({"devices": {identifier: {} for identifier in others}})
    assert response.json is not None
    assert (response.json["updated"], response.json["notFound"]) == (0, 6)
    assert acme.updated() == set()


def test_identifier_of_1_mb_is_not_found(post: Post, acme: Organization) -> None:
    response = post({"devices": {"x" * 1_000_000: {}}})
    assert response.json is not None
    assert response.json["notFound"] == 1


def test_metadata_is_normalized_by_jsonb(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    post('{"devices": {"SN-1": {"b": 1, "a": 1E2, "b": 2, "é": 1.10, "": null}}}')
    assert acme.texts() == {"SN-1": '{"": null, "a": 100, "b": 2, "é": 1.10}'}


def test_1000_devices_are_updated_by_one_statement(
    post: Post, acme: Organization, cursor: Cursor
) -> None:
    """A trigger counts the statements."""
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers)
    cursor.execute("""
        CREATE TABLE statements (devices bigint);
        CREATE FUNCTION count_statement() RETURNS trigger
            LANGUAGE plpgsql SECURITY DEFINER AS
            'BEGIN INSERT INTO statements SELECT count(*) FROM new; RETURN NULL; END';
        CREATE TRIGGER count_statement AFTER UPDATE ON devices
            REFERENCING NEW TABLE AS new
            FOR EACH STATEMENT EXECUTE FUNCTION count_statement()
    """)
    try:
        sent = {identifier: {"name": identifier} for identifier in identifiers[::-1]}
        response = post({"devices": sent})
        cursor.execute("SELECT devices FROM statements")
        assert cursor.fetchall() == [(1000,)]
    finally:
        cursor.execute("DROP FUNCTION count_statement CASCADE; DROP TABLE statements")
    assert response.json is not None
    assert (response.json["updated"], response.json["notFound"]) == (1000, 0)
    ids = acme.ids()
    assert response.json["results"] == [
        {"identifier": identifier, "deviceId": ids[identifier], "status": "updated"}
        for identifier in identifiers[::-1]
    ]
    assert acme.metadata() == sent


def test_request_is_safe_to_repeat(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    body = {"devices": {"SN-1": {"a": 1}, "SN-2": {}}}
    first, second = post(body), post(body)
    assert first.json == second.json
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_device_of_other_organization_is_not_found(
    post: Post, acme: Organization, globex: Organization
) -> None:
    acme.insert("SN-1", "SN-2", metadata={"owner": "Acme"})
    globex.insert("SN-1", "SN-3", metadata={"owner": "Globex"})
    acme_before = acme.rows()
    body = {"devices": {"SN-1": {"a": 1}, "SN-2": {"a": 2}, "SN-3": {"a": 3}}}
    response = post(body, key=globex.key)
    ids = globex.ids()
    assert response.json is not None
    assert response.json["results"] == [
        {"identifier": "SN-1", "deviceId": ids["SN-1"], "status": "updated"},
        {"identifier": "SN-2", **NO_DEVICE},
        {"identifier": "SN-3", "deviceId": ids["SN-3"], "status": "updated"},
    ]
    assert acme.rows() == acme_before
    assert globex.metadata() == {"SN-1": {"a": 1}, "SN-3": {"a": 3}}


def test_concurrent_requests_do_not_mix_or_fail(
    client: FlaskClient, acme: Organization
) -> None:
    """All requests update the same devices, in opposite orders. The last one wins."""
    identifiers = [f"SN-{number}" for number in range(100)]
    acme.insert(*identifiers)

    def send(number: int) -> int:
        order = identifiers if number % 2 else identifiers[::-1]
        devices: dict[str, Any] = {
            identifier: {"request": number, "padding": "x" * number}
            for identifier in order
        }
        headers = {"x-api-key": acme.key}
        fresh = client.application.test_client()
        return fresh.post(
            PATH, data=json.dumps({"devices": devices}), headers=headers
        ).status_code

    with ThreadPoolExecutor(4) as executor:
        assert set(executor.map(send, range(40))) == {200}
    stored = list(acme.metadata().values())
    assert all(metadata == stored[0] for metadata in stored)
    assert stored[0]["padding"] == "x" * stored[0]["request"]


@pytest.mark.parametrize(
    "request_id", ["push-1", "%s %% %(x)s", "\\ ' \" $1", "~" * 128]
)
def test_last_writer_is_stored(
    request_id: str, post: Post, acme: Organization, cursor: Cursor
) -> None:
    acme.insert("SN-1", "SN-2")
    post({"devices": {"SN-1": {}}}, **{"X-Request-ID": request_id})
    post({"devices": {"SN-2": {}}}, query="dryRun=true")
    cursor.execute(
        "SELECT devices.request_id, key_id = api_keys.id FROM devices, api_keys"
        " ORDER BY identifier"
    )
    assert cursor.fetchall() == [(request_id, True), (None, None)]
