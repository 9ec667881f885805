"""Fits y = 3x by gradient descent; knows nothing of what tunes it."""

from __future__ import annotations

import argparse
import json
import os
import random
import time

import hypertune


def get_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job-dir", required=True)
    parser.add_argument("--num-epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--offset", type=float, default=0.0)
    parser.add_argument("--optimizer", choices=["sgd", "momentum"], required=True)
    parser.add_argument("--momentum", type=float, default=0.0)
    return parser.parse_args()


def main() -> None:
    args = get_args()
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    print(f"{task['type']} {task['index']} of trial {task['trial']} trains")
    draw, weight, speed = random.Random(1), 0.0, 0.0
    reporter = hypertune.HyperTune()
    for epoch in range(1, args.num_epochs + 1):
        for _ in range(10):
            xs = [draw.uniform(-1, 1) for _ in range(args.batch_size)]
            slope = sum(2 * x * (weight - 3) * x for x in xs) / len(xs)
            speed = args.momentum * speed - args.learning_rate * slope
            weight += speed
        reporter.report_hyperparameter_tuning_metric(
            hyperparameter_metric_tag="error",
            metric_value=abs(weight - 3) + abs(args.offset),
            global_step=epoch,
        )
        time.sleep(0.01)
    os.makedirs(args.job_dir, exist_ok=True)
    with open(os.path.join(args.job_dir, "model.json"), "w") as file:
        json.dump({"weight": weight, "batch_size": args.batch_size}, file)


if __name__ == "__main__":
    main()
