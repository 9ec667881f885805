"""Small images and texts for tests: data in every format whose label follows from them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from tuner.space import Value
from tuner.study import DataSource, Feature, Metric, StudySpec
from tuner_trainers.context import TrialTask
from tuner_trainers.prepare import prepare

Pixels = npt.NDArray[np.uint8]

FORMATS = ("parquet", "csv", "tfrecord")
CLASSES = ("across", "down", "ring")
SIDE = 12


def png(pixels: Pixels) -> bytes:
    """An image in PNG."""
    encoded: bytes = tf.io.encode_png(pixels).numpy()
    return encoded


def draw(kind: str, random: np.random.Generator) -> Pixels:
    """A bright shape on a dark, noisy ground, uint8 [SIDE, SIDE, 1]."""
    pixels = random.integers(0, 60, (SIDE, SIDE, 1))
    y, x = random.integers(2, SIDE - 4, 2)
    if kind == "across":
        pixels[y, 1:-1] = 255
    elif kind == "down":
        pixels[1:-1, x] = 255
    else:
        pixels[y - 1 : y + 3, x - 1 : x + 3] = 255
        pixels[y : y + 2, x : x + 2] = 0
    return pixels.astype(np.uint8)


def write_images(folder: Path, format: str, name: str, rows: int = 240, seed: int = 0) -> str:
    """Writes rows of `image`, which is missing at times, `noise`, and the label `shape`."""
    random = np.random.default_rng(seed)
    kinds = [CLASSES[row % 3] for row in range(rows)]
    images = [b"" if row % 40 == 7 else png(draw(kind, random)) for row, kind in enumerate(kinds)]
    noise = random.normal(size=rows).round(3).tolist()
    path = folder / f"{name}.{format}"
    if format == "parquet":
        stored = pa.array([image or None for image in images], pa.binary())
        pq.write_table(pa.table({"image": stored, "noise": noise, "shape": kinds}), path)
    elif format == "tfrecord":
        with tf.io.TFRecordWriter(str(path)) as file:
            for image, number, kind in zip(images, noise, kinds, strict=True):
                file.write(_example(image, number, kind))
    else:
        files = folder / f"{name}-files"
        files.mkdir()
        with path.open("w", newline="") as text:
            out = csv.writer(text)
            out.writerow(["image", "noise", "shape"])
            for row, image in enumerate(images):
                (files / f"{row}.png").write_bytes(image)
                out.writerow([f"{files.name}/{row}.png" if image else "", noise[row], kinds[row]])
    return str(path)


def _example(image: bytes, noise: float, kind: str) -> bytes:
    feature, bytes_list = tf.train.Feature, tf.train.BytesList
    features = {
        "noise": feature(float_list=tf.train.FloatList(value=[noise])),
        "shape": feature(bytes_list=bytes_list(value=[kind.encode()])),
    }
    if image:
        features["image"] = feature(bytes_list=bytes_list(value=[image]))
    record: bytes = tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()
    return record


def write_texts(path: Path, rows: int = 240, seed: int = 0) -> str:
    """Writes rows of `text`, of which the order of two words tells the label `won`, and `x`."""
    random = np.random.default_rng(seed)
    fill = "the match was long and it rained all day in town".split()
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "x", "won"])
        for row in range(rows):
            told = "beat them" if row % 2 else "them beat"
            words = [*random.choice(fill, 3), *told.split(), *random.choice(fill, 3)]
            out.writerow(["" if row % 40 == 7 else " ".join(words), row % 7, "ny"[row % 2]])
    return str(path)


def image_task(folder: Path, format: str = "parquet", **parameters: Value) -> TrialTask:
    """A trial of the image trainer, over data written at first use."""
    train, test = (folder / f"{name}.{format}" for name in ("train", "test"))
    if not train.exists():
        write_images(folder, format, "train")
        write_images(folder, format, "test", rows=60, seed=1)
    source = DataSource(
        train_uri=str(train), label="shape", validation_fraction=0.25, test_uri=str(test)
    )
    settings: dict[str, Value] = {"epochs": 6, "filters": 8, "batch_size": 16, "units": 16}
    return _task(folder, "image", source, Metric(name="val_accuracy"), settings, parameters)


def text_task(folder: Path, **parameters: Value) -> TrialTask:
    """A trial of the text trainer, over data written at first use."""
    train = folder / "texts.csv"
    if not train.exists():
        write_texts(train)
    source = DataSource(train_uri=str(train), label="won", validation_fraction=0.25)
    settings: dict[str, Value] = {"epochs": 6, "batch_size": 16, "units": 16}
    return _task(folder, "text", source, Metric(name="val_f1"), settings, parameters)


def _task(
    folder: Path,
    trainer: str,
    source: DataSource,
    metric: Metric,
    settings: dict[str, Value],
    parameters: dict[str, Value],
) -> TrialTask:
    kind = {"image": ("image",), "text": ("text",)}[trainer]
    features = tuple(Feature(name=name, kind=trainer, columns=(name,)) for name in kind)
    spec = StudySpec(metrics=(metric,), trainer=trainer, data=source, features=features)
    found = prepare(spec)
    learned = folder / f"{trainer}.json"
    if not learned.exists():
        found.statistics.save(learned)
    return TrialTask(
        study="small",
        trial=0,
        trainer=trainer,
        data=source,
        features=found.features,
        settings={**found.settings, "learning_rate": 0.01, "dropout": 0.0, **settings},
        parameters=parameters,
        metric=metric,
        seed=7,
        statistics_path=str(learned),
    )
