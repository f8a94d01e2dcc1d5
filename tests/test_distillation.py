"""The distillation loss by hand and by property; the closed-form head against numpy's least squares."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrl.distillation import best_linear, distillation_loss, regret

WEIGHTS = st.fixed_dictionaries(
    {
        "q_weight": st.sampled_from([0.0, 0.1, 1.0]),
        "linear_range": st.sampled_from([0.1, 3.0, None]),
    }
)
ADVANTAGE_ONLY: dict[str, Any] = {"q_weight": 0.0, "linear_range": 0.2}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 999), WEIGHTS)
def test_zero_if_equal_and_positive_otherwise(seed: int, weights: dict[str, float]) -> None:
    teacher, other = draw(seed, 16, 3), draw(seed + 1000, 16, 3)
    assert float(distillation_loss(teacher, teacher.clone(), **weights)) == pytest.approx(0.0, abs=1e-12)
    assert float(distillation_loss(other, teacher, **weights)) > 0


@given(st.integers(0, 999), st.floats(0.01, 1000), WEIGHTS)
def test_the_scale_of_rewards_does_not_matter(seed: int, factor: float, weights: dict[str, float]) -> None:
    student, teacher = draw(seed, 16, 3), draw(seed + 1000, 16, 3)
    scaled = distillation_loss(factor * student, factor * teacher, **weights)
    assert float(scaled) == pytest.approx(float(distillation_loss(student, teacher, **weights)), rel=1e-6)


def test_regret_by_hand() -> None:
    teacher = torch.tensor([[1.0, 3.0], [4.0, 0.0]], dtype=torch.float64)
    assert regret(teacher + 7, teacher) == 0
    wrong_once = torch.tensor([[2.0, 2.5], [0.0, 0.1]], dtype=torch.float64)
    assert regret(wrong_once, teacher) == pytest.approx((0 + 4) / 2 / np.std([1, 3, 4, 0], ddof=1))


def test_by_hand() -> None:
    teacher = torch.tensor([[1.0, 3.0], [4.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[2.0, 2.0], [5.0, 3.0]], dtype=torch.float64)
    spread = math.sqrt((1 + 1 + 4 + 4) / 3)  # of the advantages -1, 1, 2, -2
    compress = [math.log1p(advantage / (0.2 * spread)) for advantage in (0, 1, 2)]
    advantage = (2 * (compress[0] - compress[1]) ** 2 + 2 * (compress[1] - compress[2]) ** 2) / 4
    assert float(distillation_loss(student, teacher, **ADVANTAGE_ONLY)) == pytest.approx(advantage)
    q_spread = np.std([1, 3, 4, 0], ddof=1)
    q = (1 + 1 + 1 + 9) / 4 / q_spread**2
    both = distillation_loss(student, teacher, q_weight=0.1, linear_range=0.2)
    assert float(both) == pytest.approx(advantage + 0.1 * q)
    linear = distillation_loss(student, teacher, q_weight=0.0, linear_range=None)
    assert float(linear) == pytest.approx((2 * 1 + 2 * 1) / 4 / spread**2)


def test_advantages_ignore_a_common_shift_and_q_does_not() -> None:
    teacher = draw(0, 8, 3)
    assert float(distillation_loss(teacher + 5, teacher, **ADVANTAGE_ONLY)) == pytest.approx(0.0, abs=1e-9)
    assert float(distillation_loss(teacher + 5, teacher, **{**ADVANTAGE_ONLY, "q_weight": 1.0})) > 1


@pytest.mark.parametrize("linear_range", [0.1, None])
def test_a_teacher_without_preferences(linear_range: float | None) -> None:
    teacher = torch.zeros(4, 2)
    student = torch.tensor([[0.0, 1.0]] * 4, requires_grad=True)
    loss = distillation_loss(student, teacher, q_weight=0.1, linear_range=linear_range)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def oracle(features: Tensor, answers: Tensor, ridge: float) -> tuple[Any, Any]:
    """Ridge regression as least squares with one more row per feature."""
    x, y = features.double().numpy(), answers.double().numpy()
    x0, y0 = x - x.mean(0), y - y.mean(0)
    penalty = ridge * np.mean(np.var(x, axis=0)) * len(x)
    rows = np.concatenate([x0, math.sqrt(penalty) * np.eye(x.shape[1])])
    weight = np.linalg.lstsq(rows, np.concatenate([y0, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0].T
    return weight, y.mean(0) - weight @ x.mean(0)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 3), st.sampled_from([1e-3, 0.1, 1.0]))
def test_best_linear_is_ridge_regression(seed: int, width: int, outputs: int, ridge: float) -> None:
    features, answers = draw(seed, 20, width).float() + 1, draw(seed + 1000, 20, outputs).float()
    weight, bias = best_linear(features, answers, ridge)
    expected_weight, expected_bias = oracle(features, answers, ridge)
    assert weight.shape == (outputs, width)
    np.testing.assert_allclose(weight, expected_weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 5))
def test_best_linear_recovers_a_linear_map(seed: int, width: int) -> None:
    features, weight, bias = draw(seed, 40, width), draw(seed + 1, 2, width), draw(seed + 2, 2)
    found_weight, found_bias = best_linear(features, features @ weight.T + bias, ridge=1e-9)
    np.testing.assert_allclose(found_weight, weight, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found_bias, bias, rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 5))
def test_best_linear_without_bias(seed: int, width: int) -> None:
    features, answers = draw(seed, 40, width) + 1, draw(seed + 1, 40, 2)
    weight, bias = best_linear(features, answers, ridge=1e-9, bias=False)
    expected = np.linalg.lstsq(features.numpy(), answers.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-4)
    assert bias.tolist() == [0, 0]


def test_features_that_never_change() -> None:
    features = torch.cat([draw(0, 30, 2), torch.zeros(30, 1), torch.ones(30, 1)], dim=1).float()
    answers = features[:, :1] * 2 + 3
    weight, bias = best_linear(features, answers)
    assert weight[0, 2:].abs().max() < 1e-6
    torch.testing.assert_close(features @ weight.T + bias, answers, rtol=0, atol=2e-2)
    weight, bias = best_linear(torch.zeros(10, 3), draw(0, 10, 2).float())
    assert (weight == 0).all()
    torch.testing.assert_close(bias, draw(0, 10, 2).float().mean(0))
