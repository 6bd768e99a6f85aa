-- Distributes the tables over a Citus cluster, each organization on one node. Run it with
-- psql as the owner on the coordinator, after the worker nodes were added and schema.sql
-- was applied. It can be run again. docs/scaling.md describes the requirements.
\set ON_ERROR_STOP on

-- Citus does not support the partitions of the history.
DO $$
BEGIN
    IF to_regclass('history_versions_current') IS NOT NULL THEN
        RAISE 'The history is enabled. Delete it with flask disable-history, run this file, '
              'and enable the history again.';
    END IF;
END
$$;

-- A copy on every node: both tables below reference organizations.
SELECT create_reference_table('organizations')
 WHERE NOT EXISTS (SELECT FROM citus_tables
                    WHERE table_name = 'organizations'::regclass
                      AND citus_table_type = 'reference');

-- api_keys stays on the coordinator, where every node can query it. As a reference table
-- it could not be changed while any node is down, so a leaked key could not be revoked.

-- All devices of a request belong to one organization and thus to one shard: its UPDATE is
-- one task on one node, in one transaction. Shards move as a unit, so there are more
-- shards than nodes.
SELECT create_distributed_table('devices', 'organization_id', shard_count => 64)
 WHERE NOT EXISTS (SELECT FROM citus_tables
                    WHERE table_name = 'devices'::regclass
                      AND citus_table_type = 'distributed');

-- Repeated from schema.sql: privileges granted before the distribution do not apply to
-- the shards.
GRANT SELECT (id, organization_id, key_hash, expires_at, revoked_at)
   ON api_keys TO bulk_metadata_service;
GRANT SELECT (organization_id, identifier, id, updated_at, request_id),
      UPDATE (device_metadata, updated_at, request_id, key_id)
   ON devices TO bulk_metadata_service;
