"""Combining rewards: pure functions, held to their promises for any scores, masks and groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sync_r1.trainer_client.sdk.combination import (
    Bools,
    Floats,
    Ints,
    gdpo,
    group_numbers,
    kept_items,
    weighted_sum,
)

settings.register_profile("untimed", deadline=None)  # a busy machine is no counterexample
settings.load_profile("untimed")
POLICIES = ("required", "drop_item", "drop_group", "monitor_only")
Batch = tuple[Floats, Bools, Floats, Ints]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Scores with NaN where they do not count, weights with a positive sum, and groups."""
    rewards, items = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    scores_R_N = draw(hnp.arrays(np.float64, (rewards, items), elements=st.floats(0, 1)))
    counted_R_N = draw(hnp.arrays(np.bool_, (rewards, items)))
    weights_R = draw(hnp.arrays(np.float64, rewards, elements=st.floats(0.01, 1)))
    groups_N = draw(hnp.arrays(np.int64, items, elements=st.integers(0, 3)))
    return np.where(counted_R_N, scores_R_N, np.nan), counted_R_N, weights_R, groups_N


def both(batch: Batch) -> list[Floats]:
    scores_R_N, counted_R_N, weights_R, groups_N = batch
    return [weighted_sum(scores_R_N, counted_R_N, weights_R), gdpo(scores_R_N, counted_R_N, weights_R, groups_N)]


@given(batches())
def test_item_has_a_total_exactly_when_some_reward_counts_for_it(batch: Batch) -> None:
    for contributions_R_N in both(batch):
        np.testing.assert_array_equal(np.isfinite(contributions_R_N.sum(0)), batch[1].any(0))


@given(batches(), st.sampled_from([np.nan, np.inf, -np.inf, 1e308, 0.0]))
def test_what_stands_where_a_score_failed_is_never_read(batch: Batch, junk: float) -> None:
    scores_R_N, counted_R_N, weights_R, groups_N = batch
    other = (np.where(counted_R_N, scores_R_N, junk), counted_R_N, weights_R, groups_N)
    for ours, theirs in zip(both(batch), both(other)):
        np.testing.assert_array_equal(ours, theirs)


@given(batches(), st.randoms(use_true_random=False))
def test_order_of_items_changes_nothing_but_the_order(batch: Batch, random: object) -> None:
    scores_R_N, counted_R_N, weights_R, groups_N = batch
    order = list(range(len(groups_N)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = (scores_R_N[:, order], counted_R_N[:, order], weights_R, groups_N[order])
    for ours, theirs in zip(both(batch), both(shuffled)):
        np.testing.assert_allclose(ours[:, order], theirs, atol=1e-9)


@given(batches(), st.data())
def test_weighted_total_of_an_item_depends_on_no_other(batch: Batch, data: st.DataObject) -> None:
    scores_R_N, counted_R_N, weights_R, groups_N = batch
    kept = data.draw(st.lists(st.integers(0, len(groups_N) - 1), min_size=1, unique=True))
    whole = weighted_sum(scores_R_N, counted_R_N, weights_R)
    np.testing.assert_array_equal(whole[:, kept], weighted_sum(scores_R_N[:, kept], counted_R_N[:, kept], weights_R))
    totals_N = whole.sum(0)[counted_R_N.any(0)]
    assert ((totals_N >= -1e-9) & (totals_N <= weights_R.sum() + 1e-9)).all()


@given(hnp.arrays(np.bool_, (3, 8)), st.lists(st.sampled_from(POLICIES), min_size=3, max_size=3), st.data())
def test_leaving_out_a_healthy_item_changes_no_other_items_fate(
    failed_R_N: Bools, policies: list[str], data: st.DataObject
) -> None:
    groups_N = np.array(data.draw(st.lists(st.integers(0, 2), min_size=8, max_size=8)), np.int64)
    kept_N = kept_items(failed_R_N, policies, groups_N)
    rest = [i for i in range(8) if failed_R_N[:, i].any() or i % 2]
    np.testing.assert_array_equal(kept_N[rest], kept_items(failed_R_N[:, rest], policies, groups_N[rest]))


@given(hnp.arrays(np.bool_, (2, 8)), st.data())
def test_dropping_items_one_by_one_leaves_all_others(failed_R_N: Bools, data: st.DataObject) -> None:
    groups_N = np.array(data.draw(st.lists(st.integers(0, 2), min_size=8, max_size=8)), np.int64)
    np.testing.assert_array_equal(kept_items(failed_R_N, ["drop_item"] * 2, groups_N), ~failed_R_N.any(0))


@given(batches(), st.data())
def test_dropped_items_leave_no_trace_in_any_baseline(batch: Batch, data: st.DataObject) -> None:
    """Policies act before the group baseline: what stays is as if the failed items had never been drawn."""
    scores_R_N, counted_R_N, weights_R, groups_N = batch
    failed_R_N = ~counted_R_N & data.draw(hnp.arrays(np.bool_, counted_R_N.shape))
    policy = st.sampled_from(("required", "drop_item", "drop_group"))
    kept_N = kept_items(failed_R_N, [data.draw(policy) for _ in weights_R], groups_N)
    assert not failed_R_N[:, kept_N].any()
    whole = both((scores_R_N, counted_R_N & kept_N, weights_R, groups_N))
    alone = both((scores_R_N[:, kept_N], counted_R_N[:, kept_N], weights_R, groups_N[kept_N]))
    for ours, theirs in zip(whole, alone):
        assert np.isnan(ours[:, ~kept_N].sum(0)).all()
        np.testing.assert_allclose(ours[:, kept_N], theirs, atol=1e-12)
        totals_N = ours.sum(0)
        for group in np.unique(groups_N):  # the baseline that a trainer computes
            members_N = (groups_N == group) & np.isfinite(totals_N)
            mine = theirs.sum(0)[groups_N[kept_N] == group]
            np.testing.assert_allclose(totals_N[members_N].sum(), mine[np.isfinite(mine)].sum(), atol=1e-9)


def test_policies_take_out_the_item_its_group_or_nothing() -> None:
    groups_N = np.array([0, 0, 1, 1])
    failed_1_N = np.array([[True, False, False, False]])
    assert kept_items(failed_1_N, ["drop_item"], groups_N).tolist() == [False, True, True, True]
    assert kept_items(failed_1_N, ["drop_group"], groups_N).tolist() == [False, False, True, True]
    assert kept_items(failed_1_N, ["monitor_only"], groups_N).tolist() == [True] * 4


def test_reward_that_does_not_apply_leaves_its_weight_to_the_others() -> None:
    scores_R_N = np.array([[0.8, np.nan], [0.4, 0.4]])
    total_N = weighted_sum(scores_R_N, np.isfinite(scores_R_N), np.array([0.75, 0.25])).sum(0)
    np.testing.assert_allclose(total_N, [0.7, 0.4])  # not 0.1, as if the missing reward were 0


def test_gdpo_lets_a_narrow_reward_pull_as_hard_as_a_wide_one() -> None:
    """Two rewards rank four items in opposite directions, one spread over 0.8, the other over 0.16."""
    ramp = np.array([0.0, 1 / 3, 2 / 3, 1.0])
    scores_R_N = np.stack([0.8 * ramp, 0.5 - 0.16 * ramp])
    counted_R_N, weights_R, groups_N = np.ones((2, 4), bool), np.array([0.5, 0.5]), np.zeros(4, np.int64)
    np.testing.assert_allclose(gdpo(scores_R_N, counted_R_N, weights_R, groups_N).sum(0), 0, atol=1e-9)
    assert weighted_sum(scores_R_N, counted_R_N, weights_R).sum(0)[3] > 0.2


def test_gdpo_totals_are_centred_with_unit_variance() -> None:
    scores_R_N = np.random.default_rng(0).uniform(size=(3, 40))
    groups_N = np.repeat(np.arange(5), 8)
    total_N = gdpo(scores_R_N, np.ones((3, 40), bool), np.array([0.5, 0.3, 0.2]), groups_N).sum(0)
    assert total_N.mean() == pytest.approx(0, abs=1e-9)
    assert total_N.std() == pytest.approx(1)


def test_gdpo_does_not_blow_noise_up() -> None:
    rng = np.random.default_rng(0)
    nearly_constant = 0.5 + 1e-4 * rng.uniform(size=16)
    scores_R_N = np.stack([nearly_constant, rng.uniform(size=16)])
    groups_N = np.repeat([0, 1], 8)
    weights_R = np.array([0.5, 0.5])
    counted_R_N = np.ones((2, 16), bool)
    contributions_R_N = gdpo(scores_R_N, counted_R_N, weights_R, groups_N)
    assert contributions_R_N[0].std() < 0.01 * contributions_R_N[1].std()
    assert gdpo(scores_R_N[:1], counted_R_N[:1], weights_R[:1], groups_N).std() < 0.02  # nor a whole batch of it


def test_wrong_inputs_are_refused_with_what_came() -> None:
    scores, counted, weights = np.zeros((2, 3)), np.ones((2, 3), bool), np.ones(2)
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(3,\) and \(2,\)"):
        weighted_sum(scores, counted[0], weights)
    with pytest.raises(ValueError, match=r"weights must be finite and >= 0, got \[-1.0, 1.0\]"):
        weighted_sum(scores, counted, np.array([-1.0, 1.0]))
    with pytest.raises(ValueError, match="a score that counts is not finite"):
        weighted_sum(np.full((2, 3), np.nan), counted, weights)
    with pytest.raises(ValueError, match=r"expected groups of shape \(3,\), got \(2,\)"):
        gdpo(scores, counted, weights, np.zeros(2, np.int64))


def test_items_without_a_group_are_each_their_own() -> None:
    assert group_numbers(["b", "", "a", "b", ""]).tolist() == [0, 1, 2, 0, 3]


_REWARDS = ("concept-consistency", "text-faithfulness", "aesthetic", "understanding-correctness")
