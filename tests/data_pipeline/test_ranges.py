import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges, rules

Share = Annotated[float, Ge(0), Le(1)]


@dataclass(kw_only=True, slots=True)
class Sample:
    free: float = math.nan
    count: Annotated[int, Ge(1)] = 1
    above: Annotated[float, Gt(0)] = 1.0
    most: Annotated[int, Le(9)] = 9
    below: Annotated[float, Lt(9)] = 8.0
    share: Share = 0.5
    inside: Annotated[float, Interval(gt=0, lt=1)] = 0.5
    kept: Annotated[float, Ge(0), Lt(1)] = 0.0
    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    endless: Annotated[float, Gt(0), Le(math.inf), "must be above 0"] = 1.0
    clip: Annotated[float, Gt(0), "must be above 0; leave it out for no clipping"] | None = None
    ranks: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    pair: tuple[Share, Annotated[float, Ge(0), Le(0.5)]] = (1.0, 0.5)
    steps: tuple[Share, ...] = ()
    both: Annotated[tuple[Share, Share], "both must be shares"] = (0.0, 1.0)
    named: Annotated[tuple[str, ...], MinLen(1)] = ("a",)
    few: Annotated[tuple[str, ...], MaxLen(2)] = ()
    some: Annotated[tuple[str, ...], Len(1, 2)] = ("a",)

    def __post_init__(self) -> None:
        check_ranges(self, "config.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count 0: must be 1 or more"),
        ({"above": 0.0}, "above 0.0: must be above 0"),
        ({"above": math.nan}, "above nan: must be above 0"),
        ({"above": math.inf}, "above inf: must be finite"),
        ({"above": -math.inf}, "above -inf: must be above 0"),
        ({"most": 10}, "most 10: must be 9 or less"),
        ({"below": 9.0}, "below 9.0: must be below 9"),
        ({"below": -math.inf}, "below -inf: must be finite"),
        ({"share": 1.5}, "share 1.5: must lie between 0 and 1"),
        ({"share": math.nan}, "share nan: must lie between 0 and 1"),
        ({"inside": 1.0}, "inside 1.0: must lie between 0 and 1, both excluded"),
        ({"kept": 1.0}, "kept 1.0: must be at least 0 and below 1"),
        ({"rate": 0.0}, "rate 0.0: must be above 0 and at most 1"),
        ({"endless": 0.0}, "endless 0.0: must be above 0"),
        ({"clip": -1.0}, "clip -1.0: must be above 0; leave it out for no clipping"),
        ({"clip": math.inf}, "clip inf: must be finite"),
        ({"ranks": 0}, "ranks 0: must be 1 or more"),
        ({"pair": (1.0, 0.6)}, "pair (1.0, 0.6): each must lie between 0 and 0.5"),
        ({"pair": (2.0, 0.5)}, "pair (2.0, 0.5): each must lie between 0 and 1"),
        ({"steps": (0.1, 0.2, -0.1)}, "steps (0.1, 0.2, -0.1): each must lie between 0 and 1"),
        ({"both": (0.0, 2.0)}, "both (0.0, 2.0): both must be shares"),
        ({"named": ()}, "named (): must have 1 or more"),
        ({"few": ("a", "b", "c")}, "few ('a', 'b', 'c'): must have 2 or fewer"),
        ({"some": ()}, "some (): must have 1 to 2"),
    ],
    ids=str,
)
def test_what_lies_outside_is_refused_in_one_line(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        Sample(**values)
    assert str(caught.value) == f"config.{message}"


def test_what_lies_inside_is_taken():
    Sample()
    Sample(count=10**9, above=5e-324, share=0.0, kept=math.nextafter(1, 0), rate=1, endless=math.inf, clip=0.1)
    Sample(ranks=3, pair=(0.0, 0.0), steps=(0.0, 1.0, 0.5), named=("a", "b"), few=("a", "b"), some=("a", "b"))


def test_flags_are_named_as_they_are_typed():
    @dataclass(kw_only=True, slots=True)
    class Words:
        wait_seconds: Annotated[float, Ge(0)] = 0.0

    with pytest.raises(UserError, match=r"^--wait-seconds -1.0: must be 0 or more$"):
        check_ranges(Words(wait_seconds=-1.0), "--")


def test_only_fields_with_a_range_are_looked_at():
    assert list(rules(Sample)) == [name for name in Sample.__dataclass_fields__ if name != "free"]


def test_a_rule_of_another_kind_is_a_mistake_of_the_author():
    @dataclass
    class Even:
        count: Annotated[int, MultipleOf(2)] = 1

    with pytest.raises(KeyError, match="multiple_of"):
        check_ranges(Even())
