-- Several servers on one database, callers with tokens, trials of the user's own, checkpoints.

CREATE TABLE tuner.servers (
    server uuid NOT NULL,
    address text NOT NULL,
    start_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    CONSTRAINT servers_pkey PRIMARY KEY (server)
);

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

CREATE TABLE tuner.audit (
    entry bigint GENERATED ALWAYS AS IDENTITY,
    time timestamptz NOT NULL,
    caller text NOT NULL,
    method text NOT NULL,
    resource text NOT NULL,
    request text NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (entry)
);

ALTER TABLE tuner.studies
    ADD COLUMN owner uuid,
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN creator text NOT NULL DEFAULT '',
    ADD COLUMN algorithm_in_use text NOT NULL DEFAULT '';

CREATE INDEX studies_owner_idx ON tuner.studies (owner);

ALTER TABLE tuner.trials
    ADD COLUMN origin text NOT NULL DEFAULT 'PROPOSED',
    ADD COLUMN labels json NOT NULL DEFAULT '{}',
    ADD COLUMN checkpoint_uri text,
    ADD COLUMN checkpoint_step bigint,
    ADD COLUMN within_constraints boolean,
    ADD CONSTRAINT trials_origin_check CHECK (origin IN ('PROPOSED', 'GIVEN', 'PAST')),
    ADD CONSTRAINT trials_checkpoint_check
        CHECK ((checkpoint_uri IS NULL) = (checkpoint_step IS NULL));

CREATE INDEX trials_running_idx ON tuner.trials (study) WHERE state = 'RUNNING';

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

-- The answer to a DeleteStudy outlives the study: it is kept under study 0.
ALTER TABLE tuner.requests DROP CONSTRAINT requests_study_fkey;

DROP INDEX tuner.trials_score_idx;

CREATE INDEX trials_best_idx ON tuner.trials (study, coalesce(-score, 'Infinity'), number);

DROP VIEW tuner.study_summaries;

CREATE VIEW tuner.study_summaries AS
    SELECT
        studies.study, studies.study_id, studies.state, studies.state_reason,
        studies.submitted, studies.spec, studies.managed, studies.space_version,
        studies.statistics, studies.exported_model_uri, studies.revision,
        studies.create_time, studies.update_time, studies.end_time,
        studies.owner, studies.epoch, studies.creator, studies.algorithm_in_use,
        counts.queued, counts.running, counts.succeeded, counts.pruned, counts.failed,
        counts.infeasible, counts.past, best.number AS best_trial
    FROM tuner.studies
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE trials.state = 'QUEUED') AS queued,
            count(*) FILTER (WHERE trials.state = 'RUNNING') AS running,
            count(*) FILTER (WHERE trials.state = 'SUCCEEDED') AS succeeded,
            count(*) FILTER (WHERE trials.state = 'PRUNED') AS pruned,
            count(*) FILTER (WHERE trials.state = 'FAILED') AS failed,
            count(*) FILTER (WHERE trials.state = 'INFEASIBLE') AS infeasible,
            count(*) FILTER (WHERE trials.origin = 'PAST') AS past
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
