-- The tables of every runtime in this schema, and the one procedure that writes a log.

-- One row for each runtime. Whoever commits locks it first: its commits happen one after another.
CREATE TABLE runtime (
    key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    lineage text NOT NULL,
    -- The last position of the log, and the last one that retention removed.
    position bigint NOT NULL DEFAULT 0,
    pruned bigint NOT NULL DEFAULT 0,
    -- How many commits there were, how many of them are forgotten, and the earliest time in the
    -- id of one that is not.
    commits bigint NOT NULL DEFAULT 0,
    forgotten bigint NOT NULL DEFAULT 0,
    earliest bigint
) WITH (fillfactor = 20);

-- The rows of the store; `entry`, since `row` is a word of SQL.
CREATE TABLE entry (
    runtime integer NOT NULL,
    space text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    body bytea NOT NULL,
    -- The position of the event whose body belongs to it.
    event bigint,
    due bigint,
    PRIMARY KEY (runtime, space, scope, name)
) WITH (fillfactor = 80);
CREATE INDEX entry_owner ON entry (runtime, scope);
CREATE INDEX entry_due ON entry (runtime, space, due, scope, name) WHERE due IS NOT NULL;

CREATE TABLE event (
    runtime integer NOT NULL,
    position bigint NOT NULL,
    id uuid NOT NULL,
    at bigint NOT NULL,
    -- It closed its own stream; its body was erased.
    closes boolean NOT NULL,
    erased boolean NOT NULL DEFAULT false,
    -- Its streams, its own first; its place in each, and the position before it there.
    streams text[] COLLATE "C" NOT NULL,
    seqs bigint[] NOT NULL,
    previous bigint[] NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (runtime, position)
);
CREATE UNIQUE INDEX event_id ON event (runtime, id);

-- The ids of events that retention has removed, for as long as their commits are remembered.
CREATE TABLE taken (
    runtime integer NOT NULL,
    id uuid NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (runtime, id)
);

-- Which events a stream has that are served.
CREATE TABLE place (
    runtime integer NOT NULL,
    stream text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (runtime, stream, position)
);

-- How far each stream is.
CREATE TABLE stream (
    runtime integer NOT NULL,
    stream text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    position bigint NOT NULL,
    closed boolean NOT NULL,
    PRIMARY KEY (runtime, stream)
) WITH (fillfactor = 80);

-- The commits that are remembered, with what each did.
CREATE TABLE made (
    runtime integer NOT NULL,
    id uuid NOT NULL,
    number bigint NOT NULL,
    -- Names the submission that made it, so that its submitter knows it from a repetition after
    -- a lost connection.
    submission bigint NOT NULL,
    content bytea NOT NULL,
    -- The time in its id, if the id has one.
    made bigint,
    first bigint NOT NULL,
    -- For each of its events the number of its streams; then the places of all of them.
    widths smallint[] NOT NULL,
    streams text[] COLLATE "C" NOT NULL,
    seqs bigint[] NOT NULL,
    previous bigint[] NOT NULL,
    PRIMARY KEY (runtime, id)
);
CREATE INDEX made_number ON made (runtime, number);

CREATE TABLE attachment (
    runtime integer NOT NULL,
    digest bytea NOT NULL,
    body bytea NOT NULL,
    put timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (runtime, digest)
);

-- Which commits named an attachment: their events from `first` to before `last`, and the scopes
-- that they put rows of.
CREATE TABLE naming (
    runtime integer NOT NULL,
    digest bytea NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    scopes text[] COLLATE "C" NOT NULL
);
CREATE INDEX naming_digest ON naming (runtime, digest);

-- The keys that tokens are signed with. Whoever can read this table can sign.
CREATE TABLE signing_key (
    runtime integer NOT NULL,
    id integer NOT NULL,
    secret bytea NOT NULL,
    PRIMARY KEY (runtime, id)
);

-- Removes the events up to a position. Those that rows refer to stay, and are served by these rows
-- alone; a closed stream is forgotten with its last event.
CREATE PROCEDURE prune(p_runtime integer, p_pruned bigint, p_through bigint)
LANGUAGE plpgsql AS $procedure$
DECLARE
    v_streams text[];
BEGIN
    SELECT array_agg(DISTINCT q.stream) INTO v_streams
    FROM event e CROSS JOIN unnest(e.streams) AS q(stream)
    WHERE e.runtime = p_runtime AND e.position > p_pruned AND e.position <= p_through;
    DELETE FROM place WHERE ctid = ANY (ARRAY(
        SELECT l.ctid FROM unnest(v_streams) AS q(stream)
        CROSS JOIN LATERAL (SELECT p.ctid FROM place p WHERE p.runtime = p_runtime AND p.stream = q.stream AND p.position <= p_through OFFSET 0) l));
    DELETE FROM stream WHERE ctid = ANY (ARRAY(
        SELECT (SELECT s.ctid FROM stream s WHERE s.runtime = p_runtime AND s.stream = q.stream AND s.closed AND s.position <= p_through)
        FROM unnest(v_streams) AS q(stream)));
    INSERT INTO taken (runtime, id, position)
    SELECT e.runtime, e.id, e.position FROM event e
    WHERE e.runtime = p_runtime AND e.position > p_pruned AND e.position <= p_through
        AND e.position >= (SELECT min(m.first) FROM made m WHERE m.runtime = p_runtime)
    ON CONFLICT DO NOTHING;
    DELETE FROM event e WHERE e.runtime = p_runtime AND e.position <= p_through
        AND NOT EXISTS (SELECT FROM entry r WHERE r.runtime = p_runtime AND r.event = e.position);
END
$procedure$;

-- Empties the events of some streams; their places stay.
CREATE PROCEDURE erase(p_runtime integer, p_pruned bigint, p_streams text[])
LANGUAGE plpgsql AS $procedure$
BEGIN
    UPDATE event SET body = '', erased = true WHERE ctid = ANY (ARRAY(
        SELECT (SELECT e.ctid FROM event e WHERE e.runtime = p_runtime AND e.position = l.position)
        FROM unnest(p_streams) AS q(stream)
        CROSS JOIN LATERAL (SELECT p.position FROM place p WHERE p.runtime = p_runtime AND p.stream = q.stream OFFSET 0) l));
    -- Of those that retention has removed, rows may have kept some.
    UPDATE event e SET body = '', erased = true
    WHERE e.runtime = p_runtime AND e.position <= p_pruned AND e.streams && p_streams;
END
$procedure$;

-- Makes one batch of commits that do not look at one another, each whole or not at all, and
-- commits the transaction itself: no lock outlives the call, wherever the caller is then.
-- Every look-up is a subquery by primary key, so that no plan ever reads a table through, whatever
-- the server's statistics say.
--
-- Arrays of one prefix belong together, element by element, and count from 1. A verdict is
-- 0 made, 1 known and made by this submission, 2 known, 3 known with other content, 4 too old,
-- 5 fenced, 6 a guard did not hold (at: which guard, found: what it found, -1 for no row),
-- 7 a stream is closed (at: which place, found: its head), 8 an event id is taken,
-- 9 an attachment is missing (at: which). A commit that removes events comes alone.
CREATE PROCEDURE commit_batch(
    p_runtime integer, p_submission bigint, p_remembered bigint,
    c_id uuid[], c_content bytea[], c_at bigint[], c_made bigint[], c_scope text[], c_epoch bigint[],
    g_commit integer[], g_kind smallint[], g_space text[], g_scope text[], g_name text[], g_value bigint[],
    t_commit integer[], t_scope text[],
    d_commit integer[], d_space text[], d_scope text[], d_name text[],
    r_commit integer[], r_space text[], r_scope text[], r_name text[], r_puts bigint[], r_body bytea[], r_event integer[], r_due bigint[],
    e_commit integer[], e_id uuid[], e_closes boolean[], e_width smallint[], e_body bytea[],
    p_commit integer[], p_event integer[], p_stream text[], p_own boolean[], p_earlier integer[], p_closed boolean[],
    a_commit integer[], a_digest bytea[],
    s_commit integer[], s_scope text[],
    x_through bigint, x_streams text[],
    INOUT o_verdict smallint[], INOUT o_at integer[], INOUT o_found bigint[], INOUT o_first bigint[],
    INOUT o_seq bigint[], INOUT o_previous bigint[], INOUT o_now bigint
)
LANGUAGE plpgsql AS $procedure$
DECLARE
    v_runtime runtime%ROWTYPE;
    v_ok boolean[];
    v_position bigint[];
    v_made integer;
    v_appended integer := 0;
BEGIN
    SELECT * INTO STRICT v_runtime FROM runtime WHERE key = p_runtime FOR UPDATE;

    WITH c AS (
        SELECT t.*, (SELECT CASE WHEN m.content <> t.content THEN 3 WHEN m.submission = p_submission THEN 1 ELSE 2 END
                FROM made m WHERE m.runtime = p_runtime AND m.id = t.id) AS known
        FROM unnest(c_id, c_content, c_made, c_scope, c_epoch) WITH ORDINALITY AS t(id, content, made, scope, epoch, n)
    ), guard AS (
        SELECT DISTINCT ON (x.commit) x.commit, x.n, x.seen FROM (
            SELECT t.commit, t.n, t.value, CASE
                WHEN t.kind = 2 THEN COALESCE((SELECT s.seq FROM stream s WHERE s.runtime = p_runtime AND s.stream = t.name), 0)
                ELSE COALESCE((SELECT r.version FROM entry r WHERE r.runtime = p_runtime AND r.space = t.space AND r.scope = t.scope AND r.name = t.name), -1)
                END AS seen
            FROM unnest(g_commit, g_kind, g_space, g_scope, g_name, g_value) WITH ORDINALITY AS t(commit, kind, space, scope, name, value, n)
        ) x WHERE x.seen <> x.value ORDER BY x.commit, x.n
    ), closed AS (
        SELECT DISTINCT ON (x.commit) x.commit, x.n, x.seen FROM (
            SELECT t.commit, t.n, t.earlier + COALESCE(s.seq, 0) AS seen, t.closed OR COALESCE(s.closed, false) AS is_closed
            FROM unnest(p_commit, p_stream, p_earlier, p_closed) WITH ORDINALITY AS t(commit, stream, earlier, closed, n)
            LEFT JOIN LATERAL (SELECT s.seq, s.closed FROM stream s WHERE s.runtime = p_runtime AND s.stream = t.stream OFFSET 0) s ON true
        ) x WHERE x.is_closed ORDER BY x.commit, x.n
    ), taken AS (
        SELECT DISTINCT t.commit FROM unnest(e_commit, e_id) AS t(commit, id)
        WHERE (SELECT true FROM event e WHERE e.runtime = p_runtime AND e.id = t.id)
            OR (SELECT true FROM taken e WHERE e.runtime = p_runtime AND e.id = t.id)
    ), missing AS (
        SELECT t.commit, min(t.n) AS n FROM unnest(a_commit, a_digest) WITH ORDINALITY AS t(commit, digest, n)
        WHERE (SELECT true FROM attachment a WHERE a.runtime = p_runtime AND a.digest = t.digest) IS NULL GROUP BY t.commit
    ), verdict AS (
        SELECT c.n, CASE
            WHEN c.known IS NOT NULL THEN c.known
            WHEN v_runtime.forgotten > 0 AND c.made < v_runtime.earliest THEN 4
            WHEN c.scope IS NOT NULL AND c.epoch IS DISTINCT FROM (SELECT r.version FROM entry r
                WHERE r.runtime = p_runtime AND r.space = 'epoch' AND r.scope = c.scope AND r.name = '') THEN 5
            WHEN guard.n IS NOT NULL THEN 6
            WHEN closed.n IS NOT NULL THEN 7
            WHEN taken.commit IS NOT NULL THEN 8
            WHEN missing.n IS NOT NULL THEN 9
            ELSE 0 END AS code,
            COALESCE(guard.n, closed.n, missing.n) AS at,
            COALESCE(guard.seen, closed.seen) AS seen
        FROM c LEFT JOIN guard ON guard.commit = c.n LEFT JOIN closed ON closed.commit = c.n
            LEFT JOIN taken ON taken.commit = c.n LEFT JOIN missing ON missing.commit = c.n
    )
    SELECT array_agg(code::smallint ORDER BY n), array_agg(code = 0 ORDER BY n), array_agg(at::integer ORDER BY n),
        array_agg(seen ORDER BY n), (count(*) FILTER (WHERE code = 0))::integer
    INTO o_verdict, v_ok, o_at, o_found, v_made FROM verdict;

    IF v_made > 0 THEN
        x_through := least(x_through, v_runtime.position);
        IF x_through > v_runtime.pruned THEN
            CALL prune(p_runtime, v_runtime.pruned, x_through);
            v_runtime.pruned := x_through;
        END IF;
        IF cardinality(x_streams) > 0 THEN
            CALL erase(p_runtime, v_runtime.pruned, x_streams);
        END IF;
        IF cardinality(e_id) > 0 THEN
            WITH e AS MATERIALIZED (
                SELECT t.*, v_runtime.position + row_number() OVER (ORDER BY t.n) AS position
                FROM unnest(e_commit, e_id, e_closes, e_body) WITH ORDINALITY AS t(commit, id, closes, body, n)
                WHERE v_ok[t.commit]
            ), p AS MATERIALIZED (
                SELECT t.n, t.event, t.stream, e.position, t.own AND e.closes AS closes,
                    COALESCE(h.seq, 0) + row_number() OVER w AS seq,
                    COALESCE(lag(e.position) OVER w, h.position, 0) AS previous
                FROM unnest(p_event, p_stream, p_own) WITH ORDINALITY AS t(event, stream, own, n)
                JOIN e ON e.n = t.event
                LEFT JOIN LATERAL (SELECT s.seq, s.position FROM stream s WHERE s.runtime = p_runtime AND s.stream = t.stream OFFSET 0) h ON true
                WINDOW w AS (PARTITION BY t.stream ORDER BY t.n)
            ), places AS (
                SELECT p.event, array_agg(p.stream ORDER BY p.n) AS streams, array_agg(p.seq ORDER BY p.n) AS seqs,
                    array_agg(p.previous ORDER BY p.n) AS previous
                FROM p GROUP BY p.event
            ), appended AS (
                INSERT INTO event (runtime, position, id, at, closes, streams, seqs, previous, body)
                SELECT p_runtime, e.position, e.id, c_at[e.commit], e.closes AND q.event IS NOT NULL, COALESCE(q.streams, '{}'), COALESCE(q.seqs, '{}'), COALESCE(q.previous, '{}'), e.body
                FROM e LEFT JOIN places q ON q.event = e.n
            ), placed AS (
                INSERT INTO place (runtime, stream, position) SELECT p_runtime, p.stream, p.position FROM p
            ), moved AS (
                INSERT INTO stream AS s (runtime, stream, seq, position, closed)
                SELECT p_runtime, p.stream, max(p.seq), max(p.position), bool_or(p.closes) FROM p GROUP BY p.stream
                ON CONFLICT (runtime, stream) DO UPDATE
                SET seq = excluded.seq, position = excluded.position, closed = s.closed OR excluded.closed
            )
            SELECT
                (SELECT array_agg(e.position ORDER BY t.n) FROM unnest(e_commit) WITH ORDINALITY AS t(commit, n) LEFT JOIN e ON e.n = t.n),
                (SELECT array_agg(p.seq ORDER BY t.n) FROM unnest(p_event) WITH ORDINALITY AS t(event, n) LEFT JOIN p ON p.n = t.n),
                (SELECT array_agg(p.previous ORDER BY t.n) FROM unnest(p_event) WITH ORDINALITY AS t(event, n) LEFT JOIN p ON p.n = t.n),
                (SELECT count(*) FROM e)
            INTO v_position, o_seq, o_previous, v_appended;
        END IF;

        IF cardinality(t_scope) > 0 THEN
            DELETE FROM entry WHERE ctid = ANY (ARRAY(
                SELECT r.ctid FROM unnest(t_commit, t_scope) AS t(commit, scope)
                CROSS JOIN LATERAL (SELECT r.ctid FROM entry r WHERE r.runtime = p_runtime AND r.scope = t.scope OFFSET 0) r
                WHERE v_ok[t.commit]));
        END IF;
        IF cardinality(d_name) > 0 THEN
            DELETE FROM entry WHERE ctid = ANY (ARRAY(
                SELECT (SELECT r.ctid FROM entry r WHERE r.runtime = p_runtime AND r.space = t.space AND r.scope = t.scope AND r.name = t.name)
                FROM unnest(d_commit, d_space, d_scope, d_name) AS t(commit, space, scope, name)
                WHERE v_ok[t.commit]));
        END IF;
        IF cardinality(r_name) > 0 THEN
            INSERT INTO entry AS r (runtime, space, scope, name, version, body, event, due)
            SELECT p_runtime, t.space, t.scope, t.name, t.puts, t.body, v_position[t.event], t.due
            FROM unnest(r_commit, r_space, r_scope, r_name, r_puts, r_body, r_event, r_due) AS t(commit, space, scope, name, puts, body, event, due)
            WHERE v_ok[t.commit]
            ON CONFLICT (runtime, space, scope, name) DO UPDATE
            SET version = r.version + excluded.version, body = excluded.body, event = excluded.event, due = excluded.due;
        END IF;

        WITH c AS (
            SELECT t.n, t.id, t.content, t.made, COALESCE(e.events, 0) AS events, COALESCE(e.widths, '{}') AS widths
            FROM unnest(c_id, c_content, c_made) WITH ORDINALITY AS t(id, content, made, n)
            LEFT JOIN (SELECT x.commit, count(*) AS events, array_agg(x.width ORDER BY x.n) AS widths
                FROM unnest(e_commit, e_width) WITH ORDINALITY AS x(commit, width, n) GROUP BY x.commit) e ON e.commit = t.n
            WHERE v_ok[t.n]
        ), p AS (
            SELECT t.commit, array_agg(t.stream ORDER BY t.n) AS streams, array_agg(t.seq ORDER BY t.n) AS seqs, array_agg(t.previous ORDER BY t.n) AS previous
            FROM unnest(p_commit, p_stream, o_seq, o_previous) WITH ORDINALITY AS t(commit, stream, seq, previous, n) GROUP BY t.commit
        ), inserted AS (
            INSERT INTO made (runtime, id, number, submission, content, made, first, widths, streams, seqs, previous)
            SELECT p_runtime, c.id, v_runtime.commits + row_number() OVER (ORDER BY c.n), p_submission, c.content, c.made,
                v_runtime.position + 1 + sum(c.events) OVER (ORDER BY c.n) - c.events,
                c.widths, COALESCE(p.streams, '{}'), COALESCE(p.seqs, '{}'), COALESCE(p.previous, '{}')
            FROM c LEFT JOIN p ON p.commit = c.n
            RETURNING id, first
        )
        SELECT array_agg(i.first ORDER BY t.n) INTO o_first
        FROM unnest(c_id) WITH ORDINALITY AS t(id, n) LEFT JOIN inserted i ON i.id = t.id;

        IF cardinality(a_digest) > 0 THEN
            INSERT INTO naming (runtime, digest, first, last, scopes)
            SELECT p_runtime, t.digest, o_first[t.commit],
                o_first[t.commit] + (SELECT count(*) FROM unnest(e_commit) AS e(commit) WHERE e.commit = t.commit),
                ARRAY(SELECT s.scope FROM unnest(s_commit, s_scope) AS s(commit, scope) WHERE s.commit = t.commit)
            FROM unnest(a_commit, a_digest) AS t(commit, digest) WHERE v_ok[t.commit];
        END IF;

        v_runtime.commits := v_runtime.commits + v_made;
        -- Forgetting a quarter at a time costs each commit the same, however many are remembered.
        IF v_runtime.commits - v_runtime.forgotten > p_remembered + p_remembered / 4 THEN
            DELETE FROM made WHERE runtime = p_runtime AND number <= v_runtime.commits - p_remembered;
            v_runtime.forgotten := v_runtime.commits - p_remembered;
            SELECT min(m.made) INTO v_runtime.earliest FROM made m
            WHERE m.runtime = p_runtime AND m.number > v_runtime.forgotten;
            DELETE FROM taken t WHERE t.runtime = p_runtime
                AND t.position < (SELECT min(m.first) FROM made m WHERE m.runtime = p_runtime);
        END IF;
        UPDATE runtime SET position = v_runtime.position + v_appended, pruned = v_runtime.pruned, commits = v_runtime.commits,
            forgotten = v_runtime.forgotten, earliest = v_runtime.earliest
        WHERE key = p_runtime;
    END IF;
    COMMIT;
    o_now := floor(extract(epoch FROM clock_timestamp()) * 1000);
END
$procedure$;
