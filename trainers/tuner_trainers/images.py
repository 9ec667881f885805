"""Chooses the layer of an image feature, and keeps decoded images on disk for all trials."""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from tuner.errors import DataError
from tuner.space import Value
from tuner_trainers.cache import Cache, NoSpaceError
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.derived import Images
from tuner_trainers.image_layers import DecodeImage
from tuner_trainers.statistics import Statistics
from tuner_trainers.storage import Storage
from tuner_trainers.table import Column, Indices

logger = logging.getLogger(__name__)

#: The longest side of an image where nothing says how large it is.
_LONGEST_SIDE = 128
#: Encoded images that are decoded at once, and the bytes that they become, at most.
_CHUNK_IMAGES, _CHUNK_BYTES = 4096, 64 << 20
_PIXELS = "pixels"
#: A change of how images are decoded makes the cache anew.
_VERSION = 1

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeature:
    """A feature that reaches the network as uint8 [batch, height, width, channels].

    There it is made from 0 to 1 if `scaling` is "unit", or from -1 to 1 if it is "signed".
    """

    name: str
    column: str
    height: int
    width: int
    channels: int
    scaling: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    @property
    def row_bytes(self) -> int:
        """What an image takes."""
        return self.height * self.width * self.channels

    def layer(self) -> DecodeImage:
        """What decodes its images."""
        return DecodeImage(*self.shape)


def image_feature(
    name: str,
    column: ColumnStatistics,
    statistics: Statistics,
    settings: Mapping[str, Value | None],
) -> ImageFeature:
    """Completes the settings of the feature `name` by what its images are like.

    Raises:
        DataError: nothing is known of the column's images.
    """
    try:
        heights, widths, colours = (statistics.derived[key] for key in Images(column.name).keys)
    except KeyError as error:
        raise DataError(
            f"nothing was learned of the images of {column.name!r}; make the statistics again."
        ) from error
    height, width = _size(_median(heights), _median(widths), settings)
    coloured = settings["colours"]
    if coloured is None:
        coloured = (colours.maximum or 0.0) > 0.0
    return ImageFeature(
        name=name,
        column=column.name,
        height=height,
        width=width,
        channels=3 if coloured else 1,
        scaling=str(settings["scaling"]),
    )


def _median(sizes: ColumnStatistics) -> int:
    """The median of pixels, a value that occurs."""
    values, counts = sizes.summary.spread()
    if not len(values):
        return 1
    return int(values[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])


def _size(height: int, width: int, settings: Mapping[str, Value | None]) -> tuple[int, int]:
    """What is asked for; a side that is not keeps the shape of the median image."""
    asked = settings["height"], settings["width"]
    if asked[0] is not None and asked[1] is not None:
        return int(asked[0]), int(asked[1])
    if asked[0] is not None:
        scale = float(asked[0]) / height
    elif asked[1] is not None:
        scale = float(asked[1]) / width
    else:
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


class Decoded:
    """The images of a column, decoded: once for all trials of the machine if they fit its disk."""

    def __init__(self, feature: ImageFeature, column: Column, key: str, storage: Storage) -> None:
        """Decodes the images, unless they have been before.

        Args:
            feature: how they are decoded.
            column: the encoded images.
            key: names the table that the column belongs to.
            storage: where they are kept.

        Raises:
            DataError: an image is not whole.
        """
        self._feature, self._column, self._storage = feature, column, storage
        self._map: mmap.mmap | None = None
        made_from = json.dumps([_VERSION, key, feature.column, feature.shape])
        entry = hashlib.sha256(made_from.encode()).hexdigest()
        try:
            self._pixels: Pixels | None = Cache(storage).get(entry, self._write, self._open)
        except NoSpaceError as error:
            logger.warning("images are decoded each time they are seen: %s", error.message)
            self._pixels = None

    def take(self, places: Indices) -> tf.Tensor:
        """Some rows, uint8 [places, height, width, channels]."""
        codes = self._column.values[places]
        if self._pixels is not None:
            return tf.constant(self._pixels[codes])
        nothing = np.empty((0, *self._feature.shape), np.uint8)
        return tf.constant(np.concatenate([nothing, *self._decoded(codes)]))

    def release(self) -> None:
        """Takes the pages out of this process's memory; the machine keeps them while it can."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def _write(self, folder: Path) -> Iterator[int]:
        count, encoded = len(self._column.words), int(self._column.words.nbytes)
        size = count * self._feature.row_bytes
        # All of the room at once, and beside what the images are read from: half of them would
        # help nobody.
        if size + encoded > self._storage.most_cache_bytes(encoded):
            raise NoSpaceError(
                f"{size >> 20} MiB do not fit into {self._storage.folder}; raise TUNER_CACHE_GIB."
            )
        yield size
        with (folder / _PIXELS).open("wb") as file:
            for part in self._decoded(np.arange(count)):
                file.write(part.data)
        yield 0

    def _open(self, folder: Path) -> Pixels:
        shape = (len(self._column.words), *self._feature.shape)
        with (folder / _PIXELS).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8).reshape(shape)

    def _decoded(self, codes: Indices) -> Iterator[Pixels]:
        """The images of some places among all of the column, some at a time."""
        most = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // self._feature.row_bytes))
        for start in range(0, len(codes), most):
            part = codes[start : start + most]
            images = self._column.words.take(pa.array(part)).to_pylist()
            try:
                yield _decode(self._feature.layer(), images)
            except tf.errors.InvalidArgumentError as error:
                raise self._broken(part, images) from error

    def _broken(self, codes: Indices, images: Sequence[bytes]) -> DataError:
        """Says which of some images cannot be decoded."""
        layer, feature = self._feature.layer(), self._feature
        for code, image in zip(codes.tolist(), images, strict=True):
            try:
                layer.decode(tf.constant(image))
            except tf.errors.InvalidArgumentError:
                row = int(np.flatnonzero(self._column.values == code)[0])
                return DataError(
                    f"row {row} has an image in {feature.column!r}, {len(image):,} bytes, that "
                    "cannot be decoded; mend it, or leave it empty, which counts as missing."
                )
        return DataError(
            f"an image of {feature.column!r} cannot be decoded; look for a broken one."
        )


def _decode(layer: DecodeImage, images: Sequence[bytes]) -> Pixels:
    """Decodes images on all cores, uint8 [images, height, width, channels]."""
    decoded: Any = (
        tf.data.Dataset.from_tensor_slices(tf.constant(list(images), tf.string))
        .map(layer.decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(len(images))
    )
    pixels: Pixels = next(iter(decoded)).numpy()
    return pixels
