-- The tables, and the role that the service connects as. Apply this file with
-- flask init-db or psql --single-transaction. It is safe to repeat and upgrades every older
-- schema; docs/upgrading.md explains how to change it. Requires PostgreSQL 15 to 18 and
-- the database encoding UTF8.

CREATE TABLE IF NOT EXISTS organizations (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text        NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS api_keys (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid        NOT NULL REFERENCES organizations,
    name            text        NOT NULL,
    -- The SHA-256 digest. The API key is shown once and never stored.
    key_hash        bytea       NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    revoked_at      timestamptz
);

-- The organization leads every key: the devices of an organization are one range of the
-- index, and the table can be distributed by organization.
CREATE TABLE IF NOT EXISTS devices (
    organization_id uuid        NOT NULL REFERENCES organizations,
    id              uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- COLLATE "C" compares bytes: exact, and in the order in which the service sorts and
    -- locks. 1,024 bytes fit into an index entry. The service trims the same white space.
    identifier      text        NOT NULL COLLATE "C"
                    CHECK (identifier <> '' AND octet_length(identifier) <= 1024)
                    CHECK (identifier = btrim(identifier,
                           U&'\0009\000A\000B\000C\000D\001C\001D\001E\001F\0020\0085\00A0'
                             '\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A'
                             '\2028\2029\202F\205F\3000')),
    device_metadata jsonb       NOT NULL DEFAULT '{}'
                    CHECK (jsonb_typeof(device_metadata) = 'object'),
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- The last writer: the X-Request-ID of the request, and its API key. A foreign key
    -- would be checked for each row of each request.
    request_id      text,
    key_id          uuid,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, identifier)
)
-- Free space on each page for the new version of a row: updates stay heap-only because no
-- index contains a column that they change. An index on device_metadata doubles their time.
WITH (fillfactor = 70);

-- Adding a column locks the table, so check first.
DO $$
BEGIN
    IF NOT EXISTS (SELECT
                     FROM pg_attribute
                    WHERE attrelid = 'devices'::regclass
                      AND attname = 'key_id') THEN
        ALTER TABLE devices ADD COLUMN request_id text, ADD COLUMN key_id uuid;
    END IF;
END
$$;

-- No statistics. If statistics are older than an organization, the planner assumes that
-- the organization has no devices, and reads all of them for each device of a request.
-- Without statistics it assumes a 200th of the table. This waits for a running VACUUM, so
-- check first.
DO $$
BEGIN
    IF EXISTS (SELECT
                 FROM pg_attribute
                WHERE attrelid = 'devices'::regclass
                  AND attname = 'organization_id'
                  AND attstattarget IS DISTINCT FROM 0) THEN
        ALTER TABLE devices ALTER COLUMN organization_id SET STATISTICS 0;
    END IF;
END
$$;

-- The role that the service connects as. It has no password: set one with ALTER ROLE if
-- the server requires it. If this user may not create roles, create the role first.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bulk_metadata_service') THEN
        CREATE ROLE bulk_metadata_service LOGIN;
    END IF;
EXCEPTION
    -- All databases of a server share its roles: another database was first.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- The plan and the timeouts that the service sets for each connection, for poolers that
-- drop start-up options. To change a timeout, use ALTER ROLE ... IN DATABASE, which has
-- priority.
DO $$
BEGIN
    ALTER ROLE bulk_metadata_service SET enable_hashjoin = off;
    ALTER ROLE bulk_metadata_service SET enable_mergejoin = off;
    ALTER ROLE bulk_metadata_service SET enable_seqscan = off;
    ALTER ROLE bulk_metadata_service SET enable_bitmapscan = off;
    ALTER ROLE bulk_metadata_service SET jit = off;
    ALTER ROLE bulk_metadata_service SET random_page_cost = 0;
    ALTER ROLE bulk_metadata_service SET cpu_operator_cost = 0;
    ALTER ROLE bulk_metadata_service SET lock_timeout = '4s';
    ALTER ROLE bulk_metadata_service SET statement_timeout = '6s';
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'The settings of the role bulk_metadata_service are unchanged: %',
            SQLERRM;
END
$$;

-- The columns that the service searches by, returns, and replaces. /readyz selects
-- request_id to check that the schema is current.
GRANT SELECT (id, organization_id, key_hash, expires_at, revoked_at)
   ON api_keys TO bulk_metadata_service;
GRANT SELECT (organization_id, identifier, id, updated_at, request_id),
      UPDATE (device_metadata, updated_at, request_id, key_id)
   ON devices TO bulk_metadata_service;
