"""Chooses the layer of a text feature, from its settings and the statistics of its tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner.errors import DataError
from tuner.feature_kinds import TEXT_VOCABULARY
from tuner.features import default_embedding
from tuner.space import Value
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.derived import Tokens
from tuner_trainers.statistics import Statistics
from tuner_trainers.text_layers import TokenIds
from tuner_trainers.tokens import Splitting

#: Tokens of a text that are kept at most where nothing says how many.
_MOST_TOKENS = 256
#: The part of the rows whose tokens are all kept then.
_WHOLE_ROWS = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFeature:
    """A feature that reaches the network as `length` ids below `size`, 0 for none.

    The first `reserved` ids stand for no token and for unknown ones; each has a vector of
    `embedding` dimensions, which are pooled: "mean", "sum", or "tfidf", the mean weighted by the
    `weights` of the ids.
    """

    name: str
    size: int
    reserved: int
    length: int
    embedding: int
    pooling: str
    weights: tuple[float, ...] = ()


def text_layer(
    name: str,
    column: ColumnStatistics,
    statistics: Statistics,
    settings: Mapping[str, Value | None],
) -> tuple[TokenIds, BagFeature]:
    """Chooses the layer of the feature `name`, and says what the network gets from it.

    Raises:
        DataError: no token of the column is known.
    """
    splitting = Splitting.of(settings)
    asked = Tokens(column.name, splitting)
    try:
        tokens, lengths = (statistics.derived[key] for key in asked.keys)
    except KeyError as error:
        raise DataError(
            f"nothing was learned of the tokens of {column.name!r} as the feature {name!r} splits "
            "them; make the statistics again."
        ) from error
    length = int(settings["length"] or _length(lengths))
    buckets = int(settings["hash_buckets"] or 0)
    known = [(token, count) for token, count in tokens.top if buckets or count > 1]
    known = known[: int(settings["vocabulary"] or TEXT_VOCABULARY)]
    if buckets:
        size, reserved = 1 + buckets, 1
    else:
        size, reserved = 2 + len(known), 2
    layer = TokenIds(
        dataclasses.asdict(splitting),
        length,
        vocabulary=() if buckets else [token for token, _ in known],
        hash_buckets=buckets,
    )
    embedding = settings["embedding"]
    pooling = str(settings["pooling"])
    return layer, BagFeature(
        name=name,
        size=size,
        reserved=reserved,
        length=length,
        embedding=default_embedding(size, one_hot=False) if embedding is None else int(embedding),
        pooling=pooling,
        weights=_weights(layer, known, size, tokens.count) if pooling == "tfidf" else (),
    )


def _length(lengths: ColumnStatistics) -> int:
    """As many tokens as nearly all rows have."""
    values, counts = lengths.summary.spread()
    if not len(values):
        return 1
    shares = np.cumsum(counts) / counts.sum()
    return min(int(values[np.searchsorted(shares, _WHOLE_ROWS)]), _MOST_TOKENS)


def _weights(
    layer: TokenIds, known: list[tuple[str, int]], size: int, rows: int
) -> tuple[float, ...]:
    """The inverse document frequency of each id, log((1 + rows) / (1 + rows with it)) + 1.

    That of ids without a known token is as if no row had them, but id 0 has no weight. Tokens of
    one bucket count as if no row had two of them.
    """
    frequency: npt.NDArray[np.float64] = np.zeros(size)
    if known:
        ids = layer.lookup.call(tf.constant([token for token, _ in known])).numpy()
        np.add.at(frequency, ids, [count for _, count in known])
    weights = np.log((1 + rows) / (1 + frequency.clip(max=rows))) + 1
    weights[0] = 0.0
    return tuple(weights.tolist())
