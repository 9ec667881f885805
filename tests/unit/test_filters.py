"""The language of filters: what it means as a jsonpath predicate, and what it refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuner.errors import InvalidArgumentError
from tuner.service.filters import to_jsonpath


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("number = 3", "($.number == 3)"),
        ("number != -3", "($.number != -3)"),
        ("attempt >= 2", "($.attempt >= 2)"),
        ("state = RUNNING", '($.state == "RUNNING")'),
        ('worker_id = "ann"', '($.worker_id == "ann")'),
        ("origin = 'PAST'", '($.origin == "PAST")'),
        ("metrics.auc > 0.9", '($.metrics."auc" > 0.9)'),
        ("metrics.auc<=.5", '($.metrics."auc" <= 0.5)'),
        ("metrics.auc < 5.", '($.metrics."auc" < 5.0)'),
        ("metrics.auc < +1e-3", '($.metrics."auc" < 0.001)'),
        ("metrics.auc > 1E22", '($.metrics."auc" > 1e+22)'),
        ("parameters.on = TRUE", '($.parameters."on" == true)'),
        ("parameters.on != false", '($.parameters."on" != false)'),
        ('parameters.on = "true"', '($.parameters."on" == "true")'),
        ("parameters.kind = adam-w", '($.parameters."kind" == "adam-w")'),
        ("parameters.x = 007", '($.parameters."x" == 7)'),
        # A float has no place for it.
        ("parameters.x = 9007199254740993", '($.parameters."x" == 9007199254740993)'),
        ("  number\t=\n3  ", "($.number == 3)"),
    ],
)
def test_comparisons(text: str, path: str) -> None:
    assert to_jsonpath(text) == path


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("A", "A"),
        ("A AND B OR C AND D", "((A && B) || (C && D))"),
        ("A OR B AND C", "(A || (B && C))"),
        ("(A OR B) AND C", "(((A || B)) && C)"),
        ("A AND B AND C", "(A && B && C)"),
        ("NOT A AND B", "(!(A) && B)"),
        ("NOT (A AND B)", "!(((A && B)))"),
        ("NOT NOT A", "!(!(A))"),
        ("NOT A OR B", "(!(A) || B)"),
        ("((A))", "((A))"),
        ("A and B or not C", "((A && B) || !(C))"),
    ],
)
def test_not_binds_before_and_and_before_or(text: str, shape: str) -> None:
    for letter, number in zip("ABCD", "1234", strict=True):
        # The words of the language have these letters, too.
        text = " ".join(
            word.replace(letter, f"number = {number}") if word.strip("()") == letter else word
            for word in text.split()
        )
        shape = shape.replace(letter, f"($.number == {number})")
    assert to_jsonpath(text) == shape


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("auc", '"auc"'),
        ("val-auc_2", '"val-auc_2"'),
        ("age.buckets", '"age.buckets"'),
        ("a.b.c", '"a.b.c"'),
        ('"val/auc"', '"val/auc"'),
        ("'val auc'", '"val auc"'),
        ('"a x b".embedding', '"a x b.embedding"'),
        (r'"a\"b"', r'"a\"b"'),
        (r"'a\'b'", '"a\'b"'),
        (r'"a\\b"', r'"a\\b"'),
        (r'"\n"', '"n"'),
        ('"\n"', r'"\n"'),
        ('""', '""'),
        ('"é🎈"', r'"\u00e9\ud83c\udf88"'),
        ("AND", '"AND"'),
        ("not", '"not"'),
        ("number", '"number"'),
        ('"$"', '"$"'),
    ],
)
def test_names(name: str, key: str) -> None:
    for of in ("metrics", "parameters", "labels"):
        assert to_jsonpath(f"{of}.{name} = 1") == f"($.{of}.{key} == 1)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "one of number, state, .* at character 1, but got its end"),
        ("number", "needs one of = != .* at character 7, but got its end"),
        ("number =", "needs a number at character 9, but got its end"),
        ("number = 1 AND", "at character 15, but got its end"),
        ("number = 1 number = 2", "needs AND, OR or the end at character 12, but got 'number'"),
        ("(number = 1", r"needs `\)` at character 12, but got its end"),
        ("number = 1)", r"needs AND, OR or the end at character 11, but got '\)'"),
        ("auc > 1", "needs one of number, .* at character 1, but got 'auc'"),
        ("State = RUNNING", "at character 1, but got 'State'"),
        ("metrics > 1", r"needs a name, as in metrics\.NAME at character 9, but got '>'"),
        ("metrics. > 1", "needs a name at character 10, but got '>'"),
        ("metrics.3d > 1", r"metrics\.NAME at character 8, but got '\.3'"),
        ("number == 1", "needs a number at character 9, but got '='"),
        ("number = = 1", "at character 10"),
        ("1 = number", "at character 1, but got '1'"),
        ("number = 1 = 1", "needs AND, OR or the end at character 12, but got '='"),
        ("number = (1)", r"at character 10, but got '\('"),
        ("NOT", "at character 4, but got its end"),
        ("number = 1 ~ 2", "has '~ 2' at character 12, which is no word"),
        ("number = 1    ; DROP TABLE tuner.trials", "has '; DROP TABLE tuner.t' at character 15"),
        ('number = "1', """has '"1' at character 10"""),
        ("number = 'a\\", "at character 10"),
        ("number = 1 && number = 2", "'&& number = 2' at character 12"),
        ("$.number = 1", r"'\$\.number = 1' at character 1"),
        ("number = 1e999", "a number that is not too large at character 10, but got '1e999'"),
        ("number = -1e999", "not too large at character 10"),
        ("number = 1" + "0" * 400, "not too large at character 10"),
        ('labels.a = "\0"', "needs words without NUL at character 12"),
        ("number = 1" + "0" * 2000, "may have 2000 characters, but has 2010"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said) as refused:
        to_jsonpath(text)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 300


def test_depth_is_limited_and_length_is_not_depth() -> None:
    for opening, closing in (("(", ")"), ("NOT ", ""), ("NOT (", ")")):
        one = 10 if opening == "NOT (" else 20
        deep = opening * (one - 1) + "number = 1" + closing * (one - 1)
        assert to_jsonpath(deep)
        with pytest.raises(InvalidArgumentError, match="nested 20 deep"):
            to_jsonpath(opening * 100 + "number = 1" + closing * 100)
    assert to_jsonpath(" OR ".join(["number = 1"] * 140)).count("||") == 139
    assert to_jsonpath("(number = 1)" + " AND (number = 1)" * 110)


@given(st.text(), st.sampled_from("\"'"))
@example('" || $.number == 0 || $.x == "', '"')
@example('\\" == 1) || (true == true) || ($.x == "', "'")
@example('a" ? (@ > 1) like_regex ".*', '"')
@example("\\u0022", '"')
@example("%(study)s %s", "'")
def test_whatever_is_quoted_stays_within_its_quotes(text: str, quote: str) -> None:
    """Of the predicate, no more than one string is the caller's, as a JSON string."""
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    for shape in ("labels.{} = 1", "labels.team = {}"):
        if "\0" in text:
            with pytest.raises(InvalidArgumentError, match="NUL"):
                to_jsonpath(shape.format(f"{quote}{escaped}{quote}"))
            continue
        path = to_jsonpath(shape.format(f"{quote}{escaped}{quote}"))
        start, end = ("($.labels.", " == 1)") if "{} =" in shape else ('($.labels."team" == ', ")")
        assert path.startswith(start) and path.endswith(end)
        assert json.loads(path.removeprefix(start).removesuffix(end)) == text


@given(
    st.text(alphabet=st.sampled_from("ANDORT()<>=!.\"'\\ \n0123456789eE+-_metricsnumberlabels$@?"))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert to_jsonpath(text).startswith(("(", "!("))
    except InvalidArgumentError as error:
        assert "`filter`" in error.message


def test_states_and_origins_are_words_of_a_list_in_any_case() -> None:
    assert to_jsonpath("state = succeeded") == '($.state == "SUCCEEDED")'
    assert to_jsonpath('origin != "past"') == '($.origin != "PAST")'
    for text in ("state = SUCCEDED", "state > 3", "origin = elsewhere", 'number = "3"'):
        with pytest.raises(InvalidArgumentError, match="needs"):
            to_jsonpath(text)
