-- A database of tuner 0.1.0 (schema 1): studies in every state, with trials in every state.

CREATE SCHEMA tuner;

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

CREATE FUNCTION tuner.must(holds boolean, reason text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'TN001', MESSAGE = reason;
    END IF;
END;
$$;

CREATE FUNCTION tuner.refuse_move() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TN002',
        MESSAGE = format('%s of %s cannot become %s', OLD.state, TG_TABLE_NAME, NEW.state);
END;
$$;

CREATE TABLE tuner.attempts (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    worker_id text NOT NULL,
    host text NOT NULL,
    start_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    failure_cause text,
    failure_message text,
    failure_stack text,
    failure_log_tail text,
    CONSTRAINT attempts_attempt_check CHECK ((attempt > 0)),
    CONSTRAINT attempts_failure_check CHECK (((failure_cause IS NULL) OR (end_time IS NOT NULL)))
);

CREATE TABLE tuner.measurements (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    step bigint NOT NULL,
    metric_names text[] NOT NULL,
    metric_values double precision[] NOT NULL,
    elapsed interval NOT NULL,
    report_time timestamp with time zone NOT NULL,
    CONSTRAINT measurements_metrics_check CHECK ((cardinality(metric_names) = cardinality(metric_values)))
);

CREATE TABLE tuner.migrations (
    version integer NOT NULL,
    name text NOT NULL,
    apply_time timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE tuner.requests (
    study bigint NOT NULL,
    request_id text NOT NULL,
    method text NOT NULL,
    answer bytea NOT NULL,
    create_time timestamp with time zone NOT NULL
);

CREATE TABLE tuner.spaces (
    study bigint NOT NULL,
    version integer NOT NULL,
    space json NOT NULL,
    create_time timestamp with time zone NOT NULL,
    CONSTRAINT spaces_version_check CHECK ((version > 0))
);

CREATE TABLE tuner.studies (
    study bigint NOT NULL,
    study_id text NOT NULL,
    state text NOT NULL,
    state_reason text NOT NULL,
    submitted json NOT NULL,
    spec json NOT NULL,
    managed boolean NOT NULL,
    space_version integer NOT NULL,
    statistics json,
    exported_model_uri text DEFAULT ''::text NOT NULL,
    revision bigint DEFAULT 1 NOT NULL,
    create_time timestamp with time zone NOT NULL,
    update_time timestamp with time zone NOT NULL,
    end_time timestamp with time zone,
    CONSTRAINT studies_end_time_check CHECK (((state = ANY (ARRAY['COMPLETED'::text, 'STOPPED'::text])) = (end_time IS NOT NULL))),
    CONSTRAINT studies_space_version_check CHECK (((space_version > 0) OR (state = ANY (ARRAY['PREPARING'::text, 'STOPPED'::text])))),
    CONSTRAINT studies_state_check CHECK ((state = ANY (ARRAY['PREPARING'::text, 'ACTIVE'::text, 'PAUSED'::text, 'COMPLETED'::text, 'STOPPED'::text])))
);

ALTER TABLE tuner.studies ALTER COLUMN study ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME tuner.studies_study_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE tuner.trials (
    study bigint NOT NULL,
    number integer NOT NULL,
    state text NOT NULL,
    parameters json NOT NULL,
    space_version integer NOT NULL,
    attempt integer NOT NULL,
    worker_id text,
    expire_time timestamp with time zone,
    final_step bigint,
    final_names text[],
    final_values double precision[],
    final_elapsed interval,
    score double precision,
    stop_requested boolean DEFAULT false NOT NULL,
    artifact_uri text DEFAULT ''::text NOT NULL,
    state_reason text DEFAULT ''::text NOT NULL,
    create_time timestamp with time zone NOT NULL,
    start_time timestamp with time zone,
    end_time timestamp with time zone,
    CONSTRAINT trials_end_time_check CHECK (((state = ANY (ARRAY['QUEUED'::text, 'RUNNING'::text])) = (end_time IS NULL))),
    CONSTRAINT trials_final_check CHECK ((NOT (cardinality(final_names) IS DISTINCT FROM cardinality(final_values)))),
    CONSTRAINT trials_lease_check CHECK ((((state = 'RUNNING'::text) = (worker_id IS NOT NULL)) AND ((state = 'RUNNING'::text) = (expire_time IS NOT NULL)) AND ((attempt > 0) OR (state = ANY (ARRAY['QUEUED'::text, 'FAILED'::text]))))),
    CONSTRAINT trials_number_check CHECK ((number >= 0)),
    CONSTRAINT trials_state_check CHECK ((state = ANY (ARRAY['QUEUED'::text, 'RUNNING'::text, 'SUCCEEDED'::text, 'PRUNED'::text, 'FAILED'::text, 'INFEASIBLE'::text])))
)
WITH (fillfactor='70');

CREATE VIEW tuner.study_summaries AS
 SELECT studies.study,
    studies.study_id,
    studies.state,
    studies.state_reason,
    studies.submitted,
    studies.spec,
    studies.managed,
    studies.space_version,
    studies.statistics,
    studies.exported_model_uri,
    studies.revision,
    studies.create_time,
    studies.update_time,
    studies.end_time,
    counts.queued,
    counts.running,
    counts.succeeded,
    counts.pruned,
    counts.failed,
    counts.infeasible,
    best.number AS best_trial
   FROM ((tuner.studies
     CROSS JOIN LATERAL ( SELECT count(*) FILTER (WHERE (trials.state = 'QUEUED'::text)) AS queued,
            count(*) FILTER (WHERE (trials.state = 'RUNNING'::text)) AS running,
            count(*) FILTER (WHERE (trials.state = 'SUCCEEDED'::text)) AS succeeded,
            count(*) FILTER (WHERE (trials.state = 'PRUNED'::text)) AS pruned,
            count(*) FILTER (WHERE (trials.state = 'FAILED'::text)) AS failed,
            count(*) FILTER (WHERE (trials.state = 'INFEASIBLE'::text)) AS infeasible
           FROM tuner.trials
          WHERE (trials.study = studies.study)) counts)
     LEFT JOIN LATERAL ( SELECT trials.number
           FROM tuner.trials
          WHERE ((trials.study = studies.study) AND (trials.state = ANY (ARRAY['SUCCEEDED'::text, 'PRUNED'::text])) AND (trials.score IS NOT NULL))
          ORDER BY trials.score DESC NULLS LAST, trials.number
         LIMIT 1) best ON (true));

CREATE TABLE tuner.trial_logs (
    study bigint NOT NULL,
    trial integer NOT NULL,
    attempt integer NOT NULL,
    log_offset bigint NOT NULL,
    text text NOT NULL,
    CONSTRAINT trial_logs_offset_check CHECK ((log_offset >= 0))
);

INSERT INTO tuner.attempts VALUES
	(1, 0, 1, 'ann', 'box', '2026-11-25 01:35:01.874429+00', '2026-11-25 01:35:01.887885+00', NULL, NULL, NULL, NULL),
	(1, 1, 1, 'bob', 'box', '2026-11-25 01:35:01.89011+00', '2026-11-25 01:35:01.895972+00', NULL, NULL, NULL, NULL),
	(1, 2, 1, 'cyd', 'box', '2026-11-25 01:35:01.897916+00', '2026-11-25 01:35:01.903555+00', NULL, NULL, NULL, NULL),
	(1, 3, 1, 'ann', 'box', '2026-11-25 01:35:01.905499+00', '2026-11-25 01:35:01.909169+00', 'USER_ERROR', 'boom', '', ''),
	(1, 3, 2, 'ann', 'box', '2026-11-25 01:35:01.911171+00', '2026-11-25 01:35:01.913912+00', 'USER_ERROR', 'boom again', '', ''),
	(1, 4, 1, 'ann', 'box', '2026-11-25 01:35:01.917401+00', '2026-11-25 01:35:01.920801+00', 'INFEASIBLE', 'no such layer', '', ''),
	(1, 5, 1, 'dan', 'box', '2026-11-25 01:35:01.92265+00', '2026-11-25 01:35:01.927902+00', 'PREEMPTED', 'given back', '', ''),
	(1, 5, 2, 'eve', 'box', '2026-11-25 01:35:01.929868+00', NULL, NULL, NULL, NULL, NULL),
	(2, 0, 1, 'x', 'box', '2026-11-25 01:35:01.942847+00', '2026-11-25 01:35:01.945579+00', NULL, NULL, NULL, NULL),
	(3, 0, 1, 'y', 'box', '2026-11-25 01:35:01.95693+00', '2026-11-25 01:35:01.962048+00', NULL, NULL, NULL, NULL);

INSERT INTO tuner.measurements VALUES
	(1, 0, 1, 1, '{auc,loss}', '{0.5,NaN}', '00:00:00', '2026-11-25 01:35:01.882391+00'),
	(1, 0, 1, 2, '{auc,loss}', '{0.75,Infinity}', '00:00:00', '2026-11-25 01:35:01.884768+00'),
	(1, 1, 1, 1, '{auc}', '{0.9}', '00:00:00', '2026-11-25 01:35:01.89379+00'),
	(1, 2, 1, 1, '{auc}', '{0.1}', '00:00:00', '2026-11-25 01:35:01.900726+00'),
	(1, 5, 1, 1, '{auc}', '{0.3}', '00:00:00', '2026-11-25 01:35:01.925526+00'),
	(1, 5, 2, 1, '{auc}', '{0.4}', '00:00:00', '2026-11-25 01:35:01.932087+00'),
	(3, 0, 1, 1, '{latency,loss}', '{3,0.25}', '00:00:00', '2026-11-25 01:35:01.95959+00');

INSERT INTO tuner.migrations VALUES
	(1, 'initial', '2026-11-25 01:35:01.83524+00');

INSERT INTO tuner.requests VALUES
	(1, '3b0e8f5c-8b4c-4a39-9d5f-6f5d6a4f1a01', 'CreateStudy', '\x0a10737475646965732f676f696e672d6f6e100222070a0361756310012abe010a270a0d6c6561726e696e675f72617465100318022212092d431cebe2361a3f119a9999999999b93f0a140a066c6179657273100118012a060801100418010a250a0562617463681003321a0a180000000000004040000000000000504000000000000060400a420a096f7074696d697a657210033a0f0a061a046164616d0a051a0373676442220a051a0373676412190a086d6f6d656e74756d10011801220911ae47e17a14aeef3f0a120a046269617310013a080a0220010a022000300142120a0374706512046e6f6e65180722037470654a04081410066a0b100121000000000000f03f8201009a010c08c5f698d80610c8c8eb9c03a2010c08c5f698d80610c8c8eb9c03b2010131ba010f0a047465616d12076772c3b6c39f65', '2026-11-25 01:35:01.865789+00'),
	(1, '3b0e8f5c-8b4c-4a39-9d5f-6f5d6a4f1a02', 'CompleteTrial', '\x0a19737475646965732f676f696e672d6f6e2f747269616c732f3010031a130a096f7074696d697a657212061a046164616d1a0c0a066c6179657273120210011a0a0a0462696173120220001a120a05626174636812090900000000000060401a1a0a0d6c6561726e696e675f72617465120909778f63057c7fb93f200128013a250802120f0a046c6f737311000000000000f07f120e0a0361756311000000000000e83f1a006a0c08c5f698d80610c8f4faa003720c08c5f698d80610c8f4faa0037a0c08c5f698d80610c899b0a703', '2026-11-25 01:35:01.887885+00');

INSERT INTO tuner.spaces VALUES
	(1, 1, '{"parameters": [{"name": "learning_rate", "group": "TRAINING", "scale": "LOG", "float_domain": {"low": 0.0001, "high": 0.1}}, {"name": "layers", "group": "MODEL", "scale": "LINEAR", "int_domain": {"low": "1", "high": "4", "step": "1"}}, {"name": "batch", "group": "TRAINING", "discrete_domain": {"values": [32.0, 64.0, 128.0]}}, {"name": "optimizer", "group": "TRAINING", "categorical_domain": {"choices": [{"string_value": "adam"}, {"string_value": "sgd"}]}, "children": [{"parent_values": [{"string_value": "sgd"}], "parameter": {"name": "momentum", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 0.99}}}]}, {"name": "bias", "group": "MODEL", "categorical_domain": {"choices": [{"bool_value": true}, {"bool_value": false}]}}]}', '2026-11-25 01:35:01.865789+00'),
	(2, 1, '{"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}', '2026-11-25 01:35:01.934898+00'),
	(3, 1, '{"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}', '2026-11-25 01:35:01.950021+00'),
	(4, 1, '{"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}', '2026-11-25 01:35:01.970478+00');

INSERT INTO tuner.studies OVERRIDING SYSTEM VALUE VALUES
	(1, 'going-on', 'ACTIVE', '', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {"parameters": [{"name": "learning_rate", "group": "TRAINING", "scale": "LOG", "float_domain": {"low": 0.0001, "high": 0.1}}, {"name": "layers", "group": "MODEL", "scale": "LINEAR", "int_domain": {"low": "1", "high": "4", "step": "1"}}, {"name": "batch", "group": "TRAINING", "discrete_domain": {"values": [32.0, 64.0, 128.0]}}, {"name": "optimizer", "group": "TRAINING", "categorical_domain": {"choices": [{"string_value": "adam"}, {"string_value": "sgd"}]}, "children": [{"parent_values": [{"string_value": "sgd"}], "parameter": {"name": "momentum", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 0.99}}}]}, {"name": "bias", "group": "MODEL", "categorical_domain": {"choices": [{"bool_value": true}, {"bool_value": false}]}}]}, "search": {"algorithm": "tpe", "early_stopping": "none", "seed": "7"}, "limits": {"trials": 20, "parallel": 6}, "resources": {"workers": 1, "cpus_per_worker": 1.0}, "labels": {"team": "gr\u00f6\u00dfe"}}', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {"parameters": [{"name": "learning_rate", "group": "TRAINING", "scale": "LOG", "float_domain": {"low": 0.0001, "high": 0.1}}, {"name": "layers", "group": "MODEL", "scale": "LINEAR", "int_domain": {"low": "1", "high": "4", "step": "1"}}, {"name": "batch", "group": "TRAINING", "discrete_domain": {"values": [32.0, 64.0, 128.0]}}, {"name": "optimizer", "group": "TRAINING", "categorical_domain": {"choices": [{"string_value": "adam"}, {"string_value": "sgd"}]}, "children": [{"parent_values": [{"string_value": "sgd"}], "parameter": {"name": "momentum", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 0.99}}}]}, {"name": "bias", "group": "MODEL", "categorical_domain": {"choices": [{"bool_value": true}, {"bool_value": false}]}}]}, "search": {"algorithm": "tpe", "early_stopping": "none", "seed": "7"}, "limits": {"trials": 20, "parallel": 6}, "resources": {"workers": 1, "cpus_per_worker": 1.0}, "labels": {"team": "gr\u00f6\u00dfe"}}', false, 1, NULL, '', 1, '2026-11-25 01:35:01.865789+00', '2026-11-25 01:35:01.865789+00', NULL),
	(2, 'done', 'COMPLETED', 'all 1 trials have ended', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 1}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 1}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', false, 1, NULL, '', 2, '2026-11-25 01:35:01.934898+00', '2026-11-25 01:35:01.945579+00', '2026-11-25 01:35:01.945579+00'),
	(3, 'stopped', 'STOPPED', 'enough', '{"metrics": [{"name": "loss", "goal": "MINIMIZE"}, {"name": "latency", "goal": "MINIMIZE"}], "space": {"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 5}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', '{"metrics": [{"name": "loss", "goal": "MINIMIZE"}, {"name": "latency", "goal": "MINIMIZE"}], "space": {"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 5}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', false, 1, NULL, '', 2, '2026-11-25 01:35:01.950021+00', '2026-11-25 01:35:01.964436+00', '2026-11-25 01:35:01.964436+00'),
	(4, 's', 'ACTIVE', '', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 100}, "trainer": {"kind": "tabular"}, "data": {"train_uri": "a.csv", "validation_fraction": 0.2, "label": "y"}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {"parameters": [{"name": "x", "group": "MODEL", "scale": "LINEAR", "float_domain": {"high": 1.0}}]}, "settings": {"epochs": {"int_value": "3"}}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 100}, "trainer": {"kind": "tabular"}, "data": {"train_uri": "a.csv", "validation_fraction": 0.2, "label": "y"}, "features": [{"name": "age", "kind": "numeric", "columns": ["age"]}], "resources": {"workers": 1, "cpus_per_worker": 1.0}}', true, 1, '{"fingerprint": "f", "uri": "u", "rows": 7}', '', 2, '2026-11-25 01:35:01.966785+00', '2026-11-25 01:35:01.970478+00', NULL),
	(5, 'preparing', 'PREPARING', '', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 100}, "trainer": {"kind": "tabular"}, "data": {"train_uri": "a.csv", "validation_fraction": 0.2, "label": "y"}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', '{"metrics": [{"name": "auc", "goal": "MAXIMIZE"}], "space": {}, "search": {"algorithm": "random", "early_stopping": "none"}, "limits": {"trials": 100}, "trainer": {"kind": "tabular"}, "data": {"train_uri": "a.csv", "validation_fraction": 0.2, "label": "y"}, "resources": {"workers": 1, "cpus_per_worker": 1.0}}', true, 0, NULL, '', 1, '2026-11-25 01:35:01.973029+00', '2026-11-25 01:35:01.973029+00', NULL);

INSERT INTO tuner.trial_logs VALUES
	(1, 0, 1, 0, 'epoch 1
'),
	(1, 0, 1, 8, 'epoch 2: “gut”
');

INSERT INTO tuner.trials VALUES
	(1, 0, 'SUCCEEDED', '{"learning_rate": 0.09960150844159253, "layers": 1, "batch": 128.0, "optimizer": "adam", "bias": false}', 1, 1, NULL, NULL, 2, '{auc,loss}', '{0.75,Infinity}', '00:00:00', 0.75, false, '', '', '2026-11-25 01:35:01.874429+00', '2026-11-25 01:35:01.874429+00', '2026-11-25 01:35:01.887885+00'),
	(1, 1, 'SUCCEEDED', '{"learning_rate": 0.0016307568498910878, "layers": 4, "batch": 32.0, "optimizer": "adam", "bias": false}', 1, 1, NULL, NULL, 0, '{auc}', '{0.91}', '00:00:00', 0.91, false, '', '', '2026-11-25 01:35:01.89011+00', '2026-11-25 01:35:01.89011+00', '2026-11-25 01:35:01.895972+00'),
	(1, 2, 'PRUNED', '{"learning_rate": 0.000916737378204558, "layers": 2, "batch": 32.0, "optimizer": "adam", "bias": true}', 1, 1, NULL, NULL, 1, '{auc}', '{0.1}', '00:00:00', 0.1, true, '', 'a user asked it to stop', '2026-11-25 01:35:01.897916+00', '2026-11-25 01:35:01.897916+00', '2026-11-25 01:35:01.903555+00'),
	(1, 3, 'FAILED', '{"learning_rate": 0.0023698492812921045, "layers": 1, "batch": 64.0, "optimizer": "adam", "bias": false}', 1, 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, '', 'boom again', '2026-11-25 01:35:01.905499+00', '2026-11-25 01:35:01.911171+00', '2026-11-25 01:35:01.913912+00'),
	(1, 4, 'INFEASIBLE', '{"learning_rate": 0.0004303679795002031, "layers": 3, "batch": 32.0, "optimizer": "adam", "bias": false}', 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, '', 'no such layer', '2026-11-25 01:35:01.917401+00', '2026-11-25 01:35:01.917401+00', '2026-11-25 01:35:01.920801+00'),
	(1, 5, 'RUNNING', '{"learning_rate": 0.0065487572950312985, "layers": 2, "batch": 32.0, "optimizer": "adam", "bias": true}', 1, 2, 'eve', '2026-11-25 01:35:31.932087+00', 1, '{auc}', '{0.4}', '00:00:00', 0.4, false, '', '', '2026-11-25 01:35:01.92265+00', '2026-11-25 01:35:01.929868+00', NULL),
	(2, 0, 'SUCCEEDED', '{"x": 0.6369616873214543}', 1, 1, NULL, NULL, 0, '{auc}', '{0.5}', '00:00:00', 0.5, false, '', '', '2026-11-25 01:35:01.942847+00', '2026-11-25 01:35:01.942847+00', '2026-11-25 01:35:01.945579+00'),
	(3, 0, 'SUCCEEDED', '{"x": 0.6369616873214543}', 1, 1, NULL, NULL, 1, '{latency,loss}', '{3,0.25}', '00:00:00', -0.25, false, '', '', '2026-11-25 01:35:01.95693+00', '2026-11-25 01:35:01.95693+00', '2026-11-25 01:35:01.962048+00');

SELECT pg_catalog.setval('tuner.studies_study_seq', 6, true);

ALTER TABLE ONLY tuner.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (study, trial, attempt);

ALTER TABLE ONLY tuner.measurements
    ADD CONSTRAINT measurements_pkey PRIMARY KEY (study, trial, attempt, step);

ALTER TABLE ONLY tuner.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY tuner.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (study, request_id, method);

ALTER TABLE ONLY tuner.spaces
    ADD CONSTRAINT spaces_pkey PRIMARY KEY (study, version);

ALTER TABLE ONLY tuner.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study);

ALTER TABLE ONLY tuner.studies
    ADD CONSTRAINT studies_study_id_key UNIQUE (study_id);

ALTER TABLE ONLY tuner.trial_logs
    ADD CONSTRAINT trial_logs_pkey PRIMARY KEY (study, trial, attempt, log_offset);

ALTER TABLE ONLY tuner.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (study, number);

CREATE INDEX trials_score_idx ON tuner.trials USING btree (study, score DESC NULLS LAST, number);

CREATE TRIGGER studies_move BEFORE UPDATE OF state ON tuner.studies FOR EACH ROW WHEN (((old.state <> new.state) AND (NOT tuner.is_study_move(old.state, new.state)))) EXECUTE FUNCTION tuner.refuse_move();

CREATE TRIGGER trials_move BEFORE UPDATE OF state ON tuner.trials FOR EACH ROW WHEN (((old.state <> new.state) AND (NOT tuner.is_trial_move(old.state, new.state)))) EXECUTE FUNCTION tuner.refuse_move();

ALTER TABLE ONLY tuner.attempts
    ADD CONSTRAINT attempts_trial_fkey FOREIGN KEY (study, trial) REFERENCES tuner.trials(study, number) ON DELETE CASCADE;

ALTER TABLE ONLY tuner.measurements
    ADD CONSTRAINT measurements_attempt_fkey FOREIGN KEY (study, trial, attempt) REFERENCES tuner.attempts(study, trial, attempt) ON DELETE CASCADE;

ALTER TABLE ONLY tuner.requests
    ADD CONSTRAINT requests_study_fkey FOREIGN KEY (study) REFERENCES tuner.studies(study) ON DELETE CASCADE;

ALTER TABLE ONLY tuner.spaces
    ADD CONSTRAINT spaces_study_fkey FOREIGN KEY (study) REFERENCES tuner.studies(study) ON DELETE CASCADE;

ALTER TABLE ONLY tuner.trial_logs
    ADD CONSTRAINT trial_logs_attempt_fkey FOREIGN KEY (study, trial, attempt) REFERENCES tuner.attempts(study, trial, attempt) ON DELETE CASCADE;

ALTER TABLE ONLY tuner.trials
    ADD CONSTRAINT trials_space_fkey FOREIGN KEY (study, space_version) REFERENCES tuner.spaces(study, version) ON DELETE CASCADE;
