"""Tokens of texts: how a text is split, and what one pass learns of a column's tokens.

The model's graph splits in the same way (`text_layers.Tokenizer`), by the same RE2 expression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuner.space import Value
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.sketches import ValueCounts
from tuner_trainers.summary import Summary

#: What stands between words: all but letters, marks, digits, underscores and apostrophes.
BETWEEN_WORDS = r"[^\pL\pM\pN_']+"
#: How many words or characters are a token where nothing says it.
_NGRAMS = {"words": 1, "characters": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How a text is split into tokens.

    Attributes:
        split: "words", or "characters" of the words with one space before, between and after.
        lower: whether it is put into lower case before.
        ngrams: up to how many neighbouring words are one token as well, or how many characters
            each token has.
    """

    split: str = "words"
    lower: bool = True
    ngrams: int = 1

    @staticmethod
    def of(settings: Mapping[str, Value | None]) -> Splitting:
        """How a text feature's effective settings say that it is split."""
        split = str(settings["split"])
        return Splitting(
            split=split,
            lower=bool(settings["lower"]),
            ngrams=int(settings["ngrams"] or _NGRAMS[split]),
        )

    def tokens(self, texts: Any) -> Iterator[list[str]]:
        """The tokens of each text of an Arrow array."""
        for spaced in pc.replace_substring_regex(texts, BETWEEN_WORDS, " ").to_pylist():
            # As Unicode says: Arrow would go letter by letter.
            words = (spaced.lower() if self.lower else spaced).split()
            yield self._words(words) if self.split == "words" else self._characters(words)

    def _words(self, words: list[str]) -> list[str]:
        tokens = list(words)
        for width in range(2, self.ngrams + 1):
            tokens += (
                " ".join(words[start : start + width]) for start in range(len(words) - width + 1)
            )
        return tokens

    def _characters(self, words: list[str]) -> list[str]:
        if not words:
            return []
        text = f" {' '.join(words)} "
        starts = range(max(len(text) - self.ngrams, 0) + 1)
        return [text[start : start + self.ngrams] for start in starts]


def statistics(
    key: str, lengths_key: str, texts: Any, splitting: Splitting
) -> tuple[ColumnStatistics, ColumnStatistics]:
    """Learns of the tokens of a dictionary array of texts.

    Returns:
        Statistics that count each token once for each row that has it, and those of the number of
        tokens in a row. A row without tokens is missing in both.
    """
    rows = np.bincount(texts.indices.to_numpy(), minlength=len(texts.dictionary))
    seen = np.flatnonzero(rows)
    counts: Counter[str] = Counter()
    lengths = np.full(len(texts.dictionary), np.nan)
    for place, tokens in zip(seen, splitting.tokens(texts.dictionary.take(seen)), strict=True):
        if not tokens:
            continue
        lengths[place] = len(tokens)
        if rows[place] == 1:
            counts.update(set(tokens))
        else:
            counts.update(dict.fromkeys(tokens, int(rows[place])))
    by_row = lengths[texts.indices.to_numpy()]
    summary = Summary.of(
        ValueCounts(pa.array(counts, pa.string()), np.fromiter(counts.values(), np.int64))
    )
    of_tokens = ColumnStatistics(
        name=key,
        kind="string",
        count=len(texts),
        missing=int(np.isnan(by_row).sum()),
        summary=summary,
    )
    return of_tokens, ColumnStatistics.of_numbers(lengths_key, by_row)
