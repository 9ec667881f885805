"""Keras layers that split texts into tokens, and turn tokens into ids, in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tuner_trainers.layers import Hash, RawLayer, Vocabulary
from tuner_trainers.tokens import BETWEEN_WORDS, Splitting


@keras.saving.register_keras_serializable(package="tuner")
class Tokenizer(RawLayer):
    """Splits texts as `Splitting.tokens` does; a missing text has no token.

    Call: string [batch] -> ragged string [batch, tokens].
    """

    output_dtype = "string"

    def __init__(self, split: str, lower: bool, ngrams: int, **base: Any) -> None:
        super().__init__(split=split, lower=lower, ngrams=ngrams, **base)
        self.split, self.lower, self.ngrams = split, lower, ngrams

    @classmethod
    def of(cls, splitting: Splitting) -> Tokenizer:
        """The layer that splits so."""
        return cls(splitting.split, splitting.lower, splitting.ngrams)

    def call(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """string [batch] -> ragged string [batch, tokens]."""
        spaced = tf.strings.strip(tf.strings.regex_replace(texts, BETWEEN_WORDS, " "))
        if self.lower:
            spaced = tf.strings.lower(spaced, encoding="utf-8")
        if self.split == "words":
            words = tf.strings.split(spaced)
            if self.ngrams == 1:
                return words
            return tf.strings.ngrams(words, list(range(1, self.ngrams + 1)), separator=" ")
        padded = tf.where(spaced == "", "", tf.strings.join([" ", spaced, " "]))
        characters = tf.strings.unicode_split(padded, "UTF-8")
        return tf.strings.ngrams(
            characters, self.ngrams, separator="", preserve_short_sequences=True
        )


@keras.saving.register_keras_serializable(package="tuner")
class TokenIds(RawLayer):
    """The ids of the first tokens of texts.

    Call: string [batch] -> int32 [batch, length], 0 after the last token. With a vocabulary, 1 is
    any token outside of it, and then come its own; with hash buckets, these come at once.

    Args:
        splitting: the settings of the Tokenizer.
        length: how many tokens are kept.
        vocabulary: tokens by their place, unless they are hashed.
        hash_buckets: how many buckets tokens are hashed into.
    """

    def __init__(
        self,
        splitting: dict[str, Any],
        length: int,
        vocabulary: Sequence[str] = (),
        hash_buckets: int = 0,
        **base: Any,
    ) -> None:
        super().__init__(
            splitting=splitting,
            length=length,
            vocabulary=list(vocabulary),
            hash_buckets=hash_buckets,
            **base,
        )
        self.output_width = length
        self.tokenizer = Tokenizer(**splitting)
        self.lookup = Hash(hash_buckets) if hash_buckets else Vocabulary(vocabulary, 1)

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """string [batch] -> int32 [batch, length]."""
        tokens = self.tokenizer.call(texts)[:, : self.output_width]
        ids = tokens.with_flat_values(self.lookup.call(tokens.flat_values))
        return ids.to_tensor(0, shape=(None, self.output_width))
