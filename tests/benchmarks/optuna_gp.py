"""Optuna's Gaussian process for the benchmark of suggestions; needs optuna, scipy and torch alone.

Reads lines of JSON: first the space and the past trials with their values; then for each "ask",
to which it answers with CPU seconds and parameters, the value of these.
"""

import json
import sys
import time

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def main() -> None:
    """Suggests as often as it is asked."""
    import torch

    torch.set_num_threads(1)
    described, past = json.loads(sys.stdin.readline())
    space = {n: optuna.distributions.json_to_distribution(d) for n, d in described.items()}
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=0))
    for params, value in past:
        done = optuna.trial.create_trial(params=params, distributions=space, value=value)
        study.add_trial(done)
    while sys.stdin.readline():
        start = time.process_time()
        trial = study.ask(space)
        spent = time.process_time() - start
        print(json.dumps([spent, trial.params]), flush=True)
        study.tell(trial, json.loads(sys.stdin.readline()))


if __name__ == "__main__":
    main()
