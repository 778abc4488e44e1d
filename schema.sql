-- The database objects of projectiond: the event store, the checkpoints, and what the daemon adds to them.
--
-- `projectiond init` runs this file; so may you, with psql -f. It is one transaction, and running it again changes
-- nothing. PostgreSQL 14 or later. Everything is made in the schema that event_store is in; where there is no
-- event_store yet, in the first schema of the search_path.
--
--   Part 1  the tables of the widely used event store set-up, for a database that does not have them
--   Part 2  the upgrade of a database that has: made by that set-up's DDL, or by an ORM from its models
--   Part 3  the daemon's own additions
--
-- It says what it changes (NOTICE), and refuses what it cannot mend (SQLSTATE PJ001, with a hint). The second run
-- reads the catalogues only: it neither scans event_store nor takes a lock on it that anybody could notice.
-- docs/schema-decisions.md has the reasons at length.

BEGIN;

-- Waiting for a lock on event_store would put every writer into the queue behind us: rather fail, and say so.
SET LOCAL lock_timeout = '5s';
-- An upgrade may build an index over all events.
SET LOCAL statement_timeout = 0;
-- In this time zone timestamp becomes timestamptz without a rewrite of the table, and naive values are taken as UTC.
SET LOCAL timezone = 'UTC';

DO $$
DECLARE
    home name;
    missing text;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby, which cannot be changed'
            USING ERRCODE = 'PJ001', HINT = 'connect to the primary server';
    END IF;

    -- Two runs at once would both find a table missing. The key is "projddl!" as a number.
    PERFORM pg_advisory_xact_lock(8102661182334463009);

    home := coalesce(
        (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = to_regclass('event_store')),
        current_schema()
    );
    IF home IS NULL THEN
        RAISE EXCEPTION 'no schema of the search_path (%) exists', current_setting('search_path')
            USING ERRCODE = 'PJ001', HINT = 'create the schema, or set the role''s search_path to one that exists';
    END IF;
    PERFORM set_config('search_path', quote_ident(home) || ', pg_temp', true);

    FOREACH missing IN ARRAY ARRAY[
        'event_store', 'projection_checkpoints', 'snapshots',
        'projection_dead_letters', 'projection_rebuilds', 'projection_builds', 'projection_rebuild_history',
        'projection_workers', 'projectiond_high_water_mark'
    ] LOOP
        IF to_regclass(missing) IS NULL THEN
            RAISE NOTICE 'created table %.%', quote_ident(home), missing;
        END IF;
    END LOOP;
END
$$;


-- Part 1: the event store ---------------------------------------------------------------------------------------------

-- All events of all aggregates. Rows are only ever added.
CREATE TABLE IF NOT EXISTS event_store (
    event_id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregate_id UUID NOT NULL,
    aggregate_type VARCHAR(100) NOT NULL,

    event_type VARCHAR(100) NOT NULL,
    event_data JSONB NOT NULL,
    -- Stays nullable: applications in the field write NULL for "none", and the daemon reads NULL as {}.
    metadata JSONB DEFAULT '{}',

    -- The place of the event in its aggregate's stream, from 1.
    version INT NOT NULL,

    -- The place of the event among all events. Drawn before commit: neither gapless nor in order of commit. A sequence
    -- with the default CACHE 1 is required: the daemon relies on a number being drawn under the lock of its INSERT.
    sequence_number BIGSERIAL NOT NULL,

    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),

    -- Optimistic concurrency, decided by the database. The starting schema's index on the same two columns would
    -- repeat this constraint's own index, and tax every append for nothing: it is left out.
    CONSTRAINT unique_aggregate_version UNIQUE (aggregate_id, version),

    -- The starting schema let a number occur twice (a plain index), and "all events after N" would then lose one of
    -- the two. The unique index is also the one that the daemon reads by.
    CONSTRAINT unique_sequence_number UNIQUE (sequence_number)
);

-- Left out: the starting schema's partial index "WHERE created_at > NOW() - INTERVAL '7 days'". PostgreSQL refuses it
-- (NOW() is not immutable), and could not keep it true as time goes by. A daemon that is up to date reads the end of
-- the unique index above, which is in memory anyway.

-- The further indexes of event_store are made at the end of part 2, since a store that exists may have its own.

-- How far each projection is, and the operator's lever: UPDATE ... SET status = 'paused' | 'running' | 'rebuilding'.
CREATE TABLE IF NOT EXISTS projection_checkpoints (
    projection_name VARCHAR(100) PRIMARY KEY,
    last_sequence_number BIGINT NOT NULL DEFAULT 0,
    last_event_id UUID,
    last_processed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    events_processed BIGINT NOT NULL DEFAULT 0,
    -- The starting schema took any text here, and NULL: a misspelt 'pause' would have been a status that nobody obeys.
    -- The CHECK alone would let NULL pass.
    status VARCHAR(20) NOT NULL DEFAULT 'running'
        CONSTRAINT projection_status_known CHECK (status IN ('running', 'paused', 'rebuilding')),
    error_message TEXT
);

-- The latest snapshot of each aggregate: written and read by applications, never by the daemon.
CREATE TABLE IF NOT EXISTS snapshots (
    aggregate_id UUID PRIMARY KEY,
    aggregate_type VARCHAR(100) NOT NULL,
    version INT NOT NULL,
    state JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);


-- Part 2: upgrade of what is there already ----------------------------------------------------------------------------

-- What cannot be mended, from the catalogues.
DO $$
DECLARE
    store CONSTANT regclass := 'event_store';
    kind "char";
    persistence "char";
    found text;
BEGIN
    SELECT relkind, relpersistence INTO kind, persistence FROM pg_class WHERE oid = store;
    IF kind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'event_store is not a table'
            USING ERRCODE = 'PJ001',
                  HINT = 'name the table that events are inserted into event_store, and drop the view or foreign table';
    END IF;
    IF persistence <> 'p' THEN
        RAISE EXCEPTION 'event_store is an unlogged or temporary table: a crash of the server would lose its events'
            USING ERRCODE = 'PJ001', HINT = 'run ALTER TABLE event_store SET LOGGED';
    END IF;

    SELECT string_agg(format('%s.%s', wanted.t, wanted.c), ', ') INTO found
    FROM (VALUES
        ('event_store', 'event_id'), ('event_store', 'aggregate_id'), ('event_store', 'aggregate_type'),
        ('event_store', 'event_type'), ('event_store', 'event_data'), ('event_store', 'metadata'),
        ('event_store', 'version'), ('event_store', 'sequence_number'), ('event_store', 'created_at'),
        ('projection_checkpoints', 'projection_name'), ('projection_checkpoints', 'last_sequence_number'),
        ('projection_checkpoints', 'last_event_id'), ('projection_checkpoints', 'last_processed_at'),
        ('projection_checkpoints', 'events_processed'), ('projection_checkpoints', 'status'),
        ('projection_checkpoints', 'error_message')
    ) AS wanted (t, c)
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = wanted.t::regclass AND attname = wanted.c AND NOT attisdropped
    );
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'columns are missing: %', found
            USING ERRCODE = 'PJ001', HINT = 'add or rename them as in schema.sql, then run "projectiond init" again';
    END IF;

    SELECT string_agg(format('event_store.%s is %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ') INTO found
    FROM pg_attribute a
    JOIN (VALUES
        ('event_id', '{uuid}'), ('aggregate_id', '{uuid}'),
        ('event_data', '{jsonb,json}'), ('metadata', '{jsonb,json}'),
        ('version', '{int4,int8}'), ('sequence_number', '{int8,int4}'), ('created_at', '{timestamptz,timestamp}')
    ) AS wanted (c, types) ON a.attname = wanted.c
    WHERE a.attrelid = store
        AND NOT a.attisdropped
        AND format_type(a.atttypid, NULL)::regtype <> ALL (wanted.types::regtype[]);
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'columns have types that the daemon cannot read: %', found
            USING ERRCODE = 'PJ001', HINT = 'change them with ALTER TABLE ... ALTER COLUMN ... TYPE as in schema.sql';
    END IF;
END
$$;

-- The columns of event_store. A store that needs any of this is locked for the length of it, readers included: weaker
-- locks would let a number be drawn while we count, and taking them one after the other invites deadlocks.
DO $$
DECLARE
    store CONSTANT regclass := 'event_store';
    is_partitioned CONSTANT boolean := (SELECT relkind = 'p' FROM pg_class WHERE oid = store);
    has_work boolean;
    has_unique_number boolean;
    has_unique_version boolean;
    sequence regclass;
    is_owned boolean;
    col record;
    amount bigint;
    largest bigint;
    next bigint;
    found text;
BEGIN
    SELECT coalesce(bool_or(keys = '{sequence_number}'), false),
           coalesce(bool_or(keys = '{aggregate_id,version}'), false)
    INTO has_unique_number, has_unique_version
    FROM (
        SELECT (SELECT array_agg(a.attname::text ORDER BY a.attname)
                FROM pg_attribute a
                WHERE a.attrelid = i.indrelid
                    AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS keys
        FROM pg_index i
        WHERE i.indrelid = store
            AND i.indisunique AND i.indisvalid AND i.indimmediate
            AND i.indpred IS NULL AND i.indexprs IS NULL
    ) AS unique_index;

    SELECT NOT (has_unique_version OR is_partitioned)
        OR NOT (has_unique_number OR is_partitioned)
        OR coalesce(bool_or(
            (a.attname <> 'metadata' AND NOT a.attnotnull)
            OR (a.attname IN ('event_id', 'metadata', 'created_at') AND NOT a.atthasdef)
            OR (a.attname = 'sequence_number' AND NOT a.atthasdef AND a.attidentity = '')
            OR a.atttypid = 'timestamp'::regtype), false)
    INTO has_work
    FROM pg_attribute a
    WHERE a.attrelid = store
        AND a.attname IN ('event_id', 'aggregate_id', 'aggregate_type', 'event_type', 'event_data', 'metadata',
                          'version', 'sequence_number', 'created_at');

    IF has_work THEN
        LOCK TABLE event_store IN ACCESS EXCLUSIVE MODE;
    END IF;

    -- Naive timestamps, as SQLAlchemy's DateTime makes them: the models fill them with UTC.
    IF EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = store AND attname = 'created_at' AND atttypid = 'timestamp'::regtype) THEN
        ALTER TABLE event_store ALTER COLUMN created_at TYPE timestamptz;
        RAISE NOTICE 'changed event_store.created_at to timestamptz, its values taken as UTC';
    END IF;

    -- Defaults that an ORM keeps on its own side: without them plain SQL cannot append.
    FOR col IN
        SELECT wanted.c, wanted.value
        FROM (VALUES ('event_id', 'gen_random_uuid()'), ('metadata', '''{}'''), ('created_at', 'now()'))
            AS wanted (c, value)
        JOIN pg_attribute a ON a.attrelid = store AND a.attname = wanted.c
        WHERE NOT a.atthasdef
    LOOP
        EXECUTE format('ALTER TABLE event_store ALTER COLUMN %I SET DEFAULT %s', col.c, col.value);
        RAISE NOTICE 'set the default of event_store.% to %', col.c, col.value;
    END LOOP;

    -- A column that nothing fills: SQLAlchemy's autoincrement=True has no effect on a column outside the primary key,
    -- so its table has neither a sequence nor, in many rows, a number.
    IF EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = store AND attname = 'sequence_number' AND NOT atthasdef AND attidentity = '') THEN
        CREATE SEQUENCE IF NOT EXISTS event_store_sequence_number_seq;
        -- Init may be run by another role than the table's. Who may insert must be able to draw.
        EXECUTE format('ALTER SEQUENCE event_store_sequence_number_seq OWNER TO %s',
                       (SELECT relowner::regrole FROM pg_class WHERE oid = store));
        ALTER SEQUENCE event_store_sequence_number_seq OWNED BY event_store.sequence_number;
        FOR col IN
            SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS writer
            FROM pg_class, aclexplode(relacl)
            WHERE oid = store AND privilege_type = 'INSERT'
        LOOP
            EXECUTE format('GRANT USAGE ON SEQUENCE event_store_sequence_number_seq TO %s', col.writer);
        END LOOP;
        ALTER TABLE event_store ALTER COLUMN sequence_number
            SET DEFAULT nextval('event_store_sequence_number_seq'::regclass);
        PERFORM setval('event_store_sequence_number_seq', coalesce(max(sequence_number), 0) + 1, false)
        FROM event_store;
        RAISE NOTICE 'gave event_store.sequence_number a sequence';

        -- The ORM goes on writing NULL, expressly, where its model knows of no default: fill it in, or every append
        -- of the running application would fail from now on. The number is still drawn under the INSERT's lock.
        CREATE OR REPLACE FUNCTION projectiond_number_event() RETURNS trigger
        LANGUAGE plpgsql AS $function$
        BEGIN
            NEW.sequence_number := pg_catalog.nextval(TG_ARGV[0]::pg_catalog.regclass);
            RETURN NEW;
        END
        $function$;
        EXECUTE format(
            'CREATE TRIGGER projectiond_number_event BEFORE INSERT ON event_store FOR EACH ROW '
            'WHEN (NEW.sequence_number IS NULL) EXECUTE FUNCTION projectiond_number_event(%L)',
            pg_get_serial_sequence('event_store', 'sequence_number')
        );
        RAISE NOTICE 'created trigger projectiond_number_event on event_store, for writers that send NULL';
    END IF;

    -- Events without a number get theirs behind all others, in order of time; within a stream in order of version,
    -- whatever the clocks of the writers said.
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = store AND attname = 'sequence_number' AND NOT attnotnull) THEN
        SELECT coalesce(max(sequence_number), 0) INTO largest FROM event_store;
        WITH numbered AS (
            SELECT event_id, row_number() OVER (ORDER BY written_at, aggregate_id, version, event_id) AS place
            FROM (
                SELECT event_id, aggregate_id, version,
                       max(created_at) OVER (PARTITION BY aggregate_id ORDER BY version) AS written_at
                FROM event_store
                WHERE sequence_number IS NULL
            ) AS unnumbered
        )
        UPDATE event_store
        SET sequence_number = largest + numbered.place
        FROM numbered
        WHERE event_store.event_id = numbered.event_id;
        GET DIAGNOSTICS amount = ROW_COUNT;
        IF amount > 0 THEN
            RAISE NOTICE 'numbered % events that had no sequence_number, from % in order of created_at',
                amount, largest + 1;
        END IF;
    END IF;

    FOR col IN
        SELECT attname AS c
        FROM pg_attribute
        WHERE attrelid = store
            AND attname IN ('event_id', 'aggregate_id', 'aggregate_type', 'event_type', 'event_data', 'version',
                            'sequence_number', 'created_at')
            AND NOT attnotnull
    LOOP
        EXECUTE format('SELECT count(*) FROM event_store WHERE %I IS NULL', col.c) INTO amount;
        IF amount > 0 THEN
            RAISE EXCEPTION '% events have no %', amount, col.c
                USING ERRCODE = 'PJ001',
                      HINT = format('fill event_store.%s in these rows, then run "projectiond init" again', col.c);
        END IF;
        EXECUTE format('ALTER TABLE event_store ALTER COLUMN %I SET NOT NULL', col.c);
        RAISE NOTICE 'set event_store.% to NOT NULL', col.c;
    END LOOP;

    IF NOT has_unique_number AND NOT is_partitioned THEN
        SELECT string_agg(format('%s (%s times)', number, times), ', ' ORDER BY number) INTO found
        FROM (
            SELECT sequence_number AS number, count(*) AS times
            FROM event_store
            GROUP BY sequence_number
            HAVING count(*) > 1
            ORDER BY sequence_number
            LIMIT 5
        ) AS repeated;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'event_store has duplicate sequence numbers: %', found
                USING ERRCODE = 'PJ001',
                      HINT = 'give these events distinct numbers (the order that they are to be applied in), then run '
                             '"projectiond init" again';
        END IF;
        ALTER TABLE event_store ADD CONSTRAINT unique_sequence_number UNIQUE (sequence_number);
        RAISE NOTICE 'made event_store.sequence_number unique';
    END IF;

    IF NOT has_unique_version AND NOT is_partitioned THEN
        SELECT string_agg(format('%s version %s', aggregate_id, version), ', ') INTO found
        FROM (
            SELECT aggregate_id, version
            FROM event_store
            GROUP BY aggregate_id, version
            HAVING count(*) > 1
            ORDER BY aggregate_id, version
            LIMIT 5
        ) AS repeated;
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'event_store has two events of one aggregate with the same version: %', found
                USING ERRCODE = 'PJ001',
                      HINT = 'decide which of them is to stay, renumber the stream, then run "projectiond init" again';
        END IF;
        ALTER TABLE event_store ADD CONSTRAINT unique_aggregate_version UNIQUE (aggregate_id, version);
        RAISE NOTICE 'made (aggregate_id, version) of event_store unique';
    END IF;

    -- The sequence, however it came about: BIGSERIAL, identity, or a default that somebody wrote.
    SELECT s.oid,
           EXISTS (SELECT FROM pg_depend o
                   WHERE o.classid = 'pg_class'::regclass AND o.objid = s.oid AND o.deptype IN ('a', 'i')
                       AND o.refobjid = store AND o.refobjsubid = a.attnum)
    INTO sequence, is_owned
    FROM pg_attribute a
    LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    JOIN pg_depend d
        ON (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass)
        OR (d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
            AND d.classid = 'pg_class'::regclass AND d.deptype = 'i')
    JOIN pg_class s
        ON s.relkind = 'S' AND s.oid = CASE d.deptype WHEN 'i' THEN d.objid ELSE d.refobjid END
    WHERE a.attrelid = store AND a.attname = 'sequence_number';

    IF sequence IS NULL THEN
        RAISE EXCEPTION 'the default of event_store.sequence_number names no sequence: %',
                (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute
                 ON attrelid = adrelid AND attnum = adnum WHERE adrelid = store AND attname = 'sequence_number')
            USING ERRCODE = 'PJ001',
                  HINT = 'set it to nextval(''name_of_a_sequence''::regclass), so that numbers can be trusted';
    END IF;

    SELECT format('%s has CACHE %s', seqrelid::regclass, seqcache) INTO found
    FROM pg_sequence WHERE seqrelid = sequence AND seqcache > 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION '%: a session would keep numbers back and use them after later ones were read', found
            USING ERRCODE = 'PJ001',
                  HINT = format('run ALTER SEQUENCE %s CACHE 1, then end the sessions that hold cached numbers',
                                sequence);
    END IF;
    IF EXISTS (SELECT FROM pg_sequence WHERE seqrelid = sequence AND (seqcycle OR seqincrement < 1)) THEN
        RAISE EXCEPTION '% counts downwards or cycles: numbers must only ever grow', sequence
            USING ERRCODE = 'PJ001', HINT = format('run ALTER SEQUENCE %s INCREMENT BY 1 NO CYCLE', sequence);
    END IF;

    -- A sequence behind the table's numbers: rows were copied here without it, and appends would collide.
    EXECUTE format('SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM %s', sequence) INTO next;
    IF next <= (SELECT max(sequence_number) FROM event_store) THEN
        -- Nobody may draw while we look again: setval could otherwise take numbers back.
        LOCK TABLE event_store IN SHARE ROW EXCLUSIVE MODE;
        SELECT max(sequence_number) INTO largest FROM event_store;
        EXECUTE format('SELECT last_value FROM %s', sequence) INTO next;
        IF next <= largest THEN
            PERFORM setval(sequence, largest);
            RAISE NOTICE 'moved % to %, the largest sequence_number', sequence, largest;
        END IF;
    END IF;

    -- The daemon finds the sequence by the column that it belongs to.
    IF NOT is_owned THEN
        EXECUTE format('ALTER SEQUENCE %s OWNED BY event_store.sequence_number', sequence);
        RAISE NOTICE 'made % belong to event_store.sequence_number', sequence;
    END IF;
END
$$;

-- The columns of the two small tables.
DO $$
DECLARE
    col record;
    found text;
BEGIN
    FOR col IN
        SELECT attrelid::regclass AS t, attname AS c
        FROM pg_attribute
        WHERE attrelid IN ('projection_checkpoints'::regclass, 'snapshots'::regclass)
            AND attname IN ('last_processed_at', 'created_at')
            AND atttypid = 'timestamp'::regtype
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE timestamptz', col.t, col.c);
        RAISE NOTICE 'changed %.% to timestamptz, its values taken as UTC', col.t, col.c;
    END LOOP;

    FOR col IN
        SELECT wanted.t, wanted.c, wanted.value
        FROM (VALUES
            ('projection_checkpoints', 'last_sequence_number', '0'),
            ('projection_checkpoints', 'last_processed_at', 'now()'),
            ('projection_checkpoints', 'events_processed', '0'),
            ('projection_checkpoints', 'status', '''running'''),
            ('snapshots', 'created_at', 'now()')
        ) AS wanted (t, c, value)
        JOIN pg_attribute a ON a.attrelid = wanted.t::regclass AND a.attname = wanted.c
        WHERE NOT (a.attnotnull AND a.atthasdef)
    LOOP
        -- A checkpoint that says nothing about its position is one at the start: nothing may be skipped.
        EXECUTE format('UPDATE %I SET %2$I = %3$s WHERE %2$I IS NULL', col.t, col.c, col.value);
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %2$I SET DEFAULT %3$s, ALTER COLUMN %2$I SET NOT NULL',
                       col.t, col.c, col.value);
        RAISE NOTICE 'set %.% to NOT NULL DEFAULT %', col.t, col.c, col.value;
    END LOOP;

    -- The CHECK, if need be. One of the same name and another meaning is not ours to judge.
    IF NOT EXISTS (SELECT FROM pg_constraint
                   WHERE conrelid = 'projection_checkpoints'::regclass AND conname = 'projection_status_known') THEN
        SELECT string_agg(format('%s is %L', projection_name, status), ', ' ORDER BY projection_name) INTO found
        FROM projection_checkpoints
        WHERE status NOT IN ('running', 'paused', 'rebuilding');
        IF found IS NOT NULL THEN
            RAISE EXCEPTION 'projections have a status that means nothing: %', found
                USING ERRCODE = 'PJ001',
                      HINT = 'set their status in projection_checkpoints to running, paused or rebuilding';
        END IF;
        ALTER TABLE projection_checkpoints ADD CONSTRAINT projection_status_known
            CHECK (status IN ('running', 'paused', 'rebuilding'));
        RAISE NOTICE 'limited projection_checkpoints.status to running, paused and rebuilding';
    END IF;
END
$$;

-- Indexes. Each one taxes every append, so each has its reason; none is made where one does its work already.
DO $$
DECLARE
    store CONSTANT regclass := 'event_store';
    redundant record;
    covered text[];
BEGIN
    -- The starting schema's repeats of the unique constraints: their names, their very definition, and nothing else.
    FOR redundant IN
        SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
        JOIN pg_index u
            ON u.indrelid = i.indrelid AND u.indisunique AND u.indisvalid AND u.indpred IS NULL
            AND u.indkey = i.indkey AND u.indclass = i.indclass AND u.indoption = i.indoption
            AND u.indcollation = i.indcollation
        WHERE i.indrelid = store
            AND c.relname IN ('idx_event_store_aggregate', 'idx_aggregate_version', 'idx_event_store_sequence')
            AND NOT i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
            AND NOT i.indisreplident AND NOT i.indisclustered
            AND c.relispartition = false
    LOOP
        EXECUTE format('DROP INDEX %s', redundant.name);
        RAISE NOTICE 'dropped index %, which repeated a unique constraint: %', redundant.name, redundant.definition;
    END LOOP;

    SELECT coalesce(array_agg(a.attname::text), '{}') INTO covered
    FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = (i.indkey::int2[])[0]
    WHERE i.indrelid = store AND i.indpred IS NULL AND i.indisvalid;

    -- For projections that want a rare type: they find its events, in order, without reading the others. The starting
    -- schema's index on event_type alone finds but does not sort them; a store that has it keeps it.
    IF NOT 'event_type' = ANY (covered) THEN
        CREATE INDEX idx_event_store_type ON event_store (event_type, sequence_number);
    END IF;

    -- For people's questions about a period ("events per day"); the daemon never asks by time. BRIN serves them in a
    -- table that grows in order of time, and costs an append next to nothing, where a B-tree costs as much as any.
    IF NOT 'created_at' = ANY (covered) THEN
        CREATE INDEX idx_event_store_created ON event_store USING brin (created_at);
    END IF;

    -- A partitioned table can have no unique index without its partition key.
    IF NOT 'sequence_number' = ANY (covered) THEN
        CREATE INDEX idx_event_store_sequence ON event_store (sequence_number);
        RAISE NOTICE 'event_store is partitioned: only its sequence keeps sequence_number unique';
    END IF;

    IF NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                   AND a.attnum = (i.indkey::int2[])[0]
                   WHERE i.indrelid = 'snapshots'::regclass AND a.attname = 'aggregate_type') THEN
        CREATE INDEX idx_snapshots_type ON snapshots (aggregate_type);
    END IF;
END
$$;


-- Part 3: the daemon's own --------------------------------------------------------------------------------------------

-- The doorbell: wakes the daemon when an event is appended. A transaction that notifies takes a lock at commit that
-- queues it behind every other notifying one, so the trigger's condition lets it notify only while somebody sleeps:
-- a sleeping worker holds the advisory lock exclusively, and the writers' try to share it fails only then.
-- The lock is the transaction's own and ends with it. Names are qualified: whatever search_path a writer has.
-- A transaction that has notified cannot be prepared for two-phase commit; writers that do so run
-- SET projectiond.doorbell = off, and the daemon finds their events at its next poll.
CREATE OR REPLACE FUNCTION projectiond_ring_doorbell() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('projectiond.doorbell', true) IS DISTINCT FROM 'off' THEN
        PERFORM pg_catalog.pg_notify('projectiond_doorbell', '');
    END IF;
    RETURN NULL;
END
$$;

-- An operator's UPDATE of a status is heard at once. 'running' wipes the slate: the error that paused the projection, and
-- a rebuild that has ended or is called off. 'paused' holds for a rebuild as well.
-- SECURITY DEFINER, so that who may change a status need not have rights on projection_rebuilds. A function that runs
-- with its owner's rights must not be led astray: the table's schema is written into it, and nobody else may attach it
-- to a table of their own.
DO $do$
BEGIN
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION projectiond_status_changed() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                PERFORM pg_notify('projectiond_status', NEW.projection_name);
                -- No more than that: INSERT ... ON CONFLICT DO NOTHING comes by here too, for a row that stays.
                RETURN NEW;
            END IF;
            IF NEW.status IS NOT DISTINCT FROM OLD.status THEN
                RETURN NEW;
            END IF;
            PERFORM pg_notify('projectiond_status', NEW.projection_name);
            IF NEW.status = 'running' AND NEW.error_message IS NOT DISTINCT FROM OLD.error_message THEN
                NEW.error_message := NULL;
            END IF;
            -- This row is also what the rebuild's own transactions change last: so once this one has committed, no
            -- further of theirs does. 'rebuilding' after a pause goes on; in place it begins afresh, since what fills
            -- the tables then are the handlers of now.
            IF NEW.status = 'running' THEN
                DELETE FROM %1$I.projection_rebuilds WHERE projection_name = NEW.projection_name;
            ELSE
                UPDATE %1$I.projection_rebuilds
                SET is_paused = NEW.status = 'paused',
                    is_begun = is_begun AND (mode = 'beside' OR NEW.status = 'paused')
                WHERE projection_name = NEW.projection_name;
            END IF;
            RETURN NEW;
        END
        $function$
    $create$, current_schema());
    REVOKE ALL ON FUNCTION projectiond_status_changed() FROM PUBLIC;
END
$do$;

-- The last word of the daemon's compare-and-set: raises when no checkpoint was moved, so that the COMMIT that follows
-- at once, without waiting, commits nothing. PJ003: the transaction is not the one that the daemon began.
CREATE OR REPLACE FUNCTION projectiond_require_moved(is_moved boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF is_moved THEN
        RETURN;
    END IF;
    IF pg_catalog.current_setting('projectiond.transaction', true) IS DISTINCT FROM 'open' THEN
        RAISE EXCEPTION 'the transaction in which events were applied has been ended' USING ERRCODE = 'PJ003';
    END IF;
    RAISE EXCEPTION 'the checkpoint was moved, or its status changed' USING ERRCODE = 'PJ002';
END
$$;

-- Events that a projection with on_error = "skip" could not apply, with what is needed to apply them later.
CREATE TABLE IF NOT EXISTS projection_dead_letters (
    projection_name VARCHAR(100) NOT NULL,
    sequence_number BIGINT NOT NULL,
    event_id UUID NOT NULL,
    event_type TEXT NOT NULL,
    aggregate_id UUID NOT NULL,
    -- JSON, not JSONB: a store whose event_data is JSON may hold text that JSONB refuses, and that is when it is needed.
    event_data JSON NOT NULL,
    handler TEXT NOT NULL,
    error TEXT NOT NULL,
    attempts INT NOT NULL,
    failed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    -- Somebody has asked for it to be tried again; a runner has begun to. Both are cleared when that has failed.
    retry_requested_at TIMESTAMPTZ,
    retry_begun_at TIMESTAMPTZ,
    PRIMARY KEY (projection_name, sequence_number)
);

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'projection_dead_letters'::regclass AND attname = 'retry_begun_at'
    ) THEN
        ALTER TABLE projection_dead_letters
            ADD COLUMN retry_requested_at TIMESTAMPTZ,
            ADD COLUMN retry_begun_at TIMESTAMPTZ;
        RAISE NOTICE 'added columns to projection_dead_letters';
    END IF;
    -- Workers look once a second whether a retry is asked for; there may be a million letters.
    IF to_regclass('idx_dead_letters_to_retry') IS NULL THEN
        CREATE INDEX idx_dead_letters_to_retry ON projection_dead_letters (projection_name)
            WHERE retry_requested_at IS NOT NULL AND retry_begun_at IS NULL;
    END IF;
END
$$;

-- A row is a rebuild in progress. Beside the live tables it appears together with the space in which the new ones are
-- built (docs/adr/0009-rebuild-beside.md), and every transaction there moves position_sequence_number along;
-- error_message has what keeps it from going on. In place it is the wish, until is_begun says that the tables have been
-- emptied: a restarted daemon then goes on instead of emptying them again. target_sequence_number is the store's end when
-- it began.
CREATE TABLE IF NOT EXISTS projection_rebuilds (
    projection_name VARCHAR(100) PRIMARY KEY,
    started_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    target_sequence_number BIGINT NOT NULL DEFAULT 0,
    id UUID NOT NULL DEFAULT gen_random_uuid(),
    mode TEXT NOT NULL DEFAULT 'beside' CONSTRAINT projection_rebuild_mode_known CHECK (mode IN ('beside', 'in place')),
    is_begun BOOLEAN NOT NULL DEFAULT false,
    position_sequence_number BIGINT NOT NULL DEFAULT 0,
    is_paused BOOLEAN NOT NULL DEFAULT false,
    error_message TEXT
);

-- An older version rebuilt in place only, and a row said that it had begun.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'projection_rebuilds'::regclass AND attname = 'error_message'
    ) THEN
        ALTER TABLE projection_rebuilds
            ALTER COLUMN target_sequence_number SET DEFAULT 0,
            ADD COLUMN id UUID NOT NULL DEFAULT gen_random_uuid(),
            ADD COLUMN mode TEXT NOT NULL DEFAULT 'in place'
                CONSTRAINT projection_rebuild_mode_known CHECK (mode IN ('beside', 'in place')),
            ADD COLUMN is_begun BOOLEAN NOT NULL DEFAULT true,
            ADD COLUMN position_sequence_number BIGINT NOT NULL DEFAULT 0,
            ADD COLUMN is_paused BOOLEAN NOT NULL DEFAULT false,
            ADD COLUMN error_message TEXT;
        ALTER TABLE projection_rebuilds
            ALTER COLUMN mode SET DEFAULT 'beside',
            ALTER COLUMN is_begun SET DEFAULT false;
        RAISE NOTICE 'added columns to projection_rebuilds';
    END IF;
END
$$;

-- What the rebuilds that have been finished beside the live tables came to: `tables` has, for each table, how many rows
-- there are and how many were changed, added and removed.
CREATE TABLE IF NOT EXISTS projection_rebuild_history (
    projection_name VARCHAR(100) NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    position BIGINT NOT NULL,
    method TEXT NOT NULL,
    tables JSONB NOT NULL,
    PRIMARY KEY (projection_name, finished_at)
);

-- On the checkpoint of a replay, in a schema of its own beside the live tables: the last statement of each of its
-- transactions comes by here. It sees that nothing outside of that schema was written (whoever writes a table holds a
-- lock on it until the transaction ends), and moves the rebuild's row along, so that pausing it and calling it off hold
-- at once. Its argument is the rebuild's id, which the replay's sessions must know: a schema of the same name may have
-- taken the place of theirs. A replay that belongs to no rebuild has none. PJ008: something outside was written.
DO $do$
BEGIN
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION projectiond_replay_moved() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
        DECLARE
            strays text;
        BEGIN
            IF NEW.last_sequence_number IS DISTINCT FROM OLD.last_sequence_number THEN
                SELECT string_agg(DISTINCT format('%%I.%%I', place.nspname, written.relname), ', ') INTO strays
                FROM pg_locks AS held
                JOIN pg_class AS written ON written.oid = held.relation
                JOIN pg_namespace AS place ON place.oid = written.relnamespace
                WHERE held.pid = pg_backend_pid()
                    AND held.locktype = 'relation'
                    AND held.mode IN (
                        'RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
                    )
                    AND written.relkind IN ('r', 'p', 'm', 'f')
                    AND place.nspname <> TG_TABLE_SCHEMA
                    AND place.nspname NOT LIKE 'pg\_%%';
                IF strays IS NOT NULL THEN
                    RAISE EXCEPTION '%%', strays USING ERRCODE = 'PJ008';
                END IF;
            END IF;
            IF TG_NARGS = 0 THEN
                RETURN NEW;
            END IF;
            IF NEW.last_sequence_number IS DISTINCT FROM OLD.last_sequence_number THEN
                IF current_setting('projectiond.replay', true) IS DISTINCT FROM TG_ARGV[0] THEN
                    RAISE EXCEPTION 'the rebuild is another one now' USING ERRCODE = 'PJ002';
                END IF;
                UPDATE %1$I.projection_rebuilds
                SET position_sequence_number = NEW.last_sequence_number,
                    error_message = NULL
                WHERE projection_name = NEW.projection_name
                    AND id = TG_ARGV[0]::uuid
                    AND NOT is_paused;
                IF NOT FOUND THEN
                    RAISE EXCEPTION 'the rebuild is paused, or not the one in progress' USING ERRCODE = 'PJ002';
                END IF;
            ELSIF NEW.error_message IS NOT NULL THEN
                UPDATE %1$I.projection_rebuilds
                SET error_message = NEW.error_message
                WHERE projection_name = NEW.projection_name
                    AND id = TG_ARGV[0]::uuid;
            END IF;
            RETURN NEW;
        END
        $function$
    $create$, current_schema());
END
$do$;

-- What built the tables of each projection: the fingerprint of its code, schema and options (fingerprint.py), with the
-- version that its author gave. A daemon that has another one finds out here that they differ. "digest" stands for all of
-- it, "previous_digest" for what built the tables before, and "met_digest" for the one that has last been told of.
CREATE TABLE IF NOT EXISTS projection_builds (
    projection_name VARCHAR(100) PRIMARY KEY,
    fingerprint JSONB NOT NULL,
    version TEXT,
    digest TEXT NOT NULL,
    previous_digest TEXT,
    met_digest TEXT,
    built_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    -- 'enrolled': filled from empty tables; 'rebuilt'; 'adopted': found as they were; 'accepted': by an operator.
    built_by TEXT NOT NULL,
    -- Of the last catch-up of some length.
    events_per_second FLOAT8
);

-- Who the workers are that are connected, and since when each runs what it runs ("held_since": projection to time), for
-- people. A row counts only while its session ("session_pid") holds the workers' advisory lock; nothing is decided by it.
CREATE TABLE IF NOT EXISTS projection_workers (
    session_pid INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    process_id INTEGER NOT NULL,
    worker_number INTEGER NOT NULL,
    version TEXT NOT NULL,
    projections TEXT[] NOT NULL,
    started_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    held_since JSONB NOT NULL DEFAULT '{}'
);

-- At most one row: a mark that every number up to it is settled. Kept only while an open transaction holds the mark
-- back, so that a restarted daemon need not wait again for what was proven before.
CREATE TABLE IF NOT EXISTS projectiond_high_water_mark (
    singleton BOOLEAN PRIMARY KEY DEFAULT true CHECK (singleton),
    mark BIGINT NOT NULL,
    proven_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

-- Read your writes, for whoever speaks only SQL: SELECT projectiond_wait_for('order_summary', 41208) returns once the
-- projection has applied every event up to that number, and gives its position. To be called after the append has
-- committed; NULL as timeout waits until statement_timeout. projectiond.waiting does the same from Python, and
-- arrival.py says why these steps in this order prove it: each is a statement with a snapshot of its own.
-- It runs with its caller's rights: SELECT on event_store, projection_checkpoints and projection_rebuilds. The schema
-- is written into it, whatever the caller's search_path is. Without sequential scans: a plan that was made while the
-- store was small is kept, and would read the whole of it.
-- PJ004: not in time. PJ005: paused. PJ006: no such projection. PJ007: the caller's transaction makes it impossible.
DO $do$
BEGIN
    EXECUTE format($create$
        CREATE OR REPLACE FUNCTION projectiond_wait_for(
            projection text,
            sequence_number bigint,
            timeout interval DEFAULT '5 seconds'
        ) RETURNS bigint
        LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $function$
        #variable_conflict use_column
        DECLARE
            wanted CONSTANT bigint := projectiond_wait_for.sequence_number;
            seconds CONSTANT float8 := extract(epoch FROM timeout);
            began CONSTANT timestamptz := clock_timestamp();
            store CONSTANT regclass := %2$L;
            numbers CONSTANT regclass := pg_get_serial_sequence(%2$L, 'sequence_number');
            isolation CONSTANT text := current_setting('transaction_isolation');
            this_database CONSTANT oid := oid FROM pg_database WHERE datname = current_database();
            kept record;
            facts record;
            lockers text[];
            holding text[];
            waited float8;
            lag bigint;
            is_visible boolean := false;
        BEGIN
            IF projection IS NULL OR wanted IS NULL THEN
                RAISE EXCEPTION 'projectiond_wait_for needs a projection and a sequence number, not NULL'
                    USING ERRCODE = 'null_value_not_allowed';
            END IF;
            IF isolation NOT IN ('read committed', 'read uncommitted') THEN
                RAISE EXCEPTION 'a transaction that is %% sees nothing that is committed after its start, so waiting '
                        'for %% in it would never end', isolation, wanted
                    USING ERRCODE = 'PJ007', HINT = 'wait before it begins, or use READ COMMITTED';
            END IF;
            IF EXISTS (
                SELECT
                FROM pg_locks
                WHERE pid = pg_backend_pid()
                    AND locktype = 'relation'
                    AND mode = 'RowExclusiveLock'
                    AND relation IN (SELECT store UNION ALL SELECT relid FROM pg_partition_tree(store))
            ) THEN
                RAISE EXCEPTION 'waiting for %% inside a transaction that has itself written to event_store would be '
                        'waiting for itself: no projection sees its events before it commits', wanted
                    USING ERRCODE = 'PJ007', HINT = 'commit first, then wait';
            END IF;

            LOOP
                SELECT
                    checkpoint.last_sequence_number AS place,
                    checkpoint.status,
                    checkpoint.error_message,
                    checkpoint.status = 'rebuilding'
                        AND coalesce(rebuild.mode = 'in place' AND NOT rebuild.is_begun, false) AS is_about_to_be_reset
                INTO kept
                FROM %1$I.projection_checkpoints AS checkpoint
                LEFT JOIN %1$I.projection_rebuilds AS rebuild USING (projection_name)
                WHERE checkpoint.projection_name = projection;
                IF NOT FOUND THEN
                    RAISE EXCEPTION 'unknown projection "%%"', projection
                        USING ERRCODE = 'PJ006',
                              HINT = coalesce(
                                  (SELECT 'known are ' || string_agg(projection_name, ', ' ORDER BY projection_name)
                                   FROM %1$I.projection_checkpoints),
                                  'no projection has ever run on this database: start the daemon with "projectiond run"'
                              );
                END IF;

                IF NOT kept.is_about_to_be_reset AND (kept.place >= wanted OR NOT is_visible) THEN
                    SELECT
                        greatest(
                            (SELECT max(sequence_number) FROM %1$I.event_store),
                            CASE
                                WHEN has_sequence_privilege(numbers, 'SELECT, USAGE')
                                    THEN pg_sequence_last_value(numbers)
                            END,
                            0
                        ) AS store_end,
                        EXISTS (SELECT FROM %1$I.event_store WHERE sequence_number = wanted) AS is_visible,
                        EXISTS (
                            SELECT
                            FROM %1$I.event_store
                            WHERE sequence_number > kept.place
                                AND sequence_number <= wanted
                        ) AS has_events_between
                    INTO facts;
                    is_visible := facts.is_visible;
                    IF kept.place >= wanted THEN
                        -- Beyond the end there is nothing: the store has lost what this checkpoint stands for.
                        IF kept.place <= facts.store_end THEN
                            RETURN kept.place;
                        END IF;
                    ELSIF NOT is_visible AND facts.store_end >= wanted AND NOT pg_is_in_recovery() THEN
                        IF lockers IS NULL OR lockers <> '{}' THEN
                            holding := ARRAY(
                                SELECT DISTINCT held.virtualtransaction
                                FROM pg_locks AS held
                                WHERE held.locktype = 'relation'
                                    AND held.mode = 'RowExclusiveLock'
                                    AND held.granted
                                    AND held.database = this_database
                                    AND held.relation IN (
                                        SELECT store
                                        UNION ALL
                                        SELECT relid FROM pg_partition_tree(store)
                                    )
                            );
                            lockers := CASE
                                WHEN lockers IS NULL THEN holding
                                ELSE ARRAY(SELECT unnest(lockers) INTERSECT SELECT unnest(holding))
                            END;
                            -- What was seen before the lockers were proves nothing: look again, in a later statement.
                            facts.has_events_between := lockers <> '{}' OR EXISTS (
                                SELECT
                                FROM %1$I.event_store
                                WHERE sequence_number > kept.place
                                    AND sequence_number <= wanted
                            );
                        END IF;
                        IF NOT facts.has_events_between THEN
                            RETURN kept.place;
                        END IF;
                    END IF;
                END IF;

                IF kept.status = 'paused' THEN
                    RAISE EXCEPTION '"%%" is paused at %%', projection, concat_ws(': ', kept.place, kept.error_message)
                        USING ERRCODE = 'PJ005', HINT = format('"projectiond resume %%s" lets it go on', projection);
                END IF;

                waited := extract(epoch FROM clock_timestamp() - began);
                EXIT WHEN waited >= seconds;
                -- From 1 ms to 50 ms, each an eighth of the time waited so far.
                PERFORM pg_sleep(least(greatest(waited / 8, 0.001), 0.05, seconds - waited));
            END LOOP;

            SELECT count(*) INTO lag
            FROM (
                SELECT
                FROM %1$I.event_store
                WHERE sequence_number > kept.place
                    AND sequence_number <= wanted
                LIMIT 100001
            ) AS behind;
            RAISE EXCEPTION 'after %% s "%%" is at %% (%%), %% behind %%', seconds, projection, kept.place, kept.status,
                    CASE lag
                        WHEN 1 THEN '1 event'
                        WHEN 100001 THEN 'more than 100000 events'
                        ELSE lag || ' events'
                    END,
                    wanted
                USING ERRCODE = 'PJ004',
                      HINT = CASE
                          WHEN pg_is_in_recovery()
                              THEN 'this server is a standby, so see "projectiond status" of the primary'
                          WHEN kept.error_message IS NOT NULL
                              THEN 'its last error was: ' || kept.error_message
                          -- The key, of which every live worker holds a share, is "projwork" as a number.
                          WHEN NOT EXISTS (
                              SELECT
                              FROM pg_locks
                              WHERE locktype = 'advisory'
                                  AND mode = 'ShareLock'
                                  AND granted
                                  AND database = this_database
                                  AND objsubid = 1
                                  AND (classid::bigint << 32) | objid::bigint = 8102661182653952619
                          )
                              THEN 'no daemon is running on this database: start one with "projectiond run"'
                          WHEN kept.is_about_to_be_reset
                              THEN 'its rebuild has been asked for but not begun'
                          WHEN lag = 0
                              THEN 'no such event has been committed; "projectiond status" names who may still add it'
                          ELSE '"projectiond status" says what holds it back'
                      END;
        END
        $function$
    $create$, current_schema(), quote_ident(current_schema()) || '.event_store');
END
$do$;

-- The triggers. Made only where they are missing or of another version than the comment on them says, since making
-- one waits for the table's writers.
DO $$
DECLARE
    wanted record;
    present record;
BEGIN
    FOR wanted IN
        SELECT *
        FROM (VALUES
            ('projectiond_ring_doorbell', 'event_store', 'projectiond doorbell, version 1',
             -- The key is "projbell" as a number.
             'AFTER INSERT ON event_store FOR EACH STATEMENT '
             'WHEN (NOT pg_catalog.pg_try_advisory_xact_lock_shared(8102661182300974188)) '
             'EXECUTE FUNCTION projectiond_ring_doorbell()'),
            ('projectiond_status_changed', 'projection_checkpoints', 'projectiond status, version 1',
             'BEFORE INSERT OR UPDATE OF status ON projection_checkpoints FOR EACH ROW '
             'EXECUTE FUNCTION projectiond_status_changed()')
        ) AS definition (name, t, version, body)
    LOOP
        SELECT tgenabled AS enabled, obj_description(oid, 'pg_trigger') AS version INTO present
        FROM pg_trigger
        WHERE tgrelid = wanted.t::regclass AND tgname = wanted.name;
        IF FOUND AND present.version IS DISTINCT FROM wanted.version THEN
            EXECUTE format('DROP TRIGGER %I ON %I', wanted.name, wanted.t);
        END IF;
        IF present.version IS DISTINCT FROM wanted.version THEN
            EXECUTE format('CREATE TRIGGER %I %s', wanted.name, wanted.body);
            EXECUTE format('COMMENT ON TRIGGER %I ON %I IS %L', wanted.name, wanted.t, wanted.version);
            RAISE NOTICE 'created trigger % on %', wanted.name, wanted.t;
        ELSIF present.enabled NOT IN ('O', 'A') THEN
            EXECUTE format('ALTER TABLE %I ENABLE TRIGGER %I', wanted.t, wanted.name);
            RAISE NOTICE 'enabled trigger % on %', wanted.name, wanted.t;
        END IF;
    END LOOP;
END
$$;

COMMIT;
