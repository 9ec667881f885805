-- The registry: models, their versions and aliases.

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

-- What keeps a version from being deleted, for people; NULL: nothing does. Whatever comes to use
-- versions is added here.
CREATE FUNCTION tuner.version_use(model text, number integer) RETURNS text
    LANGUAGE sql STABLE
    AS $$
    SELECT 'the alias ' || model_aliases.alias || ' names it'
    FROM tuner.model_aliases
    WHERE model_aliases.model_id = model AND model_aliases.version = number
    ORDER BY model_aliases.alias
    LIMIT 1;
$$;

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
