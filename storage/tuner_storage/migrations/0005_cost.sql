-- What attempts cost, and with them trials and studies.

ALTER TABLE tuner.attempts
    ADD COLUMN worker_time interval NOT NULL DEFAULT '0',
    ADD COLUMN cpu_time interval NOT NULL DEFAULT '0',
    ADD COLUMN gpu_time interval NOT NULL DEFAULT '0';

ALTER TABLE tuner.trials
    ADD COLUMN worker_time interval NOT NULL DEFAULT '0',
    ADD COLUMN cpu_time interval NOT NULL DEFAULT '0',
    ADD COLUMN gpu_time interval NOT NULL DEFAULT '0';

-- As far as it is known: what a study asks for now, its attempts had before. Which CPUs a script uses nobody
-- knows.
WITH held AS (
    SELECT
        study,
        CASE
            WHEN spec #>> '{resources,strategy}' = 'single' THEN 1
            ELSE coalesce((spec #>> '{resources,workers}')::integer, 1)
                + coalesce((spec #>> '{resources,parameter_servers}')::integer, 0)
        END AS processes,
        CASE
            WHEN NOT managed THEN 0
            ELSE coalesce((spec #>> '{resources,cpus_per_worker}')::double precision, 1)
        END AS cpus,
        CASE
            WHEN NOT managed THEN 0
            ELSE coalesce((spec #>> '{resources,gpus_per_worker}')::double precision, 0)
        END AS gpus
    FROM tuner.studies
)
UPDATE tuner.attempts
SET worker_time = (end_time - start_time) * held.processes,
    cpu_time = (end_time - start_time) * held.processes * held.cpus,
    gpu_time = (end_time - start_time) * held.processes * held.gpus
FROM held
WHERE attempts.study = held.study AND attempts.end_time IS NOT NULL;

UPDATE tuner.trials
SET worker_time = spent.worker_time, cpu_time = spent.cpu_time, gpu_time = spent.gpu_time
FROM (
    SELECT
        study, trial, sum(worker_time) AS worker_time, sum(cpu_time) AS cpu_time,
        sum(gpu_time) AS gpu_time
    FROM tuner.attempts
    GROUP BY study, trial
) AS spent
WHERE trials.study = spent.study
    AND trials.number = spent.trial
    AND spent.worker_time > '0';

DROP VIEW tuner.study_summaries;

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
