"""Traffic arithmetic: always whole, always 100."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlops_nb import splits
from mlops_nb.errors import BadOption, WeightsDoNotSum

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 100), min_size=1)


@given(weights=WEIGHTS, percent=st.integers(0, 100))
def test_a_shift_gives_the_share_asked_for_and_sums_to_100(weights: dict[str, int], percent: int) -> None:
    after = splits.shifted(weights, "new", percent)
    others = any(weights.values())
    assert sum(after.values()) == 100
    assert after["new"] == (percent if others else 100)


@given(weights=WEIGHTS)
def test_others_keep_their_proportions_to_within_one_percent(weights: dict[str, int]) -> None:
    assume(sum(weights.values()) > 0)
    after = splits.shared_out(weights, 100)
    total = sum(weights.values())
    assert all(abs(after[name] - weight * 100 / total) < 1 for name, weight in weights.items())


@given(weights=WEIGHTS, able=st.sets(st.sampled_from("abcdef")))
def test_only_the_able_get_traffic_while_there_is_one(weights: dict[str, int], able: set[str]) -> None:
    after = splits.effective(weights, able)
    if any(weights.get(name) for name in able):
        assert sum(after.values()) == 100 and set(after) <= able
    else:
        assert after == weights


@pytest.mark.parametrize("weights", [{}, {"1": 99}, {"1": 60, "2": 60}, {"1": 110, "2": -10}])
def test_weights_that_do_not_sum_to_100_are_refused_with_ones_that_do(weights: dict[str, int]) -> None:
    with pytest.raises(WeightsDoNotSum, match="sum to 100") as caught:
        splits.checked("delays", weights, now={"1": 100})
    assert caught.value.hint.startswith("%mlops traffic delays 1=")


@pytest.mark.parametrize(
    ("said", "now", "meant"),
    [
        ({"1": 50}, {"1": 100, "2": 0}, "1=50 2=50"),
        ({"1": 50}, {"1": 20, "2": 60, "3": 20}, "1=50 2=38 3=12"),
        ({"3": 10, "1": 30}, {"1": 90, "2": 10, "3": 0}, "3=10 1=30 2=60"),
        ({"1": 80, "2": 80}, {"1": 90, "2": 10}, "1=50 2=50"),
        ({"1": 150}, {"1": 90, "2": 10}, "1=100"),
        ({"1": 0}, {"1": 100}, "1=100"),
        ({"2": 30}, {}, "2=100"),
    ],
)
def test_the_split_that_is_offered_instead_leaves_the_others_their_proportions(said: dict[str, int], now: dict[str, int], meant: str) -> None:
    with pytest.raises(WeightsDoNotSum) as caught:
        splits.checked("delays", said, now=now)
    assert caught.value.hint == f"%mlops traffic delays {meant}"


@given(weights=WEIGHTS, now=WEIGHTS)
def test_the_split_that_is_offered_instead_is_one(weights: dict[str, int], now: dict[str, int]) -> None:
    offered = splits.completed(weights, now)
    assert sum(offered.values()) == 100 and min(offered.values()) >= 0


HUNDREDS = (
    st.lists(st.integers(0, 100), min_size=1, max_size=6)
    .map(lambda cuts: sorted({0, 100, *cuts}))
    .map(lambda edges: {name: high - low for name, low, high in zip("abcdef", edges, edges[1:], strict=False)})
)


@given(before=HUNDREDS.filter(lambda w: sum(w.values()) == 100), after=HUNDREDS.filter(lambda w: sum(w.values()) == 100))
def test_slots_follow_the_weights_and_move_as_few_callers_as_mathematics_allows(before: dict[str, int], after: dict[str, int]) -> None:
    first = splits.slots(before)
    second = splits.slots(after, first)

    def spread(runs):
        return [name for name, count in runs for _ in range(count)]

    assert {name: spread(second).count(name) for name in after} == after
    moved = sum(one != other for one, other in zip(spread(first), spread(second), strict=True))
    assert moved == sum(max(0, share - after.get(name, 0)) for name, share in before.items())


def test_while_one_is_ill_only_its_own_callers_move() -> None:
    laid_out = splits.slots({"a": 50, "b": 30, "c": 20})
    now = [name for name, count in splits.able_slots(laid_out, {"a", "c"}) for _ in range(count)]
    before = [name for name, count in laid_out for _ in range(count)]
    assert all(now[place] == name for place, name in enumerate(before) if name != "b")
    assert "b" not in now and len(now) == 100


@pytest.mark.parametrize("text", ["header:x-user", "cookie:uid", "field:parameters.user", "none", ""])
def test_what_callers_are_known_by_is_read(text: str) -> None:
    assert str(splits.sticky(text) or "none") == (text or "none")


@pytest.mark.parametrize("text", ["user", "header:", "header:x y", "cookie:a;b", "field:a..b", "field:$x", "body:x", "header:" + "x" * 101])
def test_what_callers_cannot_be_known_by_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        splits.sticky(text)
