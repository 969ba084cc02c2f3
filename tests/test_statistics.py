"""Statistics against scipy, against numbers of the reference library, and by simulation."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fire_rl.results.scores import ATARI, REFERENCES, normalised
from fire_rl.results.statistics import (
    Floats,
    Scores,
    Statistic,
    area_after,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    seed_band,
    steps_to_recover,
)

# (runs, tasks), and what rliable 1.2.0 (arch 7.2.0, pandas 2.3.3) says about them.
X = np.array(
    [
        [0.834, 0.669, 0.573, 0.873],
        [0.554, 1.191, 0.903, 0.815],
        [0.232, 0.12, 0.254, 0.939],
        [0.802, 0.184, 0.932, 0.413],
        [0.413, 1.544, 0.763, 0.875],
        [0.883, 0.18, 0.913, 2.906],
    ]
)
Y = np.array(
    [
        [0.219, 1.011, 1.085, 1.074],
        [0.375, 0.455, 0.222, 0.57],
        [1.45, 0.335, 0.076, 0.618],
        [1.09, 0.494, 1.803, 0.522],
        [0.606, 0.241, 0.463, 1.064],
        [1.075, 1.371, 1.016, 0.862],
    ]
)
RLIABLE: dict[Statistic, tuple[float, float, float]] = {  # 20,000 repetitions
    mean: (0.781875, 0.596207, 1.004752),
    median: (0.6855, 0.564748, 0.907002),
    iqm: (0.7464166667, 0.567915, 0.866750),
    optimality_gap: (0.3281666667, 0.221166, 0.437958),
}


@pytest.mark.parametrize("statistic", RLIABLE)
def test_estimates_and_intervals_agree_with_the_reference_library(statistic: Statistic) -> None:
    value, lower, upper = RLIABLE[statistic]
    estimate = interval(statistic, list(X.T))
    assert estimate.value == pytest.approx(value, abs=1e-9)
    assert estimate.lower == pytest.approx(lower, abs=0.01)  # both are Monte Carlo
    assert estimate.upper == pytest.approx(upper, abs=0.01)
    assert estimate.seeds == 6


def test_probability_of_improvement_agrees_with_the_reference_library() -> None:
    estimate = probability_of_improvement(list(X.T), list(Y.T))
    assert estimate.value == pytest.approx(0.4652777778)
    assert estimate.lower == pytest.approx(0.2847, abs=0.03)
    assert estimate.upper == pytest.approx(0.6458, abs=0.03)


def test_performance_profile_agrees_with_the_reference_library() -> None:
    thresholds = np.array([0.25, 0.5, 1.0, 1.5, 2.0])
    value, lower, upper = performance_profile(list(X.T), thresholds, repetitions=5_000)
    np.testing.assert_allclose(value, np.array([20, 17, 3, 2, 1]) / 24)
    np.testing.assert_allclose(lower, np.array([17, 13, 0, 0, 0]) / 24, atol=0.05)
    np.testing.assert_allclose(upper, np.array([23, 21, 6, 5, 3]) / 24, atol=0.05)


scores = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)


@given(st.lists(scores, min_size=1, max_size=4))
def test_iqm_is_scipys_trimmed_mean(tasks: Scores) -> None:
    expected = scipy.stats.trim_mean(np.concatenate(tasks), 0.25)
    assert iqm(tasks) == pytest.approx(expected, abs=1e-9)


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys_u(x: Floats, y: Floats) -> None:
    u = scipy.stats.mannwhitneyu(x, y, method="asymptotic").statistic
    forth = probability_of_improvement([x], [y], repetitions=10)
    back = probability_of_improvement([y], [x], repetitions=10)
    assert forth.value == pytest.approx(u / (x.size * y.size))
    assert forth.value + back.value == pytest.approx(1)


def test_the_interval_of_a_mean_is_scipys() -> None:
    x = np.random.default_rng(3).gamma(2, size=40)
    expected = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=50_000, method="percentile"
    ).confidence_interval
    estimate = interval(mean, [x])
    assert (estimate.lower, estimate.upper) == pytest.approx(tuple(expected), abs=0.01)


@pytest.mark.parametrize("statistic", [mean, median, iqm, optimality_gap])
def test_intervals_cover_the_truth_at_the_nominal_rate(statistic: Statistic) -> None:
    """Four tasks with normal scores around known means, 20 seeds each, 400 experiments."""
    rng = np.random.default_rng(0)
    centres = [0.2, 0.5, 0.9, 1.4]
    truth = float(statistic([rng.normal(centre, 0.3, 400_000) for centre in centres]))
    covered = 0
    for _ in range(400):
        experiment = [rng.normal(centre, 0.3, 20) for centre in centres]
        estimate = interval(statistic, experiment, repetitions=400)
        covered += estimate.lower <= truth <= estimate.upper
    # Binomial noise is 1.1%; the percentile bootstrap of 20 seeds is a little narrow.
    assert 0.91 <= covered / 400 <= 0.975


@pytest.mark.parametrize("kind", ["bootstrap", "t"])
def test_bands_cover_the_mean_at_the_nominal_rate(kind: str) -> None:
    values = np.random.default_rng(1).normal(7.0, 2.0, (20, 4_000))
    lower, upper = seed_band(values, "t" if kind == "t" else "bootstrap", repetitions=1_000)
    rate = ((lower <= 7) & (upper >= 7)).mean()
    assert rate == pytest.approx(0.95, abs=0.01 if kind == "t" else 0.03)


@pytest.mark.parametrize("seeds", [3, 5, 31, 60])
def test_the_t_band_is_scipys(seeds: int) -> None:
    x = np.random.default_rng(2).normal(size=(seeds, 1))
    expected = scipy.stats.t.interval(0.95, seeds - 1, loc=x.mean(), scale=scipy.stats.sem(x[:, 0]))
    lower, upper = seed_band(x, "t")
    assert (lower[0], upper[0]) == pytest.approx(expected, abs=1e-4)


def test_bands_need_three_seeds_and_skip_absent_ones() -> None:
    values = np.array([[1.0, 1, 1], [2, 2, np.nan], [3, 3, 3], [6, np.nan, np.nan]])
    for kind in ("bootstrap", "t", "se", "sd"):
        lower, upper = seed_band(values, kind)
        assert np.isfinite(lower).tolist() == [True, True, False]
        assert np.isfinite(upper).tolist() == [True, True, False]
        if kind == "sd":
            assert lower[:2].tolist() == pytest.approx([3 - np.std([1, 2, 3, 6], ddof=1), 1])
        else:
            assert np.all(lower[:2] <= np.nanmean(values, axis=0)[:2])
    wrong: Any = "iqr"
    with pytest.raises(ValueError, match="none of bootstrap, t, se, sd"):
        seed_band(values, wrong)


def test_intervals_are_the_same_whatever_was_computed_before() -> None:
    tasks = list(X.T)
    first = interval(iqm, tasks, 2_000)
    interval(mean, list(Y.T), 100)
    assert interval(iqm, tasks, 2_000) == first


def test_tasks_may_have_different_numbers_of_seeds() -> None:
    tasks = [np.array([1.0, 2.0, 3.0]), np.array([10.0])]
    estimate = interval(mean, tasks, 5_000)
    assert estimate.value == 6
    assert (estimate.lower, estimate.upper) == pytest.approx((5.5, 6.5), abs=0.2)
    assert estimate.seeds == 1
    with pytest.raises(ValueError, match="at least one score"):
        interval(mean, [np.empty(0)])
    with pytest.raises(ValueError, match="2 tasks cannot be compared with 1"):
        probability_of_improvement(tasks, tasks[:1])


def test_area_after_and_steps_to_recover() -> None:
    x = np.array([0.0, 10, 20, 30, 40])
    y = np.array([0.0, 8, 2, 6, 10])
    assert area_after(x, y, 20) == pytest.approx((4 + 8) / 2)
    assert np.isnan(area_after(x, y, 40))
    assert steps_to_recover(x, y, reset=10, before=8) == 30
    assert steps_to_recover(x, y, reset=10, before=11) == np.inf
    assert np.isnan(steps_to_recover(x, y, reset=40, before=8))


def test_every_atari_game_has_reference_scores_under_its_registered_name() -> None:
    gymnasium.register_envs(ale_py)
    assert len(ATARI) == 57
    assert all(f"ALE/{game}-v5" in gymnasium.registry for game in ATARI)
    # Sums of the two columns of the published table, from a second transcription of it.
    assert sum(scores.random for scores in ATARI.values()) == pytest.approx(50_864.9)
    assert sum(scores.reference for scores in ATARI.values()) == pytest.approx(606_494.2)


def test_normalised_scores() -> None:
    for env, (random, reference) in REFERENCES.items():
        assert normalised(env, np.array([random, reference])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="no reference scores for control/CartPole-v1"):
        normalised("control/CartPole-v1", np.zeros(1))
