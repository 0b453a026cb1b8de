"""Words to typed values; what is wrong in one line, with the nearest flag."""

from dataclasses import dataclass, field, replace

import pytest

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.augment.views import NO_FLAG
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_run


@dataclass
class Inner:
    """Inner."""

    rate: float = 0.5
    """A rate."""


@dataclass
class Outer:
    """Outer."""

    inner: Inner = field(default_factory=Inner)
    scale: tuple[float, float] = (0.2, 1.0)


def test_values_are_typed():
    parsed = parse(Outer, ["--inner.rate", "2", "--scale", "0.1", "0.9"], "eyespot x")
    assert parsed == Outer(inner=Inner(rate=2.0), scale=(0.1, 0.9))


def test_a_subclass_in_the_default_keeps_its_own_fields():
    @dataclass
    class Special(Inner):
        """Special."""

        depth: int = 3

    parsed = parse(Outer, ["--inner.depth", "7"], "eyespot x", default=Outer(inner=Special()))
    assert parsed.inner == Special(depth=7)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--inner.rat", "2"], "perhaps you meant --inner.rate"),
        (["--inner.rate", "x"], "could not convert string to float: 'x'"),
        (["--scale", "1"], "Expected 2 values"),
    ],
)
def test_what_is_wrong_is_one_line(words, answer):
    with pytest.raises(UserError) as caught:
        parse(Outer, words, "eyespot x")
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("(see eyespot x --help)")


@dataclass
class Optional:
    """Optional."""

    inner: Inner | None = None
    flag: bool = False


def test_a_config_that_may_be_left_out_has_flags_only_where_it_is_given():
    given = parse(Optional, ["--inner.rate", "2", "--flag"], "p", default=Optional(inner=Inner()))
    assert given == Optional(inner=Inner(rate=2.0), flag=True)
    assert parse(Optional, ["--flag"], "p", default=Optional()) == Optional(flag=True)
    with pytest.raises(UserError, match=r"--inner\.rate"):
        parse(Optional, ["--inner.rate", "4"], "p", default=Optional())


@dataclass
class Decided(Inner):
    """Decided."""

    own: int = field(default=1, metadata=NO_FLAG)


def test_what_a_method_decides_has_no_flag_and_keeps_its_value(capsys):
    given = parse(Outer, ["--inner.rate", "2"], "p", default=Outer(inner=Decided(own=3)))
    assert given == Outer(inner=Decided(rate=2.0, own=3)) and parse(Decided, [], "p") == Decided()
    with pytest.raises(UserError, match=r"--own"):
        parse(Decided, ["--own", "4"], "p")
    with pytest.raises(SystemExit):
        parse(Decided, ["--help"], "p")
    said = capsys.readouterr().out
    assert "A rate." in said and "own" not in said


def test_whose_sample_a_view_shows_is_no_setting_of_a_recipe():
    with pytest.raises(UserError, match=r"--objective\.view\.partner"):
        parse(Run, ["--objective.view.partner"], "p", default=make_run("simclr_tiny"))
    run = parse(Run, ["--objective.view.flip", "0"], "p", default=make_run("tcn_tiny"))
    assert run.objective.view == replace(make_run("tcn_tiny").objective.view, flip=0.0)
