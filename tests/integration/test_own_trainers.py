"""Trainers of the user's own, run as managed studies: a real study server, a real Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.integration.studies import write_rows
from tests.integration.test_runner import Crew, training_pids, until
from tuner import code, study_file
from tuner.client import Client, Study
from tuner.config import Settings
from tuner.errors import DataError
from tuner.registry import Source, export_to
from tuner.runner.cluster import Cluster
from tuner.service import StudyServer
from tuner.study import Cause, StudyState, TrialState
from tuner_trainers import layout

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]

CLOUD = REPOSITORY / "tests" / "integration" / "cloud"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("data")
    return Settings(data_dir=folder, server_port=0, cpus=3, lease_seconds=5)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[StudyServer]:
    with StudyServer(settings) as server:
        yield server


@pytest.fixture(scope="module")
def crew(settings: Settings, server: StudyServer) -> Iterator[Crew]:
    with Cluster(settings) as cluster:
        crew = Crew(replace(settings, server=server.address), cluster)
        yield crew
        crew.stop()


@pytest.fixture
def submit(
    crew: Crew, server: StudyServer, settings: Settings, tmp_path: Path
) -> Iterator[Callable[[str], Study]]:
    """Submits the text of a study file that lies in the test's folder."""
    with Client(server.address) as client:

        def make(text: str) -> Study:
            path = tmp_path / "study.yaml"
            path.write_text(textwrap.dedent(text))
            study_id, spec = study_file.load(path)
            return client.create(study_id, code.ship(spec, settings.artifacts_dir))

        yield make


def job_of(study: Study, number: int) -> Path:
    return Path(study.trial(number).record.artifact_uri)


def trial_folder(settings: Settings, study: Study, number: int = 0) -> Path:
    trials = settings.artifacts_dir / "studies" / study.study_id / "trials"
    return trials / str(number)


def log_of(study: Study, number: int) -> str:
    return "".join(part for _, part in study.log(number))


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# --- programs --------------------------------------------------------------------------------


def test_a_trainer_of_cloud_ml_engine_runs_as_it_is(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    shutil.copytree(CLOUD, tmp_path / "cloud")
    study = submit(
        """
        study: cloud
        metric: {name: error, goal: minimize}
        trainer: {program: "python -m trainer.task --num-epochs 4", code: cloud}
        parameters:
          learning_rate: {float: [0.001, 0.5], log: true}
          batch_size: {discrete: [8, 16]}
          offset: {float: [-1.0e-6, -1.0e-7]}
          optimizer:
            categorical: [sgd, momentum]
            when: {momentum: {momentum: {float: [0, 0.9]}}}
        search: {algorithm: random, seed: 3, early_stopping: none}
        limits: {trials: 3, parallel: 2}
        """
    )
    assert study.wait(120) is StudyState.COMPLETED, study.record
    for trial in study.trials(full=True):
        failures = [attempt.failure for attempt in trial.record.attempts]
        assert trial.state is TrialState.SUCCEEDED, failures
        assert [measurement.step for measurement in trial.measurements] == [1, 2, 3, 4]
        kept = json.loads((job_of(study, trial.number) / "model.json").read_text())
        assert kept["batch_size"] == trial.parameters["batch_size"]
        assert f"chief 0 of trial {trial.number} trains" in log_of(study, trial.number)
    assert study.best().value == min(trial.metrics["error"] for trial in study.trials())


def program(tmp_path: Path, body: str) -> None:
    """Writes `task.py`, a program that can report."""
    (tmp_path / "task.py").write_text(
        "import json, os, signal, subprocess, sys, time\n"
        "arguments = dict(word[2:].split('=', 1) for word in sys.argv[1:])\n"
        "folder = arguments['job-dir']\n"
        "config = json.loads(os.environ['TF_CONFIG'])\n"
        "def report(step, **metrics):\n"
        "    with open(os.environ['CLOUD_ML_HP_METRIC_FILE'], 'a') as file:\n"
        "        for name, value in metrics.items():\n"
        "            record = {name: str(value), 'global_step': str(step)}\n"
        "            file.write(json.dumps(record) + '\\n')\n" + textwrap.dedent(body)
    )


PROGRAM = """
study: {name}
metric: {{name: score}}
trainer: {{program: python task.py, code: task.py}}
parameters: {{x: {{float: [0, 1]}}}}
search: {{algorithm: random, seed: 1, early_stopping: {rule}}}
limits: {{trials: {trials}}}
resources: {{workers: {workers}, parameter_servers: {servers}}}
"""


def text(
    name: str, *, trials: int = 1, rule: str = "none", workers: int = 1, servers: int = 0
) -> str:
    return PROGRAM.format(name=name, trials=trials, rule=rule, workers=workers, servers=servers)


def test_a_program_that_fails_says_why(submit: Callable[[str], Study], tmp_path: Path) -> None:
    program(
        tmp_path, "report(1, score=1)\nprint('so far, so good')\nraise ValueError('x is odd')\n"
    )
    study = submit(text("failing"))
    study.wait(120)
    trial = study.trial(0)
    assert trial.state is TrialState.FAILED
    failure = trial.record.attempts[0].failure
    assert failure is not None and failure.cause is Cause.USER_ERROR
    assert failure.message == "the program ended with exit code 1: ValueError: x is odd"
    assert "so far, so good\nTraceback" in failure.log_tail


def test_a_program_that_measures_nothing_says_so(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    program(tmp_path, "report(1, loss=1)\n")
    study = submit(text("silent"))
    study.wait(120)
    failure = study.trial(0).record.attempts[0].failure
    assert failure is not None and failure.cause is Cause.USER_ERROR
    assert "reported loss, but a result needs score" in failure.message


def test_a_killed_worker_takes_its_program_along_and_the_next_attempt_goes_on(
    submit: Callable[[str], Study], settings: Settings, tmp_path: Path
) -> None:
    program(
        tmp_path,
        """
        state = os.path.join(folder, "state")
        step = int(open(state).read()) if os.path.exists(state) else 0
        print("starts after step", step)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if step == 0:
            open(state, "w").write("5")
            report(5, score=0.5)
            open(os.path.join(folder, "pids"), "w").write(f"{os.getpid()} {child.pid}\\n")
            time.sleep(1000)
        report(step + 1, score=0.7)
        """,
    )
    study = submit(text("resumed"))
    until(lambda: list(study.trials()) and study.trial(0).measurements)
    (worker,) = training_pids()
    job = next(trial_folder(settings, study).glob("job-*"))
    until(lambda: (job / "pids").exists())
    pids = [int(word) for word in (job / "pids").read_text().split()]
    assert all(map(is_alive, pids))
    os.kill(worker, signal.SIGKILL)
    assert study.wait(120) is StudyState.COMPLETED
    trial = study.trial(0)
    assert trial.state is TrialState.SUCCEEDED and trial.record.attempt == 2
    assert [measurement.step for measurement in trial.measurements] == [6]
    assert trial.record.artifact_uri == str(job)
    assert not any(map(is_alive, pids)), "the second attempt waits for the first one's end"
    assert "starts after step 5" in log_of(study, 0)


def test_a_program_that_is_stopped_early_may_tidy_up(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    program(
        tmp_path,
        """
        trial = int(os.environ["CLOUD_ML_TRIAL_ID"])
        def stop(*_):
            print("was told to stop", flush=True)
            sys.exit(7)
        signal.signal(signal.SIGTERM, stop)
        for step in range(1, 40):
            report(step, score=1 - trial / 10 + step / 1000)
            time.sleep(0.25 if trial > 4 else 0.02)
        """,
    )
    study = submit(text("stopped", trials=6, rule="median"))
    assert study.wait(200) is StudyState.COMPLETED
    last = study.trial(5)
    assert last.state is TrialState.PRUNED, last.record
    assert "was told to stop" in log_of(study, 5)
    assert len(last.measurements) < 39


def test_the_tasks_of_a_program_know_each_other_and_end_with_the_chief(
    submit: Callable[[str], Study], settings: Settings, tmp_path: Path
) -> None:
    program(
        tmp_path,
        """
        name = config["task"]["type"] + str(config["task"]["index"])
        open(os.path.join(folder, name), "w").write(f"{os.getpid()} {json.dumps(config)}")
        names = ["chief0", "worker0", "ps0"]
        while not all(os.path.exists(os.path.join(folder, each)) for each in names):
            time.sleep(0.05)
        if name == "chief0":
            report(1, score=1)
        elif name == "ps0":
            time.sleep(1000)
        """,
    )
    study = submit(text("together", workers=2, servers=1))
    assert study.wait(120) is StudyState.COMPLETED, study.record
    assert study.trial(0).state is TrialState.SUCCEEDED
    found = {}
    for name in ("chief0", "worker0", "ps0"):
        pid, _, config = (job_of(study, 0) / name).read_text().partition(" ")
        assert not is_alive(int(pid))
        found[name] = json.loads(config)
    cluster = found["chief0"]["cluster"]
    assert {kind: len(places) for kind, places in cluster.items()} == {
        "chief": 1,
        "worker": 1,
        "ps": 1,
    }
    assert all(config["cluster"] == cluster for config in found.values())
    assert len({place for places in cluster.values() for place in places}) == 3
    assert not list(trial_folder(settings, study).glob("meeting-*"))


def test_a_task_that_fails_ends_the_others(
    submit: Callable[[str], Study], settings: Settings, tmp_path: Path
) -> None:
    program(
        tmp_path,
        """
        open(os.path.join(folder, config["task"]["type"]), "w").write(str(os.getpid()))
        if config["task"]["type"] == "worker":
            sys.exit("out of sorts")
        time.sleep(1000)
        """,
    )
    study = submit(text("broken", workers=2))
    study.wait(120)
    failures = [attempt.failure for attempt in study.trial(0).record.attempts]
    assert "out of sorts" in str(failures[0])
    pids = [int(path.read_text()) for path in trial_folder(settings, study).glob("job-*/[cw]*")]
    assert pids
    until(lambda: not any(map(is_alive, pids)))


# --- objects of a module ---------------------------------------------------------------------

WAVE = """
VERSION = {version}
class Trainer:
    def space(self, trial):
        for layer in range(trial.int("layers", 1, 3)):
            trial.int(f"units_{{layer}}", 4, 64)
    def train(self, context, parameters):
        import os
        from helper import doubled
        (context.artifact_dir / "notes").write_text(f"seed {{context.seed}}")
        for step in range(1, 4):
            told = {{"score": doubled(VERSION) + step, "pid": os.getpid()}}
            if not context.report(step, told):
                return
"""
MODULE = """
study: {name}
metric: {{name: score}}
trainer: {trainer}
search: {{algorithm: random, seed: 4, early_stopping: none}}
limits: {{trials: 2}}
resources: {{workers: {workers}}}
"""


def test_a_class_trains_and_its_space_is_found(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    values, pids = [], set()
    for version in (1, 2):
        folder = tmp_path / str(version)
        folder.mkdir()
        (folder / "wave.py").write_text(WAVE.format(version=version))
        (folder / "helper.py").write_text(f"def doubled(x): return x * {version}")
        trainer = f"{{module: wave:Trainer, code: {version}}}"
        study = submit(MODULE.format(name=f"wave-{version}", trainer=trainer, workers=1))
        assert study.wait(200) is StudyState.COMPLETED, study.record
        assert study.record.statistics is None
        names = {parameter.name for parameter in study.record.spec.space.walk()}
        assert names == {"layers", "units_0", "units_1", "units_2"}
        for trial in study.trials(full=True):
            failures = [attempt.failure for attempt in trial.record.attempts]
            assert trial.state is TrialState.SUCCEEDED, failures
            assert [measurement.step for measurement in trial.measurements] == [1, 2, 3]
            assert f"units_{int(trial.parameters['layers']) - 1}" in trial.parameters
            assert (job_of(study, trial.number) / "notes").read_text() == "seed 4"
            values.append(trial.value)
            pids.add(trial.metrics["pid"])
    assert values == [4, 4, 7, 7], "each study runs the modules that it brought"
    assert len(pids) == 1, "on one warm gang"


def test_workers_of_a_class_train_in_step_and_stop_together(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    (tmp_path / "steps.py").write_text(
        textwrap.dedent(
            """
            class Trainer:
                def train(self, context, parameters):
                    step, go_on = 0, True
                    while go_on and step < 50:
                        step += 1
                        go_on = context.report(step, {"score": step - 100 * context.trial})
                    (context.artifact_dir.parent / f"rank{context.rank}").write_text(str(step))
            """
        )
    )
    asked = MODULE.format(name="in-step", trainer="steps:Trainer", workers=2)
    asked = asked.replace("early_stopping: none", "early_stopping: median")
    asked = asked.replace("trials: 2", "trials: 6") + "parameters: {x: {float: [0, 1]}}\n"
    study = submit(asked)
    assert study.wait(200) is StudyState.COMPLETED, study.record
    for number, state in ((0, TrialState.SUCCEEDED), (5, TrialState.PRUNED)):
        trial = study.trial(number)
        assert trial.state is state, trial.record
        steps = [(job_of(study, number).parent / f"rank{rank}").read_text() for rank in (0, 1)]
        assert steps[0] == steps[1] == str(len(trial.measurements))


def test_what_a_class_raises_is_kept_with_its_stack(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    (tmp_path / "faulty.py").write_text(
        "class Trainer:\n"
        "    def train(self, context, parameters):\n"
        "        self.deeper(parameters)\n"
        "    def deeper(self, parameters):\n"
        "        raise KeyError('units')\n"
    )
    asked = MODULE.format(name="faulty", trainer="faulty:Trainer", workers=1)
    study = submit(asked + "parameters: {x: {float: [0, 1]}}\n")
    study.wait(120)
    failure = study.trial(0).record.attempts[0].failure
    assert failure is not None and failure.cause is Cause.USER_ERROR
    assert failure.message == "KeyError: 'units'"
    assert "in deeper" in failure.stack and "faulty.py" in failure.stack


def test_a_trainer_that_cannot_be_used_is_refused_in_a_line(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text("import no_such_library\n")
    study = submit(MODULE.format(name="odd", trainer="odd:Trainer", workers=1))
    with pytest.raises(DataError, match="odd imports 'no_such_library', which is not installed"):
        study.wait_prepared(100)


# --- functions that build a network ----------------------------------------------------------

BUILD = """
import keras

def build(trial, inputs):
    x = inputs
    for layer in range(trial.int("layers", 1, 2)):
        x = keras.layers.Dense(trial.int(f"units_{layer}", 4, 8))(x)
        x = Bend(trial.choice("shape", ["relu", "tanh"]))(x)

    @trial.after_epoch
    def note(epoch, network):
        return {"noted": epoch * network.count_params()}

    return x

class Bend(keras.layers.Layer):
    def __init__(self, shape, **base):
        super().__init__(**base)
        self.shape = shape
    def call(self, inputs):
        from curves import bend
        return bend(self.shape, inputs)
    def get_config(self):
        raise NotImplementedError
"""
CURVES = "import keras\ndef bend(shape, x): return keras.activations.get(shape)(x)\n"
BUILT = """
study: built
metric: {name: val_loss, goal: minimize}
data: {train: rows.csv, validation: 0.25, label: bought}
trainer: {module: net:build, code: net}
features:
  age: {kind: numeric, buckets: {int: [2, 8]}}
  city: {kind: categorical, vocabulary: 3}
parameters: {learning_rate: {float: [0.001, 0.1], log: true}}
search: {algorithm: random, seed: 1, early_stopping: none}
limits: {trials: 2}
training: {epochs: 3, batch_size: 32}
resources: {workers: 2}
export: {model: bought}
"""


def test_a_function_builds_the_network_and_all_the_rest_is_ours(
    submit: Callable[[str], Study], settings: Settings, tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.csv")
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "net.py").write_text(BUILD)
    (tmp_path / "net" / "curves.py").write_text(CURVES)
    study = submit(BUILT)
    assert study.wait(250) is StudyState.COMPLETED, study.record
    space = {parameter.name: parameter for parameter in study.record.spec.space.walk()}
    assert space.keys() == {
        "layers",
        "units_0",
        "units_1",
        "shape",
        "age.buckets",
        "learning_rate",
    }
    for trial in study.trials(full=True):
        failures = [attempt.failure for attempt in trial.record.attempts]
        assert trial.state is TrialState.SUCCEEDED, failures
        assert len(trial.measurements) == 3
        noted = [measurement.metrics["noted"] for measurement in trial.measurements]
        assert noted == [noted[0], 2 * noted[0], 3 * noted[0]] and noted[0] > 0
    until(lambda: study.refresh().exported_model_uri, 100)
    assert Path(study.record.exported_model_uri, "saved_model.pb").is_file()
    code.archive_path(settings.artifacts_dir, study.record.spec.own.code).unlink()
    artifact = Path(study.best().record.artifact_uri)
    export_to(Source(directory=artifact), str(tmp_path / "exported"))
    metadata = json.loads((tmp_path / "exported" / layout.METADATA).read_text())
    assert metadata["keras_model"] == "not saved: NotImplementedError"


def blocks(language: str) -> list[str]:
    """The examples of the documentation's page."""
    text = (REPOSITORY / "docs" / "trainers.md").read_text()
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_the_examples_of_the_documentation_run(
    submit: Callable[[str], Study], tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.csv")
    modules = [block for block in blocks("python") if block.startswith("# ")]
    for block in modules:
        name, _, text = block.removeprefix("# ").partition("\n")
        (tmp_path / name).write_text(text)
    images, texts, program, sine, mine = blocks("yaml")
    assert len(modules) == 2
    for checked in (images, texts, program):
        assert study_file.check(checked) == []
    for asked in (sine, mine):
        study = submit(asked)
        assert study.wait(200) is StudyState.COMPLETED, study.record
        states = {trial.state for trial in study.trials()}
        assert states <= {TrialState.SUCCEEDED, TrialState.PRUNED}, states
        assert Path(study.best().record.artifact_uri).is_dir()
