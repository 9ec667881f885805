-- What the study server keeps. This file is for reading; migrations/ is what runs, and a test
-- proves that both give the same database.

CREATE SCHEMA tuner;

-- Which migrations ran. A version that this tuner does not know means that a newer one wrote here.
CREATE TABLE tuner.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT migrations_pkey PRIMARY KEY (version)
);

-- --- rules that several tables share ------------------------------------------------------------

-- Undoes the statement it is called from unless `holds`: what one process believed is not so.
CREATE FUNCTION tuner.must(holds boolean, reason text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'TN001', MESSAGE = reason;
    END IF;
END;
$$;

-- The legal moves of a study; the same table as tuner.study.STUDY_MOVES.
CREATE FUNCTION tuner.is_study_move(before text, after text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT (before, after) IN (
        ('PREPARING', 'ACTIVE'), ('PREPARING', 'STOPPED'),
        ('ACTIVE', 'PAUSED'), ('ACTIVE', 'COMPLETED'), ('ACTIVE', 'STOPPED'),
        ('PAUSED', 'ACTIVE'), ('PAUSED', 'COMPLETED'), ('PAUSED', 'STOPPED'),
        ('COMPLETED', 'ACTIVE'),
        ('STOPPED', 'ACTIVE')
    );
$$;

-- The legal moves of a trial; the same table as tuner.study.TRIAL_MOVES.
CREATE FUNCTION tuner.is_trial_move(before text, after text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT (before, after) IN (
        ('QUEUED', 'RUNNING'), ('QUEUED', 'FAILED'),
        ('RUNNING', 'QUEUED'), ('RUNNING', 'SUCCEEDED'), ('RUNNING', 'PRUNED'),
        ('RUNNING', 'FAILED'), ('RUNNING', 'INFEASIBLE'),
        ('FAILED', 'QUEUED')
    );
$$;

CREATE FUNCTION tuner.refuse_move() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TN002',
        MESSAGE = format('%s of %s cannot become %s', OLD.state, TG_TABLE_NAME, NEW.state);
END;
$$;

-- --- servers and callers ------------------------------------------------------------------------

-- The study servers that share this database. One whose time has expired is dead: its studies are
-- anybody's. The times are this database's own, so that the servers' clocks do not matter.
CREATE TABLE tuner.servers (
    server uuid NOT NULL,
    -- Where the other servers reach it.
    address text NOT NULL,
    start_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    CONSTRAINT servers_pkey PRIMARY KEY (server)
);

-- Who may call. Of a token's secret only its SHA-256 is kept; secrets are random, so it needs no salt.
CREATE TABLE tuner.tokens (
    token_id text NOT NULL,
    role text NOT NULL,
    secret_hash bytea NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    CONSTRAINT tokens_pkey PRIMARY KEY (token_id),
    CONSTRAINT tokens_secret_hash_key UNIQUE (secret_hash),
    CONSTRAINT tokens_role_check CHECK (role IN ('READER', 'WRITER', 'ADMIN'))
);

-- Who changed what. Written in the transaction of the change; what workers do is in the attempts.
CREATE TABLE tuner.audit (
    entry bigint GENERATED ALWAYS AS IDENTITY,
    time timestamptz NOT NULL,
    caller text NOT NULL,
    method text NOT NULL,
    resource text NOT NULL,
    -- The request's id in the servers' logs.
    request text NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (entry)
);

-- --- studies ------------------------------------------------------------------------------------

-- The key is never used again, so that a late write to a deleted study cannot reach the next study
-- of the same name. json, not jsonb: it keeps the text of numbers, so that 1e22 stays a float.
CREATE TABLE tuner.studies (
    study bigint GENERATED ALWAYS AS IDENTITY,
    study_id text NOT NULL,
    state text NOT NULL,
    state_reason text NOT NULL,
    -- What the user sent, to tell the same study sent again from another one.
    submitted json NOT NULL,
    -- The same, completed by a runner and changed by updates.
    spec json NOT NULL,
    managed boolean NOT NULL,
    space_version integer NOT NULL,
    statistics json,
    exported_model_uri text NOT NULL DEFAULT '',
    -- The etag: counts the changes of this row.
    revision bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    end_time timestamptz,
    -- The server that works on the study. Every write names the epoch that it was claimed with, so
    -- that a server which lost a study cannot write to it.
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    -- Who created it, where callers have tokens.
    creator text NOT NULL DEFAULT '',
    -- What proposed trials when this row was last written; only a server that works on the study
    -- knows it at any time.
    algorithm_in_use text NOT NULL DEFAULT '',
    CONSTRAINT studies_pkey PRIMARY KEY (study),
    CONSTRAINT studies_study_id_key UNIQUE (study_id),
    CONSTRAINT studies_state_check
        CHECK (state IN ('PREPARING', 'ACTIVE', 'PAUSED', 'COMPLETED', 'STOPPED')),
    CONSTRAINT studies_end_time_check
        CHECK ((state IN ('COMPLETED', 'STOPPED')) = (end_time IS NOT NULL)),
    CONSTRAINT studies_space_version_check
        CHECK (space_version > 0 OR state IN ('PREPARING', 'STOPPED'))
);

CREATE INDEX studies_owner_idx ON tuner.studies (owner);

CREATE TRIGGER studies_move BEFORE UPDATE OF state ON tuner.studies
    FOR EACH ROW WHEN (OLD.state <> NEW.state AND NOT tuner.is_study_move(OLD.state, NEW.state))
    EXECUTE FUNCTION tuner.refuse_move();

-- Every version of a study's space; a trial names the one it was drawn from.
CREATE TABLE tuner.spaces (
    study bigint NOT NULL,
    version integer NOT NULL,
    space json NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT spaces_pkey PRIMARY KEY (study, version),
    CONSTRAINT spaces_study_fkey
        FOREIGN KEY (study) REFERENCES tuner.studies (study) ON DELETE CASCADE,
    CONSTRAINT spaces_version_check CHECK (version > 0)
);

-- --- trials -------------------------------------------------------------------------------------

-- Study and `attempt` make the fencing token: every write of a worker names what it was leased. Room
-- is left in the pages because each report renews the lease in place.
CREATE TABLE tuner.trials (
    study bigint NOT NULL,
    number integer NOT NULL,
    state text NOT NULL,
    parameters json NOT NULL,
    space_version integer NOT NULL,
    attempt integer NOT NULL,
    worker_id text,
    expire_time timestamptz,
    -- The result: the measurement that trials are compared by, so far.
    final_step bigint,
    final_names text[],
    final_values double precision[],
    final_elapsed interval,
    -- The first metric of the result, its sign turned so that larger is better; NULL never wins.
    score double precision,
    stop_requested boolean NOT NULL DEFAULT false,
    artifact_uri text NOT NULL DEFAULT '',
    state_reason text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    start_time timestamptz,
    end_time timestamptz,
    origin text NOT NULL DEFAULT 'PROPOSED',
    labels json NOT NULL DEFAULT '{}',
    -- The last checkpoint that an attempt reported.
    checkpoint_uri text,
    checkpoint_step bigint,
    within_constraints boolean,
    -- What proposed the trial in place of the study's search, and why; mostly empty.
    search_note text NOT NULL DEFAULT '',
    -- Of the attempts that have ended, added up.
    worker_time interval NOT NULL DEFAULT '0',
    cpu_time interval NOT NULL DEFAULT '0',
    gpu_time interval NOT NULL DEFAULT '0',
    CONSTRAINT trials_pkey PRIMARY KEY (study, number),
    CONSTRAINT trials_space_fkey
        FOREIGN KEY (study, space_version) REFERENCES tuner.spaces (study, version)
        ON DELETE CASCADE,
    CONSTRAINT trials_number_check CHECK (number >= 0),
    CONSTRAINT trials_state_check
        CHECK (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'PRUNED', 'FAILED', 'INFEASIBLE')),
    CONSTRAINT trials_lease_check CHECK (
        (state = 'RUNNING') = (worker_id IS NOT NULL)
        AND (state = 'RUNNING') = (expire_time IS NOT NULL)
        AND (attempt > 0 OR state IN ('QUEUED', 'FAILED'))
    ),
    CONSTRAINT trials_end_time_check
        CHECK ((state IN ('QUEUED', 'RUNNING')) = (end_time IS NULL)),
    CONSTRAINT trials_final_check
        CHECK (cardinality(final_names) IS NOT DISTINCT FROM cardinality(final_values)),
    CONSTRAINT trials_origin_check CHECK (origin IN ('PROPOSED', 'GIVEN', 'PAST')),
    CONSTRAINT trials_checkpoint_check
        CHECK ((checkpoint_uri IS NULL) = (checkpoint_step IS NULL))
) WITH (fillfactor = 70);

-- Trials from the best on, those without a score last: one order of one direction, so that a page
-- starts where the last one ended.
CREATE INDEX trials_best_idx ON tuner.trials (study, coalesce(-score, 'Infinity'), number);

-- Which studies have leases to watch, without a look at all that has ever been tried.
CREATE INDEX trials_running_idx ON tuner.trials (study) WHERE state = 'RUNNING';

CREATE TRIGGER trials_move BEFORE UPDATE OF state ON tuner.trials
    FOR EACH ROW WHEN (OLD.state <> NEW.state AND NOT tuner.is_trial_move(OLD.state, NEW.state))
    EXECUTE FUNCTION tuner.refuse_move();

-- A trial as its filters see it.
CREATE FUNCTION tuner.trial_document(trial tuner.trials) RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$
    SELECT jsonb_build_object(
        'number', trial.number,
        'state', trial.state,
        'attempt', trial.attempt,
        'worker_id', trial.worker_id,
        'origin', trial.origin,
        'parameters', trial.parameters,
        'labels', trial.labels,
        'metrics', (
            SELECT jsonb_object_agg(metric.name, metric.value)
            FROM unnest(trial.final_names, trial.final_values) AS metric (name, value)
        )
    );
$$;

-- What trials are ordered by: a metric or a parameter by name, or a time. NULL comes last.
CREATE FUNCTION tuner.trial_key(trial tuner.trials, kind text, name text) RETURNS double precision
    LANGUAGE sql STABLE
    AS $$
    SELECT nullif(
        CASE kind
            WHEN 'metrics' THEN
                trial.final_values[array_position(trial.final_names, name)]
            WHEN 'parameters' THEN
                CASE WHEN json_typeof(trial.parameters -> name) = 'number'
                    THEN (trial.parameters ->> name)::double precision END
            WHEN 'start_time' THEN extract(epoch FROM trial.start_time)::double precision
            WHEN 'end_time' THEN extract(epoch FROM trial.end_time)::double precision
        END,
        double precision 'NaN'
    );
$$;

-- Every try at running a trial.
CREATE TABLE tuner.attempts (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    worker_id text NOT NULL,
    host text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    failure_cause text,
    failure_message text,
    failure_stack text,
    failure_log_tail text,
    -- The time from start to end, times what the attempt held: that may change from one to the next.
    worker_time interval NOT NULL DEFAULT '0',
    cpu_time interval NOT NULL DEFAULT '0',
    gpu_time interval NOT NULL DEFAULT '0',
    CONSTRAINT attempts_pkey PRIMARY KEY (study, trial, attempt),
    CONSTRAINT attempts_trial_fkey
        FOREIGN KEY (study, trial) REFERENCES tuner.trials (study, number) ON DELETE CASCADE,
    CONSTRAINT attempts_attempt_check CHECK (attempt > 0),
    CONSTRAINT attempts_failure_check CHECK (failure_cause IS NULL OR end_time IS NOT NULL)
);

-- What attempts reported. The metrics are two arrays and not json, so that NaN is a value.
CREATE TABLE tuner.measurements (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    step bigint NOT NULL,
    metric_names text[] NOT NULL,
    metric_values double precision[] NOT NULL,
    elapsed interval NOT NULL,
    report_time timestamptz NOT NULL,
    CONSTRAINT measurements_pkey PRIMARY KEY (study, trial, attempt, step),
    CONSTRAINT measurements_attempt_fkey
        FOREIGN KEY (study, trial, attempt)
        REFERENCES tuner.attempts (study, trial, attempt) ON DELETE CASCADE,
    CONSTRAINT measurements_metrics_check
        CHECK (cardinality(metric_names) = cardinality(metric_values))
);

-- The attempts' logs in pieces, each at its offset in characters.
CREATE TABLE tuner.trial_logs (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    log_offset bigint NOT NULL,
    text text NOT NULL,
    CONSTRAINT trial_logs_pkey PRIMARY KEY (study, trial, attempt, log_offset),
    CONSTRAINT trial_logs_attempt_fkey
        FOREIGN KEY (study, trial, attempt)
        REFERENCES tuner.attempts (study, trial, attempt) ON DELETE CASCADE,
    CONSTRAINT trial_logs_offset_check CHECK (log_offset >= 0)
);

-- --- data ---------------------------------------------------------------------------------------

-- What is known of data sets: under the fingerprint of their bytes, and under that of their files'
-- names and times the other fingerprint.
CREATE TABLE tuner.statistics (
    fingerprint text NOT NULL,
    row_count bigint NOT NULL,
    -- As it came, and already compressed.
    content bytea NOT NULL,
    update_time timestamptz NOT NULL,
    -- What is not used for long is forgotten.
    use_time timestamptz NOT NULL,
    CONSTRAINT statistics_pkey PRIMARY KEY (fingerprint),
    CONSTRAINT statistics_row_count_check CHECK (row_count >= 0)
);

ALTER TABLE tuner.statistics ALTER COLUMN content SET STORAGE EXTERNAL;

-- --- repeated requests --------------------------------------------------------------------------

-- The first answer to each request that changed something, written together with the change. The
-- answer to a DeleteStudy outlives the study: it is kept under study 0.
CREATE TABLE tuner.requests (
    study bigint NOT NULL,
    request_id text NOT NULL,
    method text NOT NULL,
    answer bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT requests_pkey PRIMARY KEY (study, request_id, method)
);

-- --- models --------------------------------------------------------------------------------------

-- The legal moves of a model version; the same table as tuner.model.VERSION_MOVES.
CREATE FUNCTION tuner.is_version_move(before text, after text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT (before, after) IN (
        ('PUBLISHING', 'READY'), ('PUBLISHING', 'REJECTED'),
        ('READY', 'DELETING')
    );
$$;

CREATE TABLE tuner.models (
    model_id text NOT NULL,
    description text NOT NULL,
    labels json NOT NULL,
    -- How many READY versions that nothing uses are kept; 0: all.
    keep_versions integer NOT NULL,
    -- The highest number that a version ever had: none is used again.
    last_version integer NOT NULL DEFAULT 0,
    -- The etag: counts the changes of this row and of the aliases.
    revision bigint NOT NULL DEFAULT 1,
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT models_pkey PRIMARY KEY (model_id),
    CONSTRAINT models_keep_versions_check CHECK (keep_versions >= 0)
);

-- The publisher of a version holds it as a worker holds a trial: version and `attempt` make the token
-- that its end is told with.
CREATE TABLE tuner.model_versions (
    model_id text NOT NULL,
    version integer NOT NULL,
    state text NOT NULL,
    lineage json NOT NULL,
    -- The trial that was exported: the key of its study, which no later study has, and its number.
    study bigint,
    trial integer,
    report text NOT NULL DEFAULT '',
    metric_names text[] NOT NULL DEFAULT '{}',
    metric_values double precision[] NOT NULL DEFAULT '{}',
    uri text NOT NULL DEFAULT '',
    size_bytes bigint NOT NULL DEFAULT 0,
    sha256 text NOT NULL DEFAULT '',
    card text NOT NULL DEFAULT '',
    publisher text NOT NULL,
    attempt integer NOT NULL,
    expire_time timestamptz,
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    finish_time timestamptz,
    CONSTRAINT model_versions_pkey PRIMARY KEY (model_id, version),
    CONSTRAINT model_versions_model_fkey
        FOREIGN KEY (model_id) REFERENCES tuner.models (model_id),
    CONSTRAINT model_versions_version_check CHECK (version > 0),
    CONSTRAINT model_versions_state_check
        CHECK (state IN ('PUBLISHING', 'READY', 'REJECTED', 'DELETING')),
    CONSTRAINT model_versions_trial_check CHECK ((study IS NULL) = (trial IS NULL)),
    CONSTRAINT model_versions_finish_time_check
        CHECK ((state = 'PUBLISHING') = (finish_time IS NULL)),
    CONSTRAINT model_versions_uri_check
        CHECK ((state IN ('READY', 'DELETING')) = (uri <> '')),
    CONSTRAINT model_versions_metrics_check
        CHECK (cardinality(metric_names) = cardinality(metric_values))
);

-- What publishers look for, and what became of a trial, without a look at all versions.
CREATE INDEX model_versions_due_idx ON tuner.model_versions (model_id, version)
    WHERE state IN ('PUBLISHING', 'DELETING');
CREATE INDEX model_versions_trial_idx ON tuner.model_versions (model_id, study, trial);

CREATE TRIGGER model_versions_move BEFORE UPDATE OF state ON tuner.model_versions
    FOR EACH ROW WHEN (OLD.state <> NEW.state AND NOT tuner.is_version_move(OLD.state, NEW.state))
    EXECUTE FUNCTION tuner.refuse_move();

CREATE TABLE tuner.model_aliases (
    model_id text NOT NULL,
    alias text NOT NULL,
    version integer NOT NULL,
    CONSTRAINT model_aliases_pkey PRIMARY KEY (model_id, alias),
    CONSTRAINT model_aliases_version_fkey
        FOREIGN KEY (model_id, version) REFERENCES tuner.model_versions (model_id, version)
);

-- Models with what follows from their versions.
CREATE VIEW tuner.model_summaries AS
    SELECT
        models.model_id, models.description, models.labels, models.keep_versions,
        models.last_version, models.revision, models.creator, models.create_time,
        models.update_time,
        coalesce(
            (
                SELECT json_object_agg(model_aliases.alias, model_aliases.version)
                FROM tuner.model_aliases
                WHERE model_aliases.model_id = models.model_id
            ),
            '{}'
        ) AS aliases,
        counts.version_count, counts.latest_version
    FROM tuner.models
    CROSS JOIN LATERAL (
        SELECT
            count(*) AS version_count,
            coalesce(
                max(model_versions.version) FILTER (WHERE model_versions.state = 'READY'), 0
            ) AS latest_version
        FROM tuner.model_versions
        WHERE model_versions.model_id = models.model_id
    ) AS counts;

-- --- endpoints -----------------------------------------------------------------------------------

CREATE TABLE tuner.endpoints (
    endpoint_id text NOT NULL,
    model_id text NOT NULL,
    description text NOT NULL,
    min_replicas integer NOT NULL,
    max_replicas integer NOT NULL,
    target_concurrency double precision NOT NULL,
    idle_time interval NOT NULL,
    max_queue integer NOT NULL,
    timeout interval NOT NULL,
    record_percent double precision NOT NULL,
    record_keep_time interval NOT NULL,
    -- Which version answers each hundredth of the keys.
    slots integer[] NOT NULL DEFAULT '{}',
    -- The etag: counts the changes of this row, of the deployments and of the canary.
    revision bigint NOT NULL DEFAULT 1,
    creator text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT endpoints_pkey PRIMARY KEY (endpoint_id),
    CONSTRAINT endpoints_model_fkey FOREIGN KEY (model_id) REFERENCES tuner.models (model_id),
    CONSTRAINT endpoints_slots_check CHECK (cardinality(slots) IN (0, 100))
);

-- The versions that endpoints serve. Percents sum to 100: who changes them holds the endpoint.
CREATE TABLE tuner.endpoint_deployments (
    endpoint_id text NOT NULL,
    model_id text NOT NULL,
    version integer NOT NULL,
    percent integer NOT NULL,
    shadow_percent integer NOT NULL,
    CONSTRAINT endpoint_deployments_pkey PRIMARY KEY (endpoint_id, version),
    CONSTRAINT endpoint_deployments_endpoint_fkey
        FOREIGN KEY (endpoint_id) REFERENCES tuner.endpoints (endpoint_id) ON DELETE CASCADE,
    CONSTRAINT endpoint_deployments_version_fkey
        FOREIGN KEY (model_id, version) REFERENCES tuner.model_versions (model_id, version),
    CONSTRAINT endpoint_deployments_percent_check CHECK (percent BETWEEN 0 AND 100),
    CONSTRAINT endpoint_deployments_shadow_percent_check
        CHECK (shadow_percent BETWEEN 0 AND 100)
);

CREATE INDEX endpoint_deployments_version_idx
    ON tuner.endpoint_deployments (model_id, version);

-- The canary of an endpoint that runs or ran last, and what was counted since its step began: of
-- itself, and of the other versions.
CREATE TABLE tuner.canaries (
    endpoint_id text NOT NULL,
    version integer NOT NULL,
    steps integer[] NOT NULL,
    step_seconds double precision NOT NULL,
    min_requests integer NOT NULL,
    max_error_increase double precision NOT NULL,
    max_latency_ratio double precision NOT NULL,
    state text NOT NULL,
    step integer NOT NULL,
    step_start_time timestamptz NOT NULL,
    reason text NOT NULL,
    -- The percents before it began, by version: every step, and the way back, are made of these.
    percents_before json NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    latencies bigint[] NOT NULL DEFAULT '{}',
    other_requests bigint NOT NULL DEFAULT 0,
    other_errors bigint NOT NULL DEFAULT 0,
    other_latencies bigint[] NOT NULL DEFAULT '{}',
    CONSTRAINT canaries_pkey PRIMARY KEY (endpoint_id),
    CONSTRAINT canaries_endpoint_fkey
        FOREIGN KEY (endpoint_id) REFERENCES tuner.endpoints (endpoint_id) ON DELETE CASCADE,
    CONSTRAINT canaries_state_check
        CHECK (state IN ('RUNNING', 'SUCCEEDED', 'ROLLED_BACK', 'CANCELLED'))
);

-- Counts that were made by the same bounds, added place by place.
CREATE FUNCTION tuner.added(counts bigint[], more bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE
    AS $$
    SELECT coalesce(
        array_agg(coalesce(pair.a, 0) + coalesce(pair.b, 0) ORDER BY pair.place), '{}'
    )
    FROM unnest(counts, more) WITH ORDINALITY AS pair (a, b, place);
$$;

-- What each version did in each minute.
CREATE TABLE tuner.endpoint_traffic (
    endpoint_id text NOT NULL,
    minute timestamptz NOT NULL,
    version integer NOT NULL,
    -- Whether it was only asked, too.
    shadow boolean NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    differences bigint NOT NULL,
    latencies bigint[] NOT NULL,
    CONSTRAINT endpoint_traffic_pkey PRIMARY KEY (endpoint_id, minute, version, shadow),
    CONSTRAINT endpoint_traffic_endpoint_fkey
        FOREIGN KEY (endpoint_id) REFERENCES tuner.endpoints (endpoint_id) ON DELETE CASCADE
);

CREATE INDEX endpoint_traffic_minute_idx ON tuner.endpoint_traffic (minute);

-- The gateways that report. The times are this database's own.
CREATE TABLE tuner.gateways (
    gateway uuid NOT NULL,
    -- Of the last report that was counted.
    sequence bigint NOT NULL,
    host text NOT NULL,
    rest_address text NOT NULL,
    grpc_address text NOT NULL,
    -- By endpoint and version, as it said last.
    replicas json NOT NULL,
    -- It said that this was its last report.
    ended boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL,
    report_time timestamptz NOT NULL,
    CONSTRAINT gateways_pkey PRIMARY KEY (gateway)
) WITH (fillfactor = 50);

-- What was answered, for as long as results are waited for.
CREATE TABLE tuner.predictions (
    endpoint_id text NOT NULL,
    request text NOT NULL,
    version integer NOT NULL,
    time timestamptz NOT NULL,
    answer text NOT NULL,
    CONSTRAINT predictions_pkey PRIMARY KEY (endpoint_id, request),
    CONSTRAINT predictions_endpoint_fkey
        FOREIGN KEY (endpoint_id) REFERENCES tuner.endpoints (endpoint_id) ON DELETE CASCADE
);

CREATE INDEX predictions_time_idx ON tuner.predictions (endpoint_id, time);

-- What became of the rows of a prediction, by the name of the result.
CREATE TABLE tuner.prediction_results (
    endpoint_id text NOT NULL,
    request text NOT NULL,
    place integer NOT NULL,
    result text NOT NULL,
    value double precision NOT NULL,
    CONSTRAINT prediction_results_pkey PRIMARY KEY (endpoint_id, request, place, result),
    CONSTRAINT prediction_results_prediction_fkey
        FOREIGN KEY (endpoint_id, request)
        REFERENCES tuner.predictions (endpoint_id, request) ON DELETE CASCADE
);

-- All results that a version ever had; they outlive its predictions. The sums are exact, so that a
-- result which replaces another leaves nothing of it.
CREATE TABLE tuner.endpoint_results (
    endpoint_id text NOT NULL,
    version integer NOT NULL,
    result text NOT NULL,
    count bigint NOT NULL,
    total numeric NOT NULL,
    squares numeric NOT NULL,
    -- Whether the trial of the version has a label that says so.
    is_told boolean NOT NULL DEFAULT false,
    CONSTRAINT endpoint_results_pkey PRIMARY KEY (endpoint_id, version, result),
    CONSTRAINT endpoint_results_endpoint_fkey
        FOREIGN KEY (endpoint_id) REFERENCES tuner.endpoints (endpoint_id) ON DELETE CASCADE
);

CREATE INDEX endpoint_results_untold_idx ON tuner.endpoint_results (endpoint_id)
    WHERE NOT is_told;

-- What keeps a version from being deleted, for people; NULL: nothing does. Whatever comes to use
-- versions is added here.
CREATE FUNCTION tuner.version_use(model text, number integer) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    (
        SELECT 'the alias ' || model_aliases.alias || ' names it'
        FROM tuner.model_aliases
        WHERE model_aliases.model_id = model AND model_aliases.version = number
        ORDER BY model_aliases.alias
        LIMIT 1
    )
    UNION ALL
    (
        SELECT 'the endpoint ' || endpoint_deployments.endpoint_id || ' serves it'
        FROM tuner.endpoint_deployments
        WHERE endpoint_deployments.model_id = model AND endpoint_deployments.version = number
        ORDER BY endpoint_deployments.endpoint_id
        LIMIT 1
    )
    LIMIT 1;
$$;

-- Endpoints with what they serve, and with their canaries.
CREATE VIEW tuner.endpoint_summaries AS
    SELECT
        endpoints.*,
        coalesce(
            (
                SELECT json_agg(
                    json_build_object(
                        'version', endpoint_deployments.version,
                        'percent', endpoint_deployments.percent,
                        'shadow_percent', endpoint_deployments.shadow_percent,
                        'uri', model_versions.uri,
                        'sha256', model_versions.sha256,
                        'aliases', ARRAY(
                            SELECT model_aliases.alias
                            FROM tuner.model_aliases
                            WHERE model_aliases.model_id = endpoint_deployments.model_id
                                AND model_aliases.version = endpoint_deployments.version
                            ORDER BY model_aliases.alias
                        )
                    )
                    ORDER BY endpoint_deployments.version
                )
                FROM tuner.endpoint_deployments
                JOIN tuner.model_versions USING (model_id, version)
                WHERE endpoint_deployments.endpoint_id = endpoints.endpoint_id
            ),
            '[]'
        ) AS deployments,
        to_json(canaries) AS canary
    FROM tuner.endpoints
    LEFT JOIN tuner.canaries ON canaries.endpoint_id = endpoints.endpoint_id;

-- --- what is read together ----------------------------------------------------------------------

-- Studies with what follows from their trials.
CREATE VIEW tuner.study_summaries AS
    SELECT
        studies.study, studies.study_id, studies.state, studies.state_reason,
        studies.submitted, studies.spec, studies.managed, studies.space_version,
        studies.statistics, studies.exported_model_uri, studies.revision,
        studies.create_time, studies.update_time, studies.end_time,
        studies.owner, studies.epoch, studies.creator, studies.algorithm_in_use,
        counts.queued, counts.running, counts.succeeded, counts.pruned, counts.failed,
        counts.infeasible, counts.past, best.number AS best_trial,
        counts.worker_time, counts.cpu_time, counts.gpu_time
    FROM tuner.studies
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE trials.state = 'QUEUED') AS queued,
            count(*) FILTER (WHERE trials.state = 'RUNNING') AS running,
            count(*) FILTER (WHERE trials.state = 'SUCCEEDED') AS succeeded,
            count(*) FILTER (WHERE trials.state = 'PRUNED') AS pruned,
            count(*) FILTER (WHERE trials.state = 'FAILED') AS failed,
            count(*) FILTER (WHERE trials.state = 'INFEASIBLE') AS infeasible,
            count(*) FILTER (WHERE trials.origin = 'PAST') AS past,
            coalesce(sum(trials.worker_time), '0') AS worker_time,
            coalesce(sum(trials.cpu_time), '0') AS cpu_time,
            coalesce(sum(trials.gpu_time), '0') AS gpu_time
        FROM tuner.trials
        WHERE trials.study = studies.study
    ) AS counts
    LEFT JOIN LATERAL (
        SELECT trials.number
        FROM tuner.trials
        WHERE trials.study = studies.study
            AND trials.state IN ('SUCCEEDED', 'PRUNED')
            AND trials.score IS NOT NULL
        ORDER BY coalesce(-trials.score, 'Infinity'), trials.number
        LIMIT 1
    ) AS best ON true;
