"""Texts: how they are split, the same by statistics and graph, and what becomes of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import DataError
from tuner.space import Categorical, Int, Space, Value
from tuner.study import Feature
from tuner_trainers import derived, rows, statistics
from tuner_trainers.bags import pooled
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.derived import Tokens
from tuner_trainers.features import propose
from tuner_trainers.preprocessing import Encoder, build_encoder
from tuner_trainers.statistics import Statistics
from tuner_trainers.text_layers import Tokenizer
from tuner_trainers.texts import BagFeature
from tuner_trainers.tokens import Splitting

#: Letters of scripts that Unicode has known for long, as Python and TensorFlow do.
prose = st.text(st.characters(max_codepoint=0x2BFF, exclude_categories=["Cs", "Cn"]), max_size=30)
phrases = st.lists(
    st.sampled_from(["good", "Bad", "movie", "not", "don't", "ÄRGER", "東京", "x1", "--", "!"]),
    max_size=8,
).map(" ".join)
splittings = st.builds(
    Splitting,
    split=st.sampled_from(["words", "characters"]),
    lower=st.booleans(),
    ngrams=st.integers(1, 5),
)


def tokens(texts: Sequence[str], **how: Any) -> list[list[str]]:
    """The tokens of texts, once statistics and graph agree on them."""
    splitting = Splitting(**how)
    learned = list(splitting.tokens(pa.array(texts, pa.string())))
    found = Tokenizer.of(splitting)(tf.constant(list(texts), shape=[len(texts)]))
    assert learned == [[token.decode() for token in row] for row in found.to_list()]
    return learned


def encoder(texts: Sequence[str], space: Space = Space(()), **given: Value) -> Encoder:  # noqa: B008
    feature = Feature(name="t", kind="text", columns=("t",), settings=given)
    learned = scanned(texts, feature, space)
    drawn = {parameter.name: parameter.domain.choices[0] for parameter in space.walk()}  # type: ignore[union-attr]
    return build_encoder([feature], drawn, learned, ["none"])


def scanned(texts: Sequence[str], feature: Feature, space: Space = Space(())) -> Statistics:  # noqa: B008
    column = pa.array([text if text != "none" else "" for text in texts]).dictionary_encode()
    found = [
        of for one in derived.asked_for([feature], space) for of in one.statistics({"t": column})
    ]
    return Statistics(
        rows=len(texts),
        columns={"t": ColumnStatistics.of_strings("t", column)},
        derived={of.name: of for of in found},
    )


def ids(of: Encoder, *texts: str) -> list[list[int]]:
    raw: Mapping[str, tf.Tensor] = {"t": rows.as_tensor(np.asarray(texts, object))}
    found: list[list[int]] = of.encode(raw)["bag_1"].numpy().tolist()
    return found


def test_words() -> None:
    found = tokens(["Don't  STOP—naïve 東京!", "", " ?! ", "a_b 3.5", "one\ntwo\tthree"])
    assert found == [
        ["don't", "stop", "naïve", "東京"],
        [],
        [],
        ["a_b", "3", "5"],
        ["one", "two", "three"],
    ]


def test_neighbouring_words() -> None:
    assert tokens(["to be or", "Be"], ngrams=3, lower=False) == [
        ["to", "be", "or", "to be", "be or", "to be or"],
        ["Be"],
    ]


def test_characters() -> None:
    assert tokens(["Ab  c", "ö", ""], split="characters", ngrams=3) == [
        [" ab", "ab ", "b c", " c "],
        [" ö "],
        [],
    ]
    assert tokens(["ö"], split="characters", ngrams=5) == [[" ö "]]


@given(st.lists(prose, min_size=1, max_size=10), splittings)
@settings(max_examples=300, deadline=None)
def test_statistics_and_graph_agree_on_any_text(texts: list[str], splitting: Splitting) -> None:
    tokens(texts, split=splitting.split, lower=splitting.lower, ngrams=splitting.ngrams)


@given(st.lists(phrases, min_size=1, max_size=20), st.integers(1, 19), splittings)
@settings(max_examples=100, deadline=None)
def test_counts_of_tokens_add_up_over_parts(
    texts: list[str], size: int, splitting: Splitting
) -> None:
    asked = Tokens("t", splitting)

    def learned(part: list[str]) -> list[ColumnStatistics]:
        return list(asked.statistics({"t": pa.array(part, pa.string()).dictionary_encode()}))

    whole = learned(texts)
    parts = [learned(texts[start : start + size]) for start in range(0, len(texts), size)]
    split_up = list(splitting.tokens(pa.array(texts, pa.string())))
    for place in (0, 1):
        merged = reduce(ColumnStatistics.merge, (part[place] for part in parts))
        assert merged.top == whole[place].top
        assert merged.missing == whole[place].missing == sum(not row for row in split_up)
    for token, count in whole[0].top:
        assert count == sum(token in row for row in split_up)


def test_ids_of_the_vocabulary() -> None:
    texts = ["good movie", "good film", "bad movie", "good once", "none"]
    of = encoder(texts, length=3)
    assert ids(of, "Good, good movie good", "unheard movie", "", "none", "!?") == [
        [2, 2, 3],
        [1, 3, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert (of.bags[0].size, of.bags[0].reserved, of.numbers, of.ids) == (4, 2, 0, ())
    assert encoder(texts, vocabulary=1).bags[0].size == 3
    assert encoder(texts).bags[0].length == 2


def test_hashed_tokens() -> None:
    of = encoder(["good movie", "bad film"], hash_buckets=1000, length=4)
    ((first, second, *rest),) = ids(of, "good new")
    assert 1 <= first <= 1000 and 1 <= second <= 1000 and rest == [0, 0]
    assert ids(of, "new GOOD") == [[second, first, 0, 0]]
    assert (of.bags[0].size, of.bags[0].reserved) == (1001, 1)


def test_what_is_drawn_decides_how_a_text_is_split() -> None:
    texts = ["aab aab", "aab"]
    space = Space.of(
        {"t.split": Categorical(("characters", "words")), "t.ngrams": Categorical((2, 1))}
    )
    of = encoder(texts, space, length=9)
    assert of.bags[0].size == 2 + 4  # " a", "aa", "ab" and "b "
    with pytest.raises(DataError, match="make the statistics again"):
        feature = Feature(name="t", kind="text", columns=("t",))
        build_encoder([feature], {"t.split": "characters"}, scanned(texts, feature))


def test_all_that_may_be_drawn_is_learned_of() -> None:
    feature = Feature(name="t", kind="text", columns=("t",), settings={"lower": False})
    space = Space.of({"t.split": Categorical(("characters", "words")), "t.ngrams": Int(1, 3)})
    asked = derived.asked_for([feature], space)
    assert len(asked) == 6
    assert Tokens("t", Splitting(split="words", lower=False, ngrams=2)) in asked


def test_weights_are_inverse_document_frequencies() -> None:
    texts = ["good movie", "good good film", "bad movie", "good", "none"]
    bag = encoder(texts, pooling="tfidf").bags[0]
    expected = [0.0, np.log(6) + 1, np.log(6 / 4) + 1, np.log(6 / 3) + 1]
    np.testing.assert_allclose(bag.weights, expected)
    hashed = encoder(texts, pooling="tfidf", hash_buckets=2).bags[0]
    assert len(hashed.weights) == 3 and hashed.weights[0] == 0.0


@pytest.mark.parametrize("pooling", ["mean", "sum", "tfidf", "max", "attention"])
def test_vectors_are_pooled(pooling: str) -> None:
    weights = (0.0, 2.0, 0.5, 1.0)
    feature = BagFeature(
        name="t", size=4, reserved=2, length=3, embedding=2, pooling=pooling, weights=weights
    )
    ids = keras.Input((3,), dtype="int32")
    made = keras.Model(ids, pooled(feature, ids, 5, "t"))
    drawn = made.get_weights()[0]
    assert not drawn[:2].any() and drawn[2:].all()
    table, query = np.arange(20.0).reshape(4, 5) / 10, np.array([1.0, 0.0, -2.0, 0.0, 0.5])
    found = keras.Model.from_config(made.get_config())
    found.set_weights([table, query][: len(made.weights)])
    rows_of_ids = np.asarray([[2, 3, 2], [3, 0, 0], [0, 0, 0], [1, 2, 0]])
    for row, vector in zip(rows_of_ids, found(rows_of_ids).numpy(), strict=True):
        vectors = table[row[row > 0]]
        by_token = (
            np.asarray(weights)[row[row > 0]] if pooling == "tfidf" else np.ones(len(vectors))
        )
        if pooling == "attention":
            by_token = np.exp(vectors @ query)
        expected = by_token @ vectors
        if pooling == "max":
            expected = vectors.max(axis=0, initial=-1.0 if len(vectors) else 0.0)
        elif pooling != "sum":
            expected = expected / max(by_token.sum(), 1e-9)
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)


def test_prose_is_proposed_as_text(shared_data: Path) -> None:
    learned = statistics.scan(str(shared_data / "sms" / "sms.csv"))
    found = propose(learned, "label")
    (feature,) = found.features
    assert feature.kind == "text" and "words on average" in feature.reason
    assert {parameter.name for parameter in found.parameters} == {
        "text.vocabulary",
        "text.embedding",
    }
    of = build_encoder([feature], {"text.vocabulary": 500, "text.embedding": 8}, learned)
    assert (of.bags[0].size, of.bags[0].embedding) == (502, 8)
