"""After any sequence of changes and undos, the database equals a model of lists."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.json_text import JsonText
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.history.target import Target
from bulk_metadata.db.history.undo import Undo
from bulk_metadata.db.history.versions import (
    select_request,
    select_versions,
    select_writers,
)
from bulk_metadata.db.queries import dry_run_update, update_metadata
from bulk_metadata.db.transaction import transaction
from tests.conftest import Organization
from tests.random_search import examples
from tests.support.history_model import Model

DEVICES = ["A", "B", "C"]
SOME = st.sets(st.sampled_from(DEVICES), min_size=1)
REQUESTS = st.sampled_from(["one", "two"])
NUMBER = itertools.count(1)

OPERATION = st.one_of(
    *2 * [st.tuples(st.just("request"), REQUESTS, SOME)],
    st.tuples(st.just("dry run"), REQUESTS, SOME),
    st.tuples(st.just("program"), st.none(), SOME),
    st.tuples(st.just("other column"), st.none(), SOME),
    # The position of the request or undo in the list of requests, and --force.
    *2 * [st.tuples(st.just("undo"), st.integers(0, 4), st.booleans())],
)


class World:
    """Two organizations, each with its model."""

    def __init__(self, owner: Cursor, service: Cursor, config: Config) -> None:
        self.owner, self.service, self.config = owner, service, config
        owner.execute("TRUNCATE organizations CASCADE")
        self.organizations = [Organization(owner, name) for name in ("Acme", "Globex")]
        self.models = [Model(DEVICES), Model(DEVICES)]
        for organization in self.organizations:
            organization.insert(*DEVICES, metadata={"n": 0})

    def run(self, index: int, kind: str, first: Any, second: Any) -> None:
        organization, model = self.organizations[index], self.models[index]
        if kind == "undo":
            if first < len(model.requests):
                self.undo(organization.id, model, model.requests[first], second)
            return
        number = next(NUMBER)
        devices = sorted(second)
        if kind in ("request", "dry run"):
            update = update_metadata if kind == "request" else dry_run_update
            documents = dict.fromkeys(devices, JsonText(b'{"n": %d}' % number))
            update(self.service, organization.id, documents, first, key_of(index))
        else:
            column = "device_metadata" if kind == "program" else "created_at"
            value = f'{{"n": {number}}}' if kind == "program" else "2001-01-01"
            # One statement for both organizations.
            self.owner.execute(
                f"UPDATE devices SET {column} = %s WHERE identifier = ANY (%s)",
                (value, devices),
            )
        for changed in self.models if kind == "program" else [model]:
            for device in devices:
                if kind in ("request", "program"):
                    changed.write(device, first, number)

    def undo(
        self, organization_id: str, model: Model, target: str, force: bool
    ) -> None:
        with transaction(self.config, index_plans=True) as cursor:
            requests = Target(organization_id, target, None, None)
            undo = Undo(cursor, requests, force=force)
            planned = undo.step(1, dry_run=True)
            step = undo.step(1)
            undo.finish()
        assert step == planned
        skipped = {(device.identifier, device.request_id) for device in step.skipped}
        assert (step.restored, skipped) == model.undo(
            target, undo.request_id, force=force
        )

    def check(self) -> None:
        for organization, model in zip(self.organizations, self.models, strict=True):
            self.owner.execute(
                "SELECT identifier, request_id FROM devices WHERE organization_id = %s",
                (organization.id,),
            )
            assert dict(self.owner.fetchall()) == model.last_writers
            requests = [
                select_request(self.owner, organization.id, *writer)
                for writer in select_writers(self.owner, organization.id, None, 100)
            ]
            counts = [
                (each.request_id, each.devices, each.current) for each in requests
            ]
            assert counts == model.counts()
            for device in DEVICES:
                metadata, versions = select_versions(
                    self.owner, organization.id, device
                )
                assert metadata == f'{{"n": {model.states[device].metadata}}}'
                assert [
                    (version.request_id, bytes(version.previous_metadata).decode())
                    for version in versions
                ] == [
                    (writer, f'{{"n": {number}}}')
                    for writer, number in model.versions[device]
                ]


def key_of(index: int) -> str:
    return f"00000000-0000-0000-0000-00000000000{index}"


@pytest.fixture(scope="module")
def service(config: Config) -> Iterator[Cursor]:
    with closing(connect_service(config)) as connection:
        yield connection.cursor()


@examples(25)
@given(
    operations=st.lists(
        st.tuples(st.integers(0, 1), OPERATION), min_size=8, max_size=20
    )
)
def test_history_and_undo_match_model(
    operations: list[tuple[int, tuple[str, Any, Any]]],
    history: Cursor,
    service: Cursor,
    config: Config,
    owner_url: str,
) -> None:
    world = World(history, service, replace(config, database_url=owner_url))
    for index, operation in operations:
        world.run(index, *operation)
    world.check()
