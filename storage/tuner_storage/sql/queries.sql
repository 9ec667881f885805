Every statement of the server. `-- name --` starts one; parameters are named and cast.
A statement with several parts is one round trip; `tuner.must` undoes the transaction it is in.
Where many changes share a statement, their rows come as one parameter, in JSON.

-- schema_exists --
-- Whether tuner has been here.
SELECT to_regclass('tuner.migrations') IS NOT NULL;

-- applied_version --
SELECT coalesce(max(version), 0) FROM tuner.migrations;

-- lock_schema --
-- One server at a time migrates; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtext('tuner.migrations'));

-- record_migration --
INSERT INTO tuner.migrations (version, name) VALUES (%(version)s::integer, %(name)s::text);

-- server_encoding --
SELECT current_setting('server_encoding');

-- drop_schema --
-- Undoes the restoring of a backup that a newer tuner wrote.
DROP SCHEMA tuner CASCADE;

-- count_studies --
SELECT count(*) FROM tuner.studies;

-- create_study --
WITH created AS (
    INSERT INTO tuner.studies (
        study_id, state, state_reason, submitted, spec, managed, space_version, statistics,
        create_time, update_time, end_time, creator, algorithm_in_use
    )
    VALUES (
        %(study_id)s::text, %(state)s::text, %(state_reason)s::text, %(submitted)s::json,
        %(spec)s::json, %(managed)s::boolean, %(space_version)s::integer, NULL,
        %(now)s::timestamptz, %(now)s::timestamptz, NULL, %(creator)s::text,
        %(algorithm_in_use)s::text
    )
    RETURNING study
), versioned AS (
    INSERT INTO tuner.spaces (study, version, space, create_time)
    SELECT study, %(space_version)s::integer, %(space)s::json, %(now)s::timestamptz
    FROM created
    WHERE %(space_version)s::integer > 0
), answered AS (
    INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
    SELECT
        study, %(request_id)s::text, %(method)s::text, %(answer)s::bytea, %(now)s::timestamptz
    FROM created
    WHERE %(request_id)s::text <> ''
), audited AS (
    INSERT INTO tuner.audit (time, caller, method, resource, request)
    SELECT
        %(now)s::timestamptz, %(caller)s::text, %(method)s::text,
        'studies/' || %(study_id)s::text, %(request)s::text
    FROM created
)
SELECT study FROM created;

-- delete_failed_study --
-- Makes room for a study sent again: the old one stopped before it had any trial.
WITH deleted AS (
    DELETE FROM tuner.studies
    WHERE study = %(study)s::bigint
        AND state = 'STOPPED'
        AND NOT EXISTS (SELECT FROM tuner.trials WHERE trials.study = studies.study)
    RETURNING study
)
DELETE FROM tuner.requests USING deleted WHERE requests.study = deleted.study;

-- delete_study --
WITH deleted AS (
    DELETE FROM tuner.studies WHERE study = %(study)s::bigint RETURNING study
)
DELETE FROM tuner.requests USING deleted WHERE requests.study = deleted.study;

-- find_study --
SELECT * FROM tuner.study_summaries WHERE study_id = %(study_id)s::text;

-- find_key --
SELECT study FROM tuner.studies WHERE study_id = %(study_id)s::text;

-- list_studies --
SELECT * FROM tuner.study_summaries
WHERE (%(before)s::bigint IS NULL OR study < %(before)s::bigint)
    AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
    AND (managed OR NOT %(managed_only)s::boolean)
ORDER BY study DESC
LIMIT %(limit)s::integer;

-- save_study --
-- Guarded by the revision that was read.
WITH saved AS (
    UPDATE tuner.studies
    SET state = %(state)s::text,
        state_reason = %(state_reason)s::text,
        submitted = coalesce(%(submitted)s::json, submitted),
        spec = %(spec)s::json,
        space_version = %(space_version)s::integer,
        algorithm_in_use = %(algorithm_in_use)s::text,
        statistics = %(statistics)s::json,
        exported_model_uri = %(exported_model_uri)s::text,
        revision = revision + 1,
        update_time = %(now)s::timestamptz,
        end_time = %(end_time)s::timestamptz
    WHERE study = %(study)s::bigint AND revision = %(revision)s::bigint
    RETURNING study
), versioned AS (
    INSERT INTO tuner.spaces (study, version, space, create_time)
    SELECT study, %(space_version)s::integer, %(space)s::json, %(now)s::timestamptz
    FROM saved
    WHERE %(space_version)s::integer > 0
    ON CONFLICT (study, version) DO NOTHING
)
SELECT tuner.must(EXISTS (SELECT FROM saved), 'STALE');

-- lease_trials --
-- Trials that are due, and new ones: those that come with parameters.
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS asked (
        number integer, attempt integer, worker_id text, expire_time timestamptz, host text,
        now timestamptz, space_version integer, parameters json, search_note text
    )
), due AS (
    UPDATE tuner.trials
    SET state = 'RUNNING',
        attempt = asked.attempt,
        worker_id = asked.worker_id,
        expire_time = asked.expire_time,
        final_step = NULL, final_names = NULL, final_values = NULL, final_elapsed = NULL,
        score = NULL, within_constraints = NULL,
        state_reason = '',
        start_time = asked.now
    FROM asked
    WHERE asked.parameters IS NULL
        AND trials.study = %(study)s::bigint
        AND trials.number = asked.number
        AND trials.state = 'QUEUED'
        AND trials.attempt = asked.attempt - 1
    RETURNING trials.number
), proposed AS (
    INSERT INTO tuner.trials (
        study, number, state, parameters, space_version, attempt, worker_id, expire_time,
        search_note, create_time, start_time
    )
    SELECT
        %(study)s::bigint, number, 'RUNNING', parameters, space_version, attempt, worker_id,
        expire_time, search_note, now, now
    FROM asked
    WHERE parameters IS NOT NULL
    RETURNING number
), leased AS (
    SELECT number FROM due UNION ALL SELECT number FROM proposed
), started AS (
    INSERT INTO tuner.attempts (study, trial, attempt, worker_id, host, start_time)
    SELECT %(study)s::bigint, asked.number, attempt, worker_id, host, now
    FROM asked
    JOIN leased ON leased.number = asked.number
    RETURNING trial
)
SELECT tuner.must(
    (SELECT count(*) FROM started) = (SELECT count(*) FROM asked), 'STALE'
);

-- renew_leases --
-- For the trials that a worker was leased before and asks for again.
UPDATE tuner.trials
SET expire_time = held.expire_time
FROM json_to_recordset(%(rows)s::json) AS held (
    number integer, attempt integer, expire_time timestamptz
)
WHERE trials.study = %(study)s::bigint
    AND trials.number = held.number
    AND trials.attempt = held.attempt
    AND trials.state = 'RUNNING';

-- report --
-- Renews leases, stores what was measured, if something was, and the best result so far.
WITH told AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS told (
        number integer, attempt integer, expire_time timestamptz, stop_reason text,
        checkpoint_uri text, checkpoint_step bigint, now timestamptz,
        final_step bigint, final_names text[], final_values double precision[],
        final_elapsed interval, score double precision, within_constraints boolean,
        step bigint, metric_names text[], metric_values double precision[], elapsed interval
    )
), renewed AS (
    UPDATE tuner.trials
    SET expire_time = told.expire_time,
        final_step = told.final_step,
        final_names = told.final_names,
        final_values = told.final_values,
        final_elapsed = told.final_elapsed,
        score = told.score,
        within_constraints = told.within_constraints,
        checkpoint_uri = told.checkpoint_uri,
        checkpoint_step = told.checkpoint_step,
        state_reason = coalesce(told.stop_reason, trials.state_reason),
        stop_requested = trials.stop_requested OR told.stop_reason IS NOT NULL
    FROM told
    WHERE trials.study = %(study)s::bigint
        AND trials.number = told.number
        AND trials.state = 'RUNNING'
        AND trials.attempt = told.attempt
    RETURNING trials.number
), measured AS (
    INSERT INTO tuner.measurements (
        study, trial, attempt, step, metric_names, metric_values, elapsed, report_time
    )
    SELECT
        %(study)s::bigint, told.number, attempt, step, metric_names, metric_values, elapsed, now
    FROM told
    JOIN renewed ON renewed.number = told.number
    WHERE step IS NOT NULL
    ON CONFLICT (study, trial, attempt, step) DO UPDATE
    SET metric_names = excluded.metric_names,
        metric_values = excluded.metric_values,
        elapsed = excluded.elapsed,
        report_time = excluded.report_time
)
SELECT tuner.must(
    (SELECT count(*) FROM renewed) = (SELECT count(*) FROM told), 'LEASE_LOST'
);

-- end_attempt --
-- Ends current attempts: with a result, with a failure, or because their leases expired.
WITH told AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS told (
        number integer, attempt integer, state text, artifact_uri text, state_reason text,
        end_time timestamptz, now timestamptz,
        final_step bigint, final_names text[], final_values double precision[],
        final_elapsed interval, score double precision, within_constraints boolean,
        failure_cause text, failure_message text, failure_stack text, failure_log_tail text,
        worker_time interval, cpu_time interval, gpu_time interval
    )
), ended AS (
    UPDATE tuner.trials
    SET state = told.state,
        worker_id = NULL,
        expire_time = NULL,
        final_step = told.final_step,
        final_names = told.final_names,
        final_values = told.final_values,
        final_elapsed = told.final_elapsed,
        score = told.score,
        within_constraints = told.within_constraints,
        artifact_uri = told.artifact_uri,
        state_reason = told.state_reason,
        end_time = told.end_time,
        worker_time = trials.worker_time + told.worker_time,
        cpu_time = trials.cpu_time + told.cpu_time,
        gpu_time = trials.gpu_time + told.gpu_time
    FROM told
    WHERE trials.study = %(study)s::bigint
        AND trials.number = told.number
        AND trials.state = 'RUNNING'
        AND trials.attempt = told.attempt
    RETURNING trials.number
), closed AS (
    UPDATE tuner.attempts
    SET end_time = told.now,
        failure_cause = told.failure_cause,
        failure_message = told.failure_message,
        failure_stack = told.failure_stack,
        failure_log_tail = told.failure_log_tail,
        worker_time = told.worker_time,
        cpu_time = told.cpu_time,
        gpu_time = told.gpu_time
    FROM told
    JOIN ended ON ended.number = told.number
    WHERE attempts.study = %(study)s::bigint
        AND attempts.trial = told.number
        AND attempts.attempt = told.attempt
)
SELECT tuner.must(
    (SELECT count(*) FROM ended) = (SELECT count(*) FROM told), 'LEASE_LOST'
);

-- request_stop --
-- The next report of a running trial is answered with STOP.
WITH asked AS (
    UPDATE tuner.trials
    SET stop_requested = true, state_reason = %(state_reason)s::text
    WHERE study = %(study)s::bigint
        AND number = %(number)s::integer
        AND state = 'RUNNING'
        AND attempt = %(attempt)s::integer
    RETURNING number
)
SELECT tuner.must(EXISTS (SELECT FROM asked), 'STALE');

-- cancel_trials --
-- Trials that wait for another attempt and will not get one.
WITH cancelled AS (
    UPDATE tuner.trials
    SET state = 'FAILED', state_reason = %(state_reason)s::text, end_time = %(now)s::timestamptz
    WHERE study = %(study)s::bigint
        AND number = ANY (%(numbers)s::integer[])
        AND state = 'QUEUED'
    RETURNING number
)
SELECT tuner.must(
    (SELECT count(*) FROM cancelled) = cardinality(%(numbers)s::integer[]), 'STALE'
);

-- retry_trials --
WITH retried AS (
    UPDATE tuner.trials
    SET state = 'QUEUED',
        final_step = NULL, final_names = NULL, final_values = NULL, final_elapsed = NULL,
        score = NULL, within_constraints = NULL,
        stop_requested = false,
        state_reason = '',
        end_time = NULL
    WHERE study = %(study)s::bigint
        AND number = ANY (%(numbers)s::integer[])
        AND state = 'FAILED'
    RETURNING number
)
SELECT tuner.must(
    (SELECT count(*) FROM retried) = cardinality(%(numbers)s::integer[]), 'STALE'
);

-- label_trial --
WITH labelled AS (
    UPDATE tuner.trials SET labels = %(labels)s::json
    WHERE study = %(study)s::bigint AND number = %(number)s::integer
    RETURNING number
)
SELECT tuner.must(EXISTS (SELECT FROM labelled), 'STALE');

-- add_trials --
-- A user's own: due to be run, or past ones, which have an attempt that nobody made.
WITH told AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS told (
        number integer, state text, origin text, attempt integer, space_version integer,
        parameters json, labels json, now timestamptz,
        final_step bigint, final_names text[], final_values double precision[],
        final_elapsed interval, score double precision, within_constraints boolean
    )
), added AS (
    INSERT INTO tuner.trials (
        study, number, state, parameters, space_version, attempt, origin, labels,
        final_step, final_names, final_values, final_elapsed, score, within_constraints,
        create_time, start_time, end_time
    )
    SELECT
        %(study)s::bigint, number, state, parameters, space_version, attempt, origin, labels,
        final_step, final_names, final_values, final_elapsed, score, within_constraints,
        now, CASE WHEN attempt > 0 THEN now END, CASE WHEN attempt > 0 THEN now END
    FROM told
    RETURNING number, attempt, create_time
)
INSERT INTO tuner.attempts (study, trial, attempt, worker_id, host, start_time, end_time)
SELECT %(study)s::bigint, number, attempt, '', '', create_time, create_time
FROM added
WHERE attempt > 0;

-- add_measurements --
-- What past trials reported on their way.
INSERT INTO tuner.measurements (
    study, trial, attempt, step, metric_names, metric_values, elapsed, report_time
)
SELECT %(study)s::bigint, trial, 1, step, metric_names, metric_values, elapsed, now
FROM json_to_recordset(%(rows)s::json) AS told (
    trial integer, step bigint, metric_names text[], metric_values double precision[],
    elapsed interval, now timestamptz
);

-- find_trial --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint AND trials.number = %(number)s::integer;

-- load_trials --
-- Trials of a study as columns, by number: arrays cost a tenth of as many rows.
SELECT
    array_agg(number) AS number,
    array_agg(state) AS state,
    json_agg(parameters) AS parameters,
    array_agg(space_version) AS space_version,
    array_agg(attempt) AS attempt,
    array_agg(worker_id) AS worker_id,
    array_agg(expire_time) AS expire_time,
    array_agg(final_step) AS final_step,
    array_agg(final_elapsed) AS final_elapsed,
    array_agg(stop_requested) AS stop_requested,
    array_agg(artifact_uri) AS artifact_uri,
    array_agg(state_reason) AS state_reason,
    array_agg(create_time) AS create_time,
    array_agg(start_time) AS start_time,
    array_agg(end_time) AS end_time,
    array_agg(origin) AS origin,
    json_agg(nullif(labels::text, '{}')::json) AS labels,
    array_agg(checkpoint_uri) AS checkpoint_uri,
    array_agg(checkpoint_step) AS checkpoint_step,
    array_agg(within_constraints) AS within_constraints,
    array_agg(nullif(search_note, '')) AS search_note,
    array_agg(worker_time) AS worker_time,
    array_agg(cpu_time) AS cpu_time,
    array_agg(gpu_time) AS gpu_time
FROM (
    SELECT * FROM tuner.trials
    WHERE trials.study = %(study)s::bigint
        AND trials.number >= %(first)s::integer
        AND trials.number < %(past)s::integer
    ORDER BY trials.number
) AS ordered;

-- load_results --
-- The metrics of their results, as columns.
SELECT array_agg(number) AS number, array_agg(name) AS name, array_agg(value) AS value
FROM (
    SELECT ordered.number, metric.name, metric.value
    FROM (
        SELECT * FROM tuner.trials
        WHERE trials.study = %(study)s::bigint
            AND trials.number >= %(first)s::integer
            AND trials.number < %(past)s::integer
        ORDER BY trials.number
    ) AS ordered, unnest(ordered.final_names, ordered.final_values) AS metric (name, value)
) AS metrics;

-- load_measurements --
-- What their current attempts reported, as columns; one item for each metric.
SELECT
    array_agg(trial) AS number,
    array_agg(step) AS step,
    array_agg(elapsed) AS elapsed,
    array_agg(name) AS name,
    array_agg(value) AS value
FROM (
    SELECT ordered.trial, ordered.step, ordered.elapsed, metric.name, metric.value
    FROM (
        SELECT measurements.*
        FROM tuner.measurements
        JOIN tuner.trials
            ON trials.study = measurements.study
            AND trials.number = measurements.trial
            AND trials.attempt = measurements.attempt
        WHERE measurements.study = %(study)s::bigint
            AND measurements.trial >= %(first)s::integer
            AND measurements.trial < %(past)s::integer
        ORDER BY measurements.trial, measurements.step
    ) AS ordered
    LEFT JOIN LATERAL unnest(ordered.metric_names, ordered.metric_values)
        AS metric (name, value) ON true
) AS metrics;

-- finished_trials --
-- What an earlier study brings to one that starts from it: the results up to a time.
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND trials.state IN ('SUCCEEDED', 'PRUNED')
    AND trials.end_time <= %(before)s::timestamptz
ORDER BY trials.number;

-- list_trials_by_number --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND trials.number > %(number)s::integer
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
    AND (%(numbers)s::integer[] IS NULL OR trials.number = ANY (%(numbers)s::integer[]))
    AND (
        %(filter)s::jsonpath IS NULL
        OR tuner.trial_document(trials) @@ %(filter)s::jsonpath
    )
ORDER BY trials.number
LIMIT %(limit)s::integer;

-- list_trials_by_number_desc --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND trials.number < %(number)s::integer
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
    AND (%(numbers)s::integer[] IS NULL OR trials.number = ANY (%(numbers)s::integer[]))
    AND (
        %(filter)s::jsonpath IS NULL
        OR tuner.trial_document(trials) @@ %(filter)s::jsonpath
    )
ORDER BY trials.number DESC
LIMIT %(limit)s::integer;

-- list_trials_by_score --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND (coalesce(-trials.score, 'Infinity'), trials.number)
        > (%(rank)s::double precision, %(number)s::integer)
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
    AND (%(numbers)s::integer[] IS NULL OR trials.number = ANY (%(numbers)s::integer[]))
    AND (
        %(filter)s::jsonpath IS NULL
        OR tuner.trial_document(trials) @@ %(filter)s::jsonpath
    )
ORDER BY coalesce(-trials.score, 'Infinity'), trials.number
LIMIT %(limit)s::integer;

-- list_trials_by_key --
-- By a metric, a parameter or a time, its sign turned for a descending order. No index knows these:
-- each page looks at all trials of the study.
SELECT listed.* FROM (
    SELECT
        trials.*,
        %(sign)s::integer * tuner.trial_key(trials, %(kind)s::text, %(name)s::text) AS key
    FROM tuner.trials
    WHERE trials.study = %(study)s::bigint
        AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
        AND (%(numbers)s::integer[] IS NULL OR trials.number = ANY (%(numbers)s::integer[]))
        AND (
            %(filter)s::jsonpath IS NULL
            OR tuner.trial_document(trials) @@ %(filter)s::jsonpath
        )
) AS listed
WHERE %(number)s::integer IS NULL
    OR listed.key > %(key)s::double precision
    OR (
        listed.key IS NOT DISTINCT FROM %(key)s::double precision
        AND listed.number > %(number)s::integer
    )
    OR (listed.key IS NULL AND %(key)s::double precision IS NOT NULL)
ORDER BY listed.key NULLS LAST, listed.number
LIMIT %(limit)s::integer;

-- list_measurements --
-- What the current attempts of some trials reported; NULL for all trials.
SELECT
    measurements.trial, measurements.step, measurements.metric_names,
    measurements.metric_values, measurements.elapsed
FROM tuner.measurements
JOIN tuner.trials
    ON trials.study = measurements.study
    AND trials.number = measurements.trial
    AND trials.attempt = measurements.attempt
WHERE measurements.study = %(study)s::bigint
    AND (%(numbers)s::integer[] IS NULL OR measurements.trial = ANY (%(numbers)s::integer[]))
ORDER BY measurements.trial, measurements.step;

-- list_attempts --
SELECT attempts.* FROM tuner.attempts
WHERE attempts.study = %(study)s::bigint AND attempts.trial = ANY (%(numbers)s::integer[])
ORDER BY attempts.trial, attempts.attempt;

-- list_causes --
-- Why the ended attempts failed of trials that may be tried again, and how far they had come.
SELECT attempts.trial, attempts.failure_cause, (
    SELECT max(step) FROM tuner.measurements
    WHERE measurements.study = attempts.study
        AND measurements.trial = attempts.trial
        AND measurements.attempt = attempts.attempt
)
FROM tuner.attempts
JOIN tuner.trials ON trials.study = attempts.study AND trials.number = attempts.trial
WHERE attempts.study = %(study)s::bigint
    AND attempts.failure_cause IS NOT NULL
    AND trials.state IN ('QUEUED', 'RUNNING', 'FAILED')
ORDER BY attempts.trial, attempts.attempt;

-- write_log --
-- Keeps the end of a piece that no piece before it holds: a log only grows.
WITH held AS (
    SELECT greatest(%(log_offset)s::bigint, max(log_offset + char_length(text))) AS past
    FROM tuner.trial_logs
    WHERE study = %(study)s::bigint
        AND trial = %(trial)s::integer
        AND attempt = %(attempt)s::integer
        AND log_offset < %(log_offset)s::bigint + char_length(%(text)s::text)
)
INSERT INTO tuner.trial_logs (study, trial, attempt, log_offset, text)
SELECT
    %(study)s::bigint, %(trial)s::integer, %(attempt)s::integer, past,
    substr(%(text)s::text, (past - %(log_offset)s::bigint)::integer + 1)
FROM held
WHERE past < %(log_offset)s::bigint + char_length(%(text)s::text)
ON CONFLICT ON CONSTRAINT trial_logs_pkey DO NOTHING;

-- read_log --
SELECT attempt, log_offset, text FROM tuner.trial_logs
WHERE study = %(study)s::bigint
    AND trial = %(trial)s::integer
    AND (attempt, log_offset) > (%(attempt)s::integer, %(log_offset)s::bigint)
ORDER BY attempt, log_offset
LIMIT %(limit)s::integer;

-- record_answer --
INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
SELECT %(study)s::bigint, request_id, method, answer, now
FROM json_to_recordset(%(rows)s::json) AS told (
    request_id text, method text, answer bytea, now timestamptz
);

-- record_deletion --
-- The answer to a deletion is empty, and belongs to no study.
INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
VALUES (0, %(request_id)s::text, %(method)s::text, '', %(now)s::timestamptz);

-- record_change --
INSERT INTO tuner.audit (time, caller, method, resource, request)
SELECT now, caller, method, resource, request
FROM json_to_recordset(%(rows)s::json) AS told (
    caller text, method text, resource text, request text, now timestamptz
);

-- find_answer --
SELECT answer FROM tuner.requests
WHERE study = %(study)s::bigint
    AND request_id = %(request_id)s::text
    AND method = %(method)s::text;

-- list_requests --
-- Which requests of a study were answered.
SELECT request_id, method FROM tuner.requests WHERE study = %(study)s::bigint;

-- forget_requests --
DELETE FROM tuner.requests WHERE create_time < %(before)s::timestamptz;

-- --- several servers ---

-- forget_servers --
-- Those that died long ago.
DELETE FROM tuner.servers WHERE expire_time < now() - interval '1 hour';

-- enter_server --
-- Registers a server as alive, or renews its registration.
INSERT INTO tuner.servers (server, address, start_time, expire_time)
VALUES (
    %(server)s::uuid, %(address)s::text, now(), now() + %(lease)s::interval
)
ON CONFLICT (server) DO UPDATE
SET address = %(address)s::text, expire_time = now() + %(lease)s::interval;

-- leave_server --
-- A server that stops: its studies are anybody's.
WITH released AS (
    UPDATE tuner.studies SET owner = NULL WHERE owner = %(server)s::uuid
)
DELETE FROM tuner.servers WHERE server = %(server)s::uuid;

-- list_servers --
SELECT
    servers.server, servers.address, servers.start_time, servers.expire_time,
    (SELECT count(*) FROM tuner.studies WHERE studies.owner = servers.server) AS studies
FROM tuner.servers
WHERE servers.expire_time > now()
ORDER BY servers.address, servers.server;

-- claim_study --
-- Makes a server the owner of a study that is nobody's, a dead server's, or its own; a new epoch
-- ends the writing of everyone before, this server's own earlier copy included.
UPDATE tuner.studies
SET owner = %(server)s::uuid, epoch = epoch + 1
WHERE study_id = %(study_id)s::text
    AND (
        owner IS NULL
        OR owner = %(server)s::uuid
        OR NOT EXISTS (
            SELECT FROM tuner.servers
            WHERE servers.server = studies.owner AND servers.expire_time > now()
        )
    )
RETURNING epoch;

-- find_owner --
-- The address of the living server that owns a study; no row if there is no such study.
SELECT servers.address
FROM tuner.studies
LEFT JOIN tuner.servers ON servers.server = studies.owner AND servers.expire_time > now()
WHERE studies.study_id = %(study_id)s::text;

-- list_owned --
SELECT study, epoch FROM tuner.studies WHERE owner = %(server)s::uuid;

-- hand_over_study --
-- Gives a study to another server that is alive.
UPDATE tuner.studies
SET owner = %(heir)s::uuid, epoch = epoch + 1
WHERE study = %(study)s::bigint
    AND owner = %(server)s::uuid
    AND EXISTS (
        SELECT FROM tuner.servers
        WHERE servers.server = %(heir)s::uuid AND servers.expire_time > now()
    );

-- list_orphans --
-- Unfinished studies, or with running trials, that no living server owns, or that this one was given.
SELECT
    studies.study_id,
    studies.owner IS NOT DISTINCT FROM %(server)s::uuid AS given,
    (
        SELECT coalesce(max(trials.number) + 1, 0)
        FROM tuner.trials
        WHERE trials.study = studies.study
    ) AS trials
FROM tuner.studies
WHERE (
        studies.state IN ('PREPARING', 'ACTIVE', 'PAUSED')
        OR EXISTS (
            SELECT FROM tuner.trials
            WHERE trials.study = studies.study AND trials.state = 'RUNNING'
        )
    )
    AND (
        studies.owner IS NULL
        OR studies.owner = %(server)s::uuid
        OR NOT EXISTS (
            SELECT FROM tuner.servers
            WHERE servers.server = studies.owner AND servers.expire_time > now()
        )
    )
ORDER BY studies.study;

-- check_owner --
-- The first statement of every transaction that writes to a study: undoes it unless the server
-- still owns the study, and keeps others from claiming it until it is committed.
SELECT tuner.must(
    EXISTS (
        SELECT FROM tuner.studies
        WHERE study = %(study)s::bigint
            AND owner = %(server)s::uuid
            AND epoch = %(epoch)s::bigint
        FOR SHARE
    ),
    'STALE'
);

-- --- data ---

-- use_statistics --
UPDATE tuner.statistics
SET use_time = %(now)s::timestamptz
WHERE fingerprint = %(fingerprint)s::text
RETURNING fingerprint, row_count, content, update_time;

-- keep_statistics --
INSERT INTO tuner.statistics (fingerprint, row_count, content, update_time, use_time)
VALUES (
    %(fingerprint)s::text, %(row_count)s::bigint, %(content)s::bytea, %(now)s::timestamptz,
    %(now)s::timestamptz
)
ON CONFLICT ON CONSTRAINT statistics_pkey DO UPDATE SET
    row_count = EXCLUDED.row_count,
    content = EXCLUDED.content,
    update_time = EXCLUDED.update_time,
    use_time = EXCLUDED.use_time;

-- forget_statistics --
-- What was not used since a time, and what was used longest ago beyond so many bytes in all.
DELETE FROM tuner.statistics
USING (
    SELECT
        fingerprint,
        sum(length(content)) OVER (ORDER BY use_time DESC, fingerprint) AS bytes
    FROM tuner.statistics
) AS newest
WHERE statistics.fingerprint = newest.fingerprint
    AND (statistics.use_time < %(before)s::timestamptz OR newest.bytes > %(bytes)s::bigint);

-- --- tokens and the audit log ---

-- create_token --
-- A token that was revoked or has expired makes room for one of its name. No row: the name is taken.
INSERT INTO tuner.tokens (token_id, role, secret_hash, create_time, expire_time)
VALUES (
    %(token_id)s::text, %(role)s::text, %(secret_hash)s::bytea, %(now)s::timestamptz,
    %(expire_time)s::timestamptz
)
ON CONFLICT ON CONSTRAINT tokens_pkey DO UPDATE SET
    role = EXCLUDED.role,
    secret_hash = EXCLUDED.secret_hash,
    create_time = EXCLUDED.create_time,
    expire_time = EXCLUDED.expire_time,
    revoke_time = NULL
WHERE tokens.revoke_time IS NOT NULL OR tokens.expire_time <= %(now)s::timestamptz
RETURNING token_id;

-- find_token --
SELECT * FROM tuner.tokens WHERE token_id = %(token_id)s::text;

-- list_tokens --
SELECT * FROM tuner.tokens
WHERE token_id > %(after)s::text
ORDER BY token_id
LIMIT %(limit)s::integer;

-- active_tokens --
SELECT * FROM tuner.tokens
WHERE revoke_time IS NULL
    AND (expire_time IS NULL OR expire_time > %(now)s::timestamptz);

-- lock_admin_tokens --
-- The admins besides the servers themselves.
SELECT token_id FROM tuner.tokens
WHERE role = 'ADMIN'
    AND NOT starts_with(token_id, 'local-')
    AND revoke_time IS NULL
    AND (expire_time IS NULL OR expire_time > %(now)s::timestamptz)
ORDER BY token_id
FOR UPDATE;

-- revoke_token --
UPDATE tuner.tokens
SET revoke_time = %(now)s::timestamptz
WHERE token_id = %(token_id)s::text
RETURNING *;

-- renew_local_token --
UPDATE tuner.tokens
SET expire_time = %(expire_time)s::timestamptz
WHERE token_id = %(token_id)s::text AND revoke_time IS NULL;

-- forget_local_tokens --
-- What servers that are dead have left.
DELETE FROM tuner.tokens
WHERE starts_with(token_id, 'local-') AND expire_time <= %(now)s::timestamptz;

-- delete_local_token --
DELETE FROM tuner.tokens
WHERE starts_with(token_id, 'local-') AND secret_hash = %(secret_hash)s::bytea;

-- write_audit --
INSERT INTO tuner.audit (time, caller, method, resource, request)
VALUES (
    %(time)s::timestamptz, %(caller)s::text, %(method)s::text, %(resource)s::text,
    %(request)s::text
);

-- forget_audit --
DELETE FROM tuner.audit WHERE time < %(before)s::timestamptz;

-- list_audit --
SELECT * FROM tuner.audit
WHERE (%(before)s::bigint IS NULL OR entry < %(before)s::bigint)
    AND (
        %(resource)s::text = ''
        OR resource = %(resource)s::text
        OR starts_with(resource, %(resource)s::text || '/')
    )
ORDER BY entry DESC
LIMIT %(limit)s::integer;

-- --- models ---

-- create_model --
INSERT INTO tuner.models (
    model_id, description, labels, keep_versions, creator, create_time, update_time
)
VALUES (
    %(model_id)s::text, %(description)s::text, %(labels)s::json, %(keep_versions)s::integer,
    %(creator)s::text, %(now)s::timestamptz, %(now)s::timestamptz
);

-- ensure_model --
-- For the first version of a model that nobody has created.
INSERT INTO tuner.models (
    model_id, description, labels, keep_versions, creator, create_time, update_time
)
VALUES (
    %(model_id)s::text, '', '{}', 0, %(creator)s::text, %(now)s::timestamptz,
    %(now)s::timestamptz
)
ON CONFLICT ON CONSTRAINT models_pkey DO NOTHING;

-- lock_model --
-- The first statement of every transaction that changes a model: the others wait. No row: there is
-- no such model.
SELECT model_id FROM tuner.models WHERE model_id = %(model_id)s::text FOR UPDATE;

-- find_model --
SELECT * FROM tuner.model_summaries WHERE model_id = %(model_id)s::text;

-- list_models --
SELECT * FROM tuner.model_summaries
WHERE model_id > %(after)s::text
ORDER BY model_id
LIMIT %(limit)s::integer;

-- update_model --
UPDATE tuner.models
SET description = %(description)s::text,
    labels = %(labels)s::json,
    keep_versions = %(keep_versions)s::integer,
    revision = revision + 1,
    update_time = %(now)s::timestamptz
WHERE model_id = %(model_id)s::text;

-- touch_model --
-- Its aliases have changed.
UPDATE tuner.models
SET revision = revision + 1, update_time = %(now)s::timestamptz
WHERE model_id = %(model_id)s::text;

-- delete_model --
DELETE FROM tuner.models WHERE model_id = %(model_id)s::text;

-- find_trial_key --
-- The key of the study that has the trial, and whose the study is.
SELECT trials.study, studies.creator
FROM tuner.trials
JOIN tuner.studies ON studies.study = trials.study
WHERE studies.study_id = %(study_id)s::text AND trials.number = %(trial)s::integer;

-- begin_version --
-- Takes the next number, above all that the model ever had and all that lie where it is published.
WITH taken AS (
    UPDATE tuner.models
    SET last_version = greatest(last_version, %(after_version)s::integer) + 1
    WHERE model_id = %(model_id)s::text
    RETURNING last_version
)
INSERT INTO tuner.model_versions (
    model_id, version, state, lineage, study, trial, publisher, attempt, expire_time, creator,
    create_time
)
SELECT
    %(model_id)s::text, taken.last_version, 'PUBLISHING', %(lineage)s::json, %(study)s::bigint,
    %(trial)s::integer, %(publisher)s::text, 1, %(expire_time)s::timestamptz, %(creator)s::text,
    %(now)s::timestamptz
FROM taken
RETURNING version;

-- find_begun --
-- What the model has of a trial, or what an import left behind: the newest that is not going away.
SELECT version
FROM tuner.model_versions
WHERE model_id = %(model_id)s::text
    AND state <> 'DELETING'
    AND (
        (study = %(study)s::bigint AND trial = %(trial)s::integer)
        OR (
            %(study)s::bigint IS NULL
            AND study IS NULL
            AND state = 'PUBLISHING'
            AND lineage ->> 'source' = %(source)s::text
        )
    )
ORDER BY version DESC
LIMIT 1;

-- take_up_version --
UPDATE tuner.model_versions
SET attempt = attempt + 1,
    publisher = %(publisher)s::text,
    expire_time = %(expire_time)s::timestamptz
WHERE model_id = %(model_id)s::text
    AND version = %(version)s::integer
    AND state = 'PUBLISHING';

-- finish_version --
UPDATE tuner.model_versions
SET state = %(state)s::text,
    report = %(report)s::text,
    lineage = %(lineage)s::json,
    metric_names = %(metric_names)s::text[],
    metric_values = %(metric_values)s::double precision[],
    uri = %(uri)s::text,
    size_bytes = %(size_bytes)s::bigint,
    sha256 = %(sha256)s::text,
    card = %(card)s::text,
    expire_time = NULL,
    finish_time = %(now)s::timestamptz
WHERE model_id = %(model_id)s::text AND version = %(version)s::integer;

-- find_version --
SELECT
    model_versions.*,
    ARRAY(
        SELECT model_aliases.alias
        FROM tuner.model_aliases
        WHERE model_aliases.model_id = model_versions.model_id
            AND model_aliases.version = model_versions.version
        ORDER BY model_aliases.alias
    ) AS aliases
FROM tuner.model_versions
WHERE model_versions.model_id = %(model_id)s::text
    AND model_versions.version = CASE
        WHEN %(version)s::integer IS NOT NULL THEN %(version)s::integer
        WHEN %(alias)s::text = 'latest' THEN (
            SELECT max(ready.version)
            FROM tuner.model_versions AS ready
            WHERE ready.model_id = %(model_id)s::text AND ready.state = 'READY'
        )
        ELSE (
            SELECT named.version
            FROM tuner.model_aliases AS named
            WHERE named.model_id = %(model_id)s::text AND named.alias = %(alias)s::text
        )
    END;

-- list_versions --
-- By model, newest first, without their cards.
SELECT
    model_versions.model_id, model_versions.version, model_versions.state,
    model_versions.lineage, model_versions.study, model_versions.trial, model_versions.report,
    model_versions.metric_names, model_versions.metric_values, model_versions.uri,
    model_versions.size_bytes, model_versions.sha256, '' AS card, model_versions.publisher,
    model_versions.attempt, model_versions.expire_time, model_versions.creator,
    model_versions.create_time, model_versions.finish_time,
    ARRAY(
        SELECT model_aliases.alias
        FROM tuner.model_aliases
        WHERE model_aliases.model_id = model_versions.model_id
            AND model_aliases.version = model_versions.version
        ORDER BY model_aliases.alias
    ) AS aliases
FROM tuner.model_versions
WHERE (%(model_id)s::text IS NULL OR model_versions.model_id = %(model_id)s::text)
    AND (%(states)s::text[] IS NULL OR model_versions.state = ANY (%(states)s::text[]))
    AND (
        model_versions.model_id > %(after_model)s::text
        OR (
            model_versions.model_id = %(after_model)s::text
            AND model_versions.version < %(before_version)s::integer
        )
    )
ORDER BY model_versions.model_id, model_versions.version DESC
LIMIT %(limit)s::integer;

-- version_use --
SELECT tuner.version_use(%(model_id)s::text, %(version)s::integer);

-- retire_version --
UPDATE tuner.model_versions
SET state = 'DELETING'
WHERE model_id = %(model_id)s::text AND version = %(version)s::integer;

-- retire_versions --
-- Ready versions beyond those that the model keeps, if nothing uses them.
WITH idle AS (
    SELECT
        model_versions.version,
        row_number() OVER (ORDER BY model_versions.version DESC) AS place
    FROM tuner.model_versions
    WHERE model_versions.model_id = %(model_id)s::text
        AND model_versions.state = 'READY'
        AND tuner.version_use(model_versions.model_id, model_versions.version) IS NULL
)
UPDATE tuner.model_versions
SET state = 'DELETING'
FROM idle, tuner.models
WHERE model_versions.model_id = %(model_id)s::text
    AND model_versions.version = idle.version
    AND models.model_id = %(model_id)s::text
    AND models.keep_versions > 0
    AND idle.place > models.keep_versions;

-- delete_version --
DELETE FROM tuner.model_versions
WHERE model_id = %(model_id)s::text AND version = %(version)s::integer;

-- set_alias --
INSERT INTO tuner.model_aliases (model_id, alias, version)
VALUES (%(model_id)s::text, %(alias)s::text, %(version)s::integer)
ON CONFLICT ON CONSTRAINT model_aliases_pkey DO UPDATE SET version = EXCLUDED.version;

-- delete_alias --
DELETE FROM tuner.model_aliases
WHERE model_id = %(model_id)s::text AND alias = %(alias)s::text
RETURNING version;

-- record_shared_answer --
-- The answer to a request about models or endpoints belongs to no study.
INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
VALUES (
    0, %(request_id)s::text, %(method)s::text, %(answer)s::bytea, %(now)s::timestamptz
);

-- --- endpoints ---

-- create_endpoint --
INSERT INTO tuner.endpoints (
    endpoint_id, model_id, description, min_replicas, max_replicas, target_concurrency, idle_time,
    max_queue, timeout, record_percent, record_keep_time, creator, create_time, update_time
)
VALUES (
    %(endpoint_id)s::text, %(model_id)s::text, %(description)s::text, %(min_replicas)s::integer,
    %(max_replicas)s::integer, %(target_concurrency)s::double precision,
    %(idle_time)s::interval, %(max_queue)s::integer, %(timeout)s::interval,
    %(record_percent)s::double precision, %(record_keep_time)s::interval, %(creator)s::text,
    %(now)s::timestamptz, %(now)s::timestamptz
);

-- ensure_endpoint --
-- For the first version that is deployed under a name.
INSERT INTO tuner.endpoints (
    endpoint_id, model_id, description, min_replicas, max_replicas, target_concurrency, idle_time,
    max_queue, timeout, record_percent, record_keep_time, creator, create_time, update_time
)
VALUES (
    %(endpoint_id)s::text, %(model_id)s::text, %(description)s::text, %(min_replicas)s::integer,
    %(max_replicas)s::integer, %(target_concurrency)s::double precision,
    %(idle_time)s::interval, %(max_queue)s::integer, %(timeout)s::interval,
    %(record_percent)s::double precision, %(record_keep_time)s::interval, %(creator)s::text,
    %(now)s::timestamptz, %(now)s::timestamptz
)
ON CONFLICT ON CONSTRAINT endpoints_pkey DO NOTHING;

-- lock_endpoint --
-- After the lock of its model: whoever changes what an endpoint serves waits here. No row: there is
-- no such endpoint. What only refers to the endpoint goes on.
SELECT model_id FROM tuner.endpoints
WHERE endpoint_id = %(endpoint_id)s::text
FOR NO KEY UPDATE;

-- share_endpoint --
-- Keeps an endpoint from being deleted until the commit. No row: there is no such endpoint.
SELECT model_id FROM tuner.endpoints WHERE endpoint_id = %(endpoint_id)s::text FOR KEY SHARE;

-- find_endpoint --
SELECT * FROM tuner.endpoint_summaries WHERE endpoint_id = %(endpoint_id)s::text;

-- list_endpoints --
SELECT * FROM tuner.endpoint_summaries
WHERE endpoint_id > %(after)s::text
ORDER BY endpoint_id
LIMIT %(limit)s::integer;

-- update_endpoint --
UPDATE tuner.endpoints
SET description = %(description)s::text,
    min_replicas = %(min_replicas)s::integer,
    max_replicas = %(max_replicas)s::integer,
    target_concurrency = %(target_concurrency)s::double precision,
    idle_time = %(idle_time)s::interval,
    max_queue = %(max_queue)s::integer,
    timeout = %(timeout)s::interval,
    record_percent = %(record_percent)s::double precision,
    record_keep_time = %(record_keep_time)s::interval,
    slots = %(slots)s::integer[],
    revision = revision + 1,
    update_time = %(now)s::timestamptz
WHERE endpoint_id = %(endpoint_id)s::text;

-- remove_deployments --
DELETE FROM tuner.endpoint_deployments WHERE endpoint_id = %(endpoint_id)s::text;

-- set_deployments --
INSERT INTO tuner.endpoint_deployments (
    endpoint_id, model_id, version, percent, shadow_percent
)
SELECT %(endpoint_id)s::text, %(model_id)s::text, told.version, told.percent, told.shadow_percent
FROM json_to_recordset(%(deployments)s::json) AS told (
    version integer, percent integer, shadow_percent integer
);

-- delete_endpoint --
DELETE FROM tuner.endpoints WHERE endpoint_id = %(endpoint_id)s::text;

-- begin_canary --
-- In place of the one that ran last.
INSERT INTO tuner.canaries (
    endpoint_id, version, steps, step_seconds, min_requests, max_error_increase,
    max_latency_ratio, state, step, step_start_time, reason, percents_before
)
VALUES (
    %(endpoint_id)s::text, %(version)s::integer, %(steps)s::integer[],
    %(step_seconds)s::double precision, %(min_requests)s::integer,
    %(max_error_increase)s::double precision, %(max_latency_ratio)s::double precision, 'RUNNING',
    0, clock_timestamp(), '', %(percents_before)s::json
)
ON CONFLICT ON CONSTRAINT canaries_pkey DO UPDATE SET
    version = EXCLUDED.version,
    steps = EXCLUDED.steps,
    step_seconds = EXCLUDED.step_seconds,
    min_requests = EXCLUDED.min_requests,
    max_error_increase = EXCLUDED.max_error_increase,
    max_latency_ratio = EXCLUDED.max_latency_ratio,
    state = EXCLUDED.state,
    step = EXCLUDED.step,
    step_start_time = EXCLUDED.step_start_time,
    reason = EXCLUDED.reason,
    percents_before = EXCLUDED.percents_before,
    requests = 0,
    errors = 0,
    latencies = '{}',
    other_requests = 0,
    other_errors = 0,
    other_latencies = '{}';

-- end_canary --
UPDATE tuner.canaries
SET state = %(state)s::text, reason = %(reason)s::text
WHERE endpoint_id = %(endpoint_id)s::text AND state = 'RUNNING';

-- step_canary --
-- Its next step begins, and with it another count.
UPDATE tuner.canaries
SET step = %(step)s::integer,
    step_start_time = clock_timestamp(),
    requests = 0,
    errors = 0,
    latencies = '{}',
    other_requests = 0,
    other_errors = 0,
    other_latencies = '{}'
WHERE endpoint_id = %(endpoint_id)s::text;

-- lock_canaries --
-- The endpoints with canaries that a report may move: those with traffic in it, and those whose step
-- has lasted long enough.
SELECT endpoints.endpoint_id
FROM tuner.endpoints
JOIN tuner.canaries ON canaries.endpoint_id = endpoints.endpoint_id
WHERE canaries.state = 'RUNNING'
    AND (
        endpoints.endpoint_id = ANY (%(endpoints)s::text[])
        OR extract(epoch FROM now() - canaries.step_start_time) >= canaries.step_seconds
    )
ORDER BY endpoints.endpoint_id
FOR NO KEY UPDATE OF endpoints;

-- find_canary --
-- Of an endpoint that is held.
SELECT
    requests, errors, latencies, other_requests, other_errors, other_latencies,
    step_start_time, clock_timestamp() - step_start_time AS elapsed
FROM tuner.canaries
WHERE endpoint_id = %(endpoint_id)s::text AND state = 'RUNNING';

-- find_percents_before --
-- By version; the canary itself may not be among them.
SELECT percents_before FROM tuner.canaries WHERE endpoint_id = %(endpoint_id)s::text;

-- count_canary --
UPDATE tuner.canaries
SET requests = %(requests)s::bigint,
    errors = %(errors)s::bigint,
    latencies = %(latencies)s::bigint[],
    other_requests = %(other_requests)s::bigint,
    other_errors = %(other_errors)s::bigint,
    other_latencies = %(other_latencies)s::bigint[]
WHERE endpoint_id = %(endpoint_id)s::text;

-- --- gateways ---

-- enter_gateway --
-- For a gateway's first report.
INSERT INTO tuner.gateways (
    gateway, sequence, host, rest_address, grpc_address, replicas, create_time, report_time
)
VALUES (
    %(gateway)s::uuid, 0, '', '', '', '[]', clock_timestamp(), clock_timestamp()
)
ON CONFLICT ON CONSTRAINT gateways_pkey DO NOTHING;

-- lock_gateway --
-- No row: the gateway is taken for dead.
SELECT sequence, report_time
FROM tuner.gateways
WHERE gateway = %(gateway)s::uuid
    AND report_time > clock_timestamp() - %(lifetime)s::interval
FOR UPDATE;

-- keep_report --
UPDATE tuner.gateways
SET sequence = %(sequence)s::bigint,
    host = %(host)s::text,
    rest_address = %(rest_address)s::text,
    grpc_address = %(grpc_address)s::text,
    replicas = %(replicas)s::json,
    ended = %(ended)s::boolean,
    report_time = clock_timestamp()
WHERE gateway = %(gateway)s::uuid;

-- touch_gateway --
-- It repeats a report that was counted.
UPDATE tuner.gateways SET report_time = clock_timestamp() WHERE gateway = %(gateway)s::uuid;

-- list_gateways --
SELECT gateway, host, rest_address, grpc_address, replicas, create_time, report_time
FROM tuner.gateways
WHERE NOT ended AND report_time > now() - %(within)s::interval
ORDER BY create_time, gateway;

-- forget_gateways --
DELETE FROM tuner.gateways WHERE report_time < now() - %(lifetime)s::interval;

-- add_traffic --
-- What reports of one minute say is added up; of endpoints that are gone nothing is kept.
INSERT INTO tuner.endpoint_traffic (
    endpoint_id, minute, version, shadow, requests, errors, differences, latencies
)
SELECT
    endpoints.endpoint_id, date_trunc('minute', now()), told.version, told.shadow, told.requests,
    told.errors, told.differences, told.latencies
FROM json_to_recordset(%(rows)s::json) AS told (
    endpoint_id text, version integer, shadow boolean, requests bigint, errors bigint,
    differences bigint, latencies bigint[]
)
JOIN tuner.endpoints ON endpoints.endpoint_id = told.endpoint_id
ORDER BY endpoints.endpoint_id, told.version, told.shadow
FOR KEY SHARE OF endpoints
ON CONFLICT ON CONSTRAINT endpoint_traffic_pkey DO UPDATE SET
    requests = endpoint_traffic.requests + EXCLUDED.requests,
    errors = endpoint_traffic.errors + EXCLUDED.errors,
    differences = endpoint_traffic.differences + EXCLUDED.differences,
    latencies = tuner.added(endpoint_traffic.latencies, EXCLUDED.latencies);

-- list_traffic --
SELECT minute, version, shadow, requests, errors, differences, latencies
FROM tuner.endpoint_traffic
WHERE endpoint_id = %(endpoint_id)s::text
    AND minute > now() - %(window)s::interval - interval '1 minute'
ORDER BY minute, version, shadow;

-- forget_traffic --
DELETE FROM tuner.endpoint_traffic WHERE minute < now() - %(keep_time)s::interval;

-- served_revision --
-- Another word whenever something changes that gateways serve by: endpoints, aliases, tokens.
SELECT md5(concat_ws(
    '/',
    (
        SELECT string_agg(
            endpoint_id || ' ' || revision || ' ' || update_time, ',' ORDER BY endpoint_id
        )
        FROM tuner.endpoints
    ),
    (
        SELECT string_agg(
            model_id || ' ' || alias || ' ' || version, ',' ORDER BY model_id, alias
        )
        FROM tuner.model_aliases
        WHERE model_id IN (SELECT model_id FROM tuner.endpoints)
    ),
    (
        SELECT string_agg(
            concat_ws(' ', token_id, secret_hash, expire_time), ',' ORDER BY token_id
        )
        FROM tuner.tokens
        WHERE revoke_time IS NULL
            AND (expire_time IS NULL OR expire_time > %(now)s::timestamptz)
    )
));

-- --- predictions and results ---

-- record_predictions --
-- What is told again changes nothing; of endpoints that are gone nothing is kept.
INSERT INTO tuner.predictions (endpoint_id, request, version, time, answer)
SELECT endpoints.endpoint_id, told.request, told.version, told.time, told.answer
FROM json_to_recordset(%(rows)s::json) AS told (
    endpoint_id text, request text, version integer, time timestamptz, answer text
)
JOIN tuner.endpoints ON endpoints.endpoint_id = told.endpoint_id
ORDER BY endpoints.endpoint_id, told.request
FOR KEY SHARE OF endpoints
ON CONFLICT ON CONSTRAINT predictions_pkey DO NOTHING;

-- lock_predictions --
-- Results of the same predictions wait for each other.
SELECT request, version, answer
FROM tuner.predictions
WHERE endpoint_id = %(endpoint_id)s::text AND request = ANY (%(requests)s::text[])
ORDER BY request
FOR NO KEY UPDATE;

-- record_results --
-- What replaces a result is added to the sums, and what it replaces taken from them.
WITH told AS (
    SELECT *
    FROM json_to_recordset(%(rows)s::json) AS told (
        request text, version integer, place integer, result text, value double precision
    )
), replaced AS (
    SELECT told.version, told.result, prediction_results.value
    FROM told
    JOIN tuner.prediction_results
        ON prediction_results.endpoint_id = %(endpoint_id)s::text
        AND prediction_results.request = told.request
        AND prediction_results.place = told.place
        AND prediction_results.result = told.result
), kept AS (
    INSERT INTO tuner.prediction_results (endpoint_id, request, place, result, value)
    SELECT %(endpoint_id)s::text, request, place, result, value FROM told
    ON CONFLICT ON CONSTRAINT prediction_results_pkey DO UPDATE SET value = EXCLUDED.value
), changes AS (
    SELECT version, result, 1 AS sign, value::numeric AS value FROM told
    UNION ALL
    SELECT version, result, -1, value::numeric FROM replaced
)
INSERT INTO tuner.endpoint_results (endpoint_id, version, result, count, total, squares)
SELECT
    %(endpoint_id)s::text, version, result, sum(sign), sum(sign * value),
    sum(sign * value * value)
FROM changes
GROUP BY version, result
ORDER BY version, result
ON CONFLICT ON CONSTRAINT endpoint_results_pkey DO UPDATE SET
    count = endpoint_results.count + EXCLUDED.count,
    total = endpoint_results.total + EXCLUDED.total,
    squares = endpoint_results.squares + EXCLUDED.squares,
    is_told = false;

-- list_results --
SELECT
    version, result, count, (total / count)::double precision AS mean,
    CASE
        WHEN count > 1 THEN
            sqrt(greatest(squares - total * total / count, 0) / (count - 1))::double precision
        ELSE 0.0
    END AS standard_deviation
FROM tuner.endpoint_results
WHERE endpoint_id = %(endpoint_id)s::text
ORDER BY result, version;

-- forget_predictions --
-- Nobody waits for results of them any more; what they added to the sums stays.
DELETE FROM tuner.predictions
USING tuner.endpoints
WHERE predictions.endpoint_id = endpoints.endpoint_id
    AND predictions.time < now() - endpoints.record_keep_time;

-- list_untold --
-- Results that the trials of their versions do not say yet, of studies that this server owns or that
-- no living server does.
SELECT
    endpoint_results.endpoint_id, endpoint_results.version, endpoint_results.result,
    endpoint_results.count, endpoint_results.total,
    (endpoint_results.total / endpoint_results.count)::double precision AS mean,
    studies.study_id, model_versions.trial
FROM tuner.endpoint_results
JOIN tuner.endpoints ON endpoints.endpoint_id = endpoint_results.endpoint_id
JOIN tuner.model_versions
    ON model_versions.model_id = endpoints.model_id
    AND model_versions.version = endpoint_results.version
JOIN tuner.studies ON studies.study = model_versions.study
LEFT JOIN tuner.servers ON servers.server = studies.owner AND servers.expire_time > now()
WHERE NOT endpoint_results.is_told
    AND (servers.server IS NULL OR servers.server = %(server)s::uuid)
ORDER BY endpoint_results.endpoint_id, endpoint_results.version, endpoint_results.result
LIMIT %(limit)s::integer;

-- mark_told --
-- Unless there are more results by now.
UPDATE tuner.endpoint_results
SET is_told = true
WHERE endpoint_id = %(endpoint_id)s::text
    AND version = %(version)s::integer
    AND result = %(result)s::text
    AND count = %(count)s::bigint
    AND total = %(total)s::numeric;

-- mark_untellable --
-- Of versions without a trial, or whose study or themselves are deleted. What somebody is adding to
-- waits for the next time.
WITH untellable AS (
    SELECT endpoint_results.endpoint_id, endpoint_results.version, endpoint_results.result
    FROM tuner.endpoint_results
    WHERE NOT endpoint_results.is_told
        AND NOT EXISTS (
            SELECT
            FROM tuner.endpoints
            JOIN tuner.model_versions
                ON model_versions.model_id = endpoints.model_id
                AND model_versions.version = endpoint_results.version
            JOIN tuner.trials
                ON trials.study = model_versions.study AND trials.number = model_versions.trial
            WHERE endpoints.endpoint_id = endpoint_results.endpoint_id
        )
    FOR UPDATE OF endpoint_results SKIP LOCKED
)
UPDATE tuner.endpoint_results
SET is_told = true
FROM untellable
WHERE endpoint_results.endpoint_id = untellable.endpoint_id
    AND endpoint_results.version = untellable.version
    AND endpoint_results.result = untellable.result;
