
CREATE TABLE IF NOT EXISTS organizations (
    id         uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text        NOT NULL UNIQUE CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS api_keys (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid        NOT NULL REFERENCES organizations,
    name            text        NOT NULL,
    key_hash        bytea       NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    revoked_at      timestamptz
);

CREATE TABLE IF NOT EXISTS devices (
    organization_id uuid        NOT NULL REFERENCES organizations,
    id              uuid        NOT NULL DEFAULT gen_random_uuid(),
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
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, identifier)
)
WITH (fillfactor = 70);

ALTER TABLE devices ALTER COLUMN organization_id SET STATISTICS 0;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bulk_metadata_service') THEN
        CREATE ROLE bulk_metadata_service LOGIN;
        ALTER ROLE bulk_metadata_service SET enable_hashjoin = off;
        ALTER ROLE bulk_metadata_service SET enable_mergejoin = off;
        ALTER ROLE bulk_metadata_service SET enable_seqscan = off;
        ALTER ROLE bulk_metadata_service SET enable_bitmapscan = off;
        ALTER ROLE bulk_metadata_service SET jit = off;
        ALTER ROLE bulk_metadata_service SET random_page_cost = 0;
        ALTER ROLE bulk_metadata_service SET cpu_operator_cost = 0;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

GRANT SELECT (organization_id, key_hash, expires_at, revoked_at)
   ON api_keys TO bulk_metadata_service;
GRANT SELECT (organization_id, identifier, id), UPDATE (device_metadata, updated_at)
   ON devices TO bulk_metadata_service;
