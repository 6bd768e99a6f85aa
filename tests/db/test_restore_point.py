from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bulk_metadata.db.history.restore_point import Change, find_restore_point
from tests.random_search import examples
from tests.support.history_model import Model

WRITE = st.tuples(st.just("write"), st.sampled_from(["one", "two", None]))
UNDO = st.tuples(st.integers(0, 3), st.booleans())


@examples(500)
@given(operations=st.lists(st.one_of(WRITE, UNDO), min_size=6, max_size=12))
def test_restore_point_matches_model(operations: list[tuple[Any, Any]]) -> None:
    model = Model(["A"])
    changes: list[Change] = []
    metadata = [0]
    for number, (operation, argument) in enumerate(operations, 1):
        if operation == "write":
            model.write("A", argument, number)
            metadata.append(number)
            changes.append(Change(number, None, argument, False))
        elif operation < len(model.requests):
            target, force = model.requests[operation], argument
            change, changed_by = find_restore_point(
                [row._replace(is_target=row.request_id == target) for row in changes],
                force=force,
            )
            is_skipped = bool(change and changed_by and not force)
            expected = model.undo(target, f"undo {number}", force=force)
            skipped = {("A", changed_by and changed_by.request_id)}
            if change is None or is_skipped:
                assert expected == (0, skipped if is_skipped else set())
                continue
            metadata.append(metadata[[row.id for row in changes].index(change.id)])
            changes.append(Change(number, change.id, f"undo {number}", False))
            assert expected == (1, set())
        assert metadata[-1] == model.states["A"].metadata
