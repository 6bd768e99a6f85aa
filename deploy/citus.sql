-- Spreads the tables over a Citus cluster, each organization on one of its nodes. For
-- psql, as the owner, on the coordinator: after its workers were added and schema.sql was
-- applied. Can be applied again without harm. For Citus 14; what it takes, and that it
-- was not run yet: docs/scaling.md.

-- A copy on every node: a key is looked up before its organization is known, and both
-- tables are small.
SELECT create_reference_table('organizations')
 WHERE NOT EXISTS (SELECT FROM citus_tables
                    WHERE table_name = 'organizations'::regclass
                      AND citus_table_type = 'reference');
SELECT create_reference_table('api_keys')
 WHERE NOT EXISTS (SELECT FROM citus_tables
                    WHERE table_name = 'api_keys'::regclass
                      AND citus_table_type = 'reference');

-- The call's devices are all of one organization, so on one shard: its UPDATE is one task
-- on one node, and one transaction. More shards than there will ever be nodes, since they
-- move whole.
SELECT create_distributed_table('devices', 'organization_id', shard_count => 64)
 WHERE NOT EXISTS (SELECT FROM citus_tables
                    WHERE table_name = 'devices'::regclass
                      AND citus_table_type = 'distributed');

-- Those of schema.sql once more: given before, they would not reach the shards.
GRANT SELECT (id, organization_id, key_hash, expires_at, revoked_at)
   ON api_keys TO bulk_metadata_service;
GRANT SELECT (organization_id, identifier, id, updated_at, request_id),
      UPDATE (device_metadata, updated_at, request_id, key_id)
   ON devices TO bulk_metadata_service;
