-- What is known of data sets, under their fingerprints.

CREATE TABLE tuner.statistics (
    fingerprint text NOT NULL,
    row_count bigint NOT NULL,
    content bytea NOT NULL,
    update_time timestamptz NOT NULL,
    use_time timestamptz NOT NULL,
    CONSTRAINT statistics_pkey PRIMARY KEY (fingerprint),
    CONSTRAINT statistics_row_count_check CHECK (row_count >= 0)
);

ALTER TABLE tuner.statistics ALTER COLUMN content SET STORAGE EXTERNAL;
