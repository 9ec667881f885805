Every statement of the server. `-- name --` starts one; parameters are named and cast.
A statement with several parts is one transaction and one round trip; `tuner.must` undoes all of it.

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

-- create_study --
WITH created AS (
    INSERT INTO tuner.studies (
        study_id, state, state_reason, submitted, spec, managed, space_version, statistics,
        create_time, update_time, end_time
    )
    VALUES (
        %(study_id)s::text, %(state)s::text, %(state_reason)s::text, %(submitted)s::json,
        %(spec)s::json, %(managed)s::boolean, %(space_version)s::integer, NULL,
        %(now)s::timestamptz, %(now)s::timestamptz, NULL
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
)
SELECT study FROM created;

-- delete_failed_study --
-- Makes room for a study sent again: the old one stopped before it had any trial.
DELETE FROM tuner.studies
WHERE study = %(study)s::bigint
    AND state = 'STOPPED'
    AND NOT EXISTS (SELECT FROM tuner.trials WHERE trials.study = studies.study);

-- delete_study --
DELETE FROM tuner.studies WHERE study = %(study)s::bigint;

-- find_study --
SELECT * FROM tuner.study_summaries WHERE study_id = %(study_id)s::text;

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
        spec = %(spec)s::json,
        space_version = %(space_version)s::integer,
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
), answered AS (
    INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
    SELECT
        study, %(request_id)s::text, %(method)s::text, %(answer)s::bytea, %(now)s::timestamptz
    FROM saved
    WHERE %(request_id)s::text <> ''
)
SELECT tuner.must(EXISTS (SELECT FROM saved), 'STALE');

-- lease_trials --
-- Leases trials that are due again, and new ones, to one worker.
WITH due AS (
    UPDATE tuner.trials
    SET state = 'RUNNING',
        attempt = asked.attempt,
        worker_id = %(worker_id)s::text,
        expire_time = %(expire_time)s::timestamptz,
        final_step = NULL, final_names = NULL, final_values = NULL, final_elapsed = NULL,
        score = NULL,
        state_reason = '',
        start_time = %(now)s::timestamptz
    FROM unnest(%(due)s::integer[], %(attempts)s::integer[]) AS asked (number, attempt)
    WHERE trials.study = %(study)s::bigint
        AND trials.number = asked.number
        AND trials.state = 'QUEUED'
        AND trials.attempt = asked.attempt - 1
    RETURNING trials.number, trials.attempt
), proposed AS (
    INSERT INTO tuner.trials (
        study, number, state, parameters, space_version, attempt, worker_id, expire_time,
        create_time, start_time
    )
    SELECT
        %(study)s::bigint, asked.number, 'RUNNING', asked.parameters::json,
        %(space_version)s::integer, 1, %(worker_id)s::text, %(expire_time)s::timestamptz,
        %(now)s::timestamptz, %(now)s::timestamptz
    FROM unnest(%(proposed)s::integer[], %(parameters)s::text[]) AS asked (number, parameters)
    RETURNING number, attempt
), started AS (
    INSERT INTO tuner.attempts (study, trial, attempt, worker_id, host, start_time)
    SELECT
        %(study)s::bigint, leased.number, leased.attempt, %(worker_id)s::text, %(host)s::text,
        %(now)s::timestamptz
    FROM (SELECT * FROM due UNION ALL SELECT * FROM proposed) AS leased
    RETURNING trial
), answered AS (
    INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
    SELECT
        %(study)s::bigint, %(request_id)s::text, %(method)s::text, %(answer)s::bytea,
        %(now)s::timestamptz
    WHERE %(request_id)s::text <> ''
)
SELECT tuner.must(
    (SELECT count(*) FROM started)
        = cardinality(%(due)s::integer[]) + cardinality(%(proposed)s::integer[]),
    'STALE'
);

-- renew_leases --
-- For the trials that a worker was leased before and asks for again.
UPDATE tuner.trials
SET expire_time = %(expire_time)s::timestamptz
FROM unnest(%(numbers)s::integer[], %(attempts)s::integer[]) AS held (number, attempt)
WHERE trials.study = %(study)s::bigint
    AND trials.number = held.number
    AND trials.attempt = held.attempt
    AND trials.state = 'RUNNING';

-- report --
-- Renews the lease, stores the measurement if there is one, and the best result so far.
WITH renewed AS (
    UPDATE tuner.trials
    SET expire_time = %(expire_time)s::timestamptz,
        final_step = %(final_step)s::bigint,
        final_names = %(final_names)s::text[],
        final_values = %(final_values)s::double precision[],
        final_elapsed = %(final_elapsed)s::interval,
        score = %(score)s::double precision,
        state_reason = CASE
            WHEN %(stop)s::boolean THEN %(state_reason)s::text ELSE state_reason
        END,
        stop_requested = stop_requested OR %(stop)s::boolean
    WHERE study = %(study)s::bigint
        AND number = %(number)s::integer
        AND state = 'RUNNING'
        AND attempt = %(attempt)s::integer
    RETURNING study, number, attempt
), measured AS (
    INSERT INTO tuner.measurements (
        study, trial, attempt, step, metric_names, metric_values, elapsed, report_time
    )
    SELECT
        study, number, attempt, %(step)s::bigint, %(metric_names)s::text[],
        %(metric_values)s::double precision[], %(elapsed)s::interval, %(now)s::timestamptz
    FROM renewed
    WHERE %(step)s::bigint IS NOT NULL
    ON CONFLICT (study, trial, attempt, step) DO UPDATE
    SET metric_names = excluded.metric_names,
        metric_values = excluded.metric_values,
        elapsed = excluded.elapsed,
        report_time = excluded.report_time
)
SELECT tuner.must(EXISTS (SELECT FROM renewed), 'LEASE_LOST');

-- end_attempt --
-- Ends the current attempt: with a result, with a failure, or because its lease expired by then.
WITH ended AS (
    UPDATE tuner.trials
    SET state = %(state)s::text,
        worker_id = NULL,
        expire_time = NULL,
        final_step = %(final_step)s::bigint,
        final_names = %(final_names)s::text[],
        final_values = %(final_values)s::double precision[],
        final_elapsed = %(final_elapsed)s::interval,
        score = %(score)s::double precision,
        artifact_uri = %(artifact_uri)s::text,
        state_reason = %(state_reason)s::text,
        end_time = %(end_time)s::timestamptz
    WHERE study = %(study)s::bigint
        AND number = %(number)s::integer
        AND state = 'RUNNING'
        AND attempt = %(attempt)s::integer
        AND (
            %(expired_by)s::timestamptz IS NULL
            OR expire_time <= %(expired_by)s::timestamptz
        )
    RETURNING study, number, attempt
), closed AS (
    UPDATE tuner.attempts
    SET end_time = %(now)s::timestamptz,
        failure_cause = %(failure_cause)s::text,
        failure_message = %(failure_message)s::text,
        failure_stack = %(failure_stack)s::text,
        failure_log_tail = %(failure_log_tail)s::text
    FROM ended
    WHERE attempts.study = ended.study
        AND attempts.trial = ended.number
        AND attempts.attempt = ended.attempt
), answered AS (
    INSERT INTO tuner.requests (study, request_id, method, answer, create_time)
    SELECT
        study, %(request_id)s::text, %(method)s::text, %(answer)s::bytea, %(now)s::timestamptz
    FROM ended
    WHERE %(request_id)s::text <> ''
)
SELECT tuner.must(EXISTS (SELECT FROM ended), 'LEASE_LOST');

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
        score = NULL,
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

-- find_trial --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint AND trials.number = %(number)s::integer;

-- all_trials --
SELECT trials.* FROM tuner.trials WHERE trials.study = %(study)s::bigint ORDER BY trials.number;

-- list_trials_by_number --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND (%(number)s::integer IS NULL OR trials.number > %(number)s::integer)
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
ORDER BY trials.number
LIMIT %(limit)s::integer;

-- list_trials_by_number_desc --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND (%(number)s::integer IS NULL OR trials.number < %(number)s::integer)
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
ORDER BY trials.number DESC
LIMIT %(limit)s::integer;

-- list_trials_by_score --
SELECT trials.* FROM tuner.trials
WHERE trials.study = %(study)s::bigint
    AND (
        %(number)s::integer IS NULL
        OR trials.score < %(score)s::double precision
        OR (
            trials.score IS NOT DISTINCT FROM %(score)s::double precision
            AND trials.number > %(number)s::integer
        )
        OR (trials.score IS NULL AND %(score)s::double precision IS NOT NULL)
    )
    AND (%(states)s::text[] IS NULL OR trials.state = ANY (%(states)s::text[]))
ORDER BY trials.score DESC NULLS LAST, trials.number
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
-- Why the ended attempts failed of trials that may be tried again.
SELECT attempts.trial, attempts.failure_cause
FROM tuner.attempts
JOIN tuner.trials ON trials.study = attempts.study AND trials.number = attempts.trial
WHERE attempts.study = %(study)s::bigint
    AND attempts.failure_cause IS NOT NULL
    AND trials.state IN ('QUEUED', 'RUNNING', 'FAILED')
ORDER BY attempts.trial, attempts.attempt;

-- attempt_time --
-- The time of every attempt that has ended.
SELECT coalesce(sum(end_time - start_time), interval '0')
FROM tuner.attempts
WHERE study = %(study)s::bigint AND end_time IS NOT NULL;

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
SELECT
    %(study)s::bigint, %(request_id)s::text, %(method)s::text, %(answer)s::bytea,
    %(now)s::timestamptz
WHERE %(request_id)s::text <> '';

-- find_answer --
SELECT answer FROM tuner.requests
WHERE study = %(study)s::bigint
    AND request_id = %(request_id)s::text
    AND method = %(method)s::text;

-- forget_requests --
DELETE FROM tuner.requests WHERE create_time < %(before)s::timestamptz;

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

-- list_live_servers --
SELECT
    servers.address, servers.start_time, servers.expire_time,
    count(studies.study) AS studies
FROM tuner.servers
LEFT JOIN tuner.studies ON studies.owner = servers.server
WHERE servers.expire_time > %(now)s::timestamptz
GROUP BY servers.server
ORDER BY servers.address;
