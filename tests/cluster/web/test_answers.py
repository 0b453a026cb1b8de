"""Words of an address."""

import math

from eyespot.cluster.web.answers import Answer, Query


def test_words_of_an_address():
    query = Query(
        [("run", "a"), ("run", "b"), ("run", "a"), ("bins", "12"), ("from", "nan"), ("to", "x"), ("inf", "1e999")]
    )
    assert query.all("run") == ["a", "b"] and query.one("run") == "a" and query.one("none", "d") == "d"
    assert query.number("bins", 1) == 12 and query.number("from", 3) == 3 and query.number("to", -math.inf) == -math.inf
    assert query.number("inf", 5) == 5


def test_halves_of_characters_do_not_stop_an_answer():
    assert Answer.html("\udcff").body == b"?"
