-- Endpoints: what they serve, their traffic, their gateways, and what became of predictions.

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

-- What keeps a version from being deleted, for people; NULL: nothing does. Endpoints are
-- new in it.
CREATE OR REPLACE FUNCTION tuner.version_use(model text, number integer) RETURNS text
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
