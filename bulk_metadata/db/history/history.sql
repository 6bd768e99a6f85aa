-- The history of device metadata. flask enable-history applies this file once.

-- One row.
CREATE TABLE history_settings (
    keep                 interval    NOT NULL,
    -- Earlier versions were not stored, or are deleted.
    starts_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    partition_started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The order of changes. A request that waited for a lock has an earlier now() than the
-- change that it follows.
CREATE SEQUENCE history_change;

-- One row for each statement that changes metadata, and for each organization in it.
-- request_id is NULL for programs other than the service.
CREATE TABLE history_requests (
    organization_id uuid        NOT NULL,
    change_id       bigint      NOT NULL,
    changed_at      timestamptz NOT NULL,
    request_id      text,
    key_id          uuid,
    devices         integer     NOT NULL,
    -- NULL for programs other than the service, which may change a whole fleet at once.
    device_ids      uuid[],
    PRIMARY KEY (organization_id, change_id)
);
CREATE INDEX ON history_requests (organization_id, request_id);
CREATE INDEX ON history_requests USING brin (changed_at);

-- The metadata that a device had before a change. Queries read this parent table. New rows
-- go into the partition history_versions_current. flask prune-history renames it, creates
-- the next one, and drops old ones. If the command does not run, the partition only grows.
CREATE TABLE history_versions (
    organization_id uuid   NOT NULL,
    device_id       uuid   NOT NULL,
    change_id       bigint NOT NULL,
    -- Set by an undo: the change restored the metadata from before this earlier change.
    restores        bigint,
    device_metadata jsonb  NOT NULL
);

-- The undos that were started.
CREATE TABLE history_undos (
    organization_id uuid        NOT NULL,
    request_id      text        NOT NULL,
    target          text        NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    PRIMARY KEY (organization_id, request_id)
);

REVOKE ALL ON history_settings, history_requests, history_versions, history_undos,
              history_change
  FROM PUBLIC, bulk_metadata_service;

-- BEFORE a statement that sets request_id, as each statement of the service does. A retried
-- request does not change its value, so comparing values does not identify other programs.
CREATE FUNCTION history_mark_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('bulk_metadata.is_request', 'on', true);
    RETURN NULL;
END
$$;

-- A change by another program is not a change by the last request.
CREATE FUNCTION history_clear_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('bulk_metadata.is_request', true), '') <> 'on' THEN
        NEW.request_id := NULL;
        NEW.key_id := NULL;
    END IF;
    RETURN NEW;
END
$$;

-- AFTER a statement: store the previous versions.
CREATE FUNCTION history_record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_request constant boolean :=
        coalesce(current_setting('bulk_metadata.is_request', true), '') = 'on';
    restores   constant jsonb :=
        nullif(current_setting('bulk_metadata.restores', true), '');
    -- On Citus, the table is a shard of devices. The shards of the history for the same
    -- organizations are on the same node, and move with it.
    is_shard   constant boolean := TG_TABLE_NAME <> 'devices';
    versions   text := 'history_versions_current';
    requests   text := 'history_requests';
    change     bigint;
    writer     record;
BEGIN
    IF is_request THEN
        -- false: a local setting would end with this function, because of its search_path.
        PERFORM set_config('bulk_metadata.is_request', '', false);
    END IF;
    SELECT organization_id, request_id, key_id INTO writer FROM new_rows LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- The change number is drawn while the devices are locked.
    IF is_shard THEN
        -- On each node, a sequence has a different range.
        change := extract(epoch FROM clock_timestamp()) * 1000000000
                  + pg_backend_pid() % 1000;
        versions := 'history_versions_' || get_shard_id_for_distribution_column(
            'history_versions', writer.organization_id);
        requests := 'history_requests_' || get_shard_id_for_distribution_column(
            'history_requests', writer.organization_id);
    ELSE
        change := nextval('history_change');
    END IF;
    IF is_request AND NOT is_shard THEN
        -- Equivalent to the statement below, but faster: all rows of a request have the
        -- same writer, so no join of old and new rows is necessary.
        INSERT INTO history_versions_current
             SELECT organization_id, id, change,
                    CASE WHEN restores IS NOT NULL
                         THEN (restores ->> id::text)::bigint
                    END,
                    device_metadata
               FROM old_rows;
        INSERT INTO history_requests
             SELECT organization_id, change, clock_timestamp(), writer.request_id,
                    writer.key_id, count(*), array_agg(id)
               FROM old_rows
           GROUP BY organization_id;
    ELSE
        -- The setting applies until this function ends. Older versions of the service
        -- disable hash joins, which would make the join slow.
        PERFORM set_config('enable_hashjoin', 'on', true);
        EXECUTE format(
            'WITH versions AS (
                 INSERT INTO %s
                      SELECT organization_id, id, $1,
                             CASE WHEN $2 THEN ($3 ->> id::text)::bigint END,
                             old_rows.device_metadata
                        FROM old_rows %s
                   RETURNING organization_id, device_id)
             INSERT INTO %s
                  SELECT organization_id, $1, clock_timestamp(), CASE WHEN $2 THEN $4 END,
                         CASE WHEN $2 THEN $5 END, count(*),
                         CASE WHEN $2 THEN array_agg(device_id) END
                    FROM versions
                GROUP BY organization_id',
            versions,
            CASE WHEN NOT is_request
                 THEN 'JOIN new_rows USING (organization_id, id)
                      WHERE old_rows.device_metadata <> new_rows.device_metadata'
            END,
            requests)
        USING change, is_request, restores, writer.request_id, writer.key_id;
    END IF;
    RETURN NULL;
END
$$;

-- Citus sends the text of each statement to the worker nodes, so each is separate.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION history_record() SET search_path = %I, pg_temp',
                   current_schema());
    CREATE TRIGGER history_mark_request BEFORE UPDATE OF request_id ON devices
       FOR EACH STATEMENT EXECUTE FUNCTION history_mark_request();
    CREATE TRIGGER history_clear_writer BEFORE UPDATE ON devices
       FOR EACH ROW WHEN (NEW.request_id = OLD.request_id
                          AND NEW.device_metadata <> OLD.device_metadata)
           EXECUTE FUNCTION history_clear_writer();
    CREATE TRIGGER history_record AFTER UPDATE ON devices
       REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
       FOR EACH STATEMENT EXECUTE FUNCTION history_record();
END
$$;
