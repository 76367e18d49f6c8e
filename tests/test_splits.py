"""Traffic arithmetic: always whole, always 100."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlops_nb import splits
from mlops_nb.errors import WeightsDoNotSum

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
        splits.checked("delays", weights)
    assert caught.value.hint.startswith("%mlops traffic delays 1=")
