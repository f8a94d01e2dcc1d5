"""Losses and a closed-form start that let a network at few timesteps imitate a teacher's Q-values."""

import torch
from torch import Tensor
from torch.nn import functional


def distillation_loss(student: Tensor, teacher: Tensor, *, q_weight: float, linear_range: float | None) -> Tensor:
    """Return the loss between Q-values ``(B, actions)`` of student and teacher, a scalar.

    With A = (Q - mean_a Q) / s_A, s_A and s_Q the teacher's standard deviations over the batch (so that no
    environment's reward scale matters): mean (f(A_s) - f(A_t))^2 + q_weight * mean (Q_s - Q_t)^2 / s_Q^2.

    The advantage decides the action. f(a) = sign(a) log(1 + |a| / linear_range) keeps the few states where an action is
    disastrous from drowning the many where the better one is better by little; without a ``linear_range`` f(a) = a,
    for a game that those few states decide.
    """
    student_advantage = student - student.mean(dim=1, keepdim=True)
    teacher_advantage = teacher - teacher.mean(dim=1, keepdim=True)
    spread = teacher_advantage.std().clamp(min=1e-6)
    if linear_range is None:
        loss = functional.mse_loss(student_advantage / spread, teacher_advantage / spread)
    else:
        scale = linear_range * spread
        loss = functional.mse_loss(_compress(student_advantage / scale), _compress(teacher_advantage / scale))
    if q_weight:
        q_spread = teacher.std().clamp(min=1e-6)
        loss = loss + q_weight * functional.mse_loss(student / q_spread, teacher / q_spread)
    return loss


def regret(student: Tensor, teacher: Tensor) -> float:
    """Return what the student's choices cost by the teacher's Q-values ``(B, actions)``, in their standard deviations.

    mean (max_a Q_t - Q_t(argmax_a Q_s)) / std Q_t: unlike the share of equal actions, it does not count against the
    student that it prefers another one of two equally good actions.
    """
    chosen = teacher.gather(1, student.argmax(dim=1, keepdim=True))
    lost = teacher.max(dim=1, keepdim=True).values - chosen
    return float(lost.mean() / teacher.std().clamp(min=1e-6))


def _compress(values: Tensor) -> Tensor:
    return values.sign() * torch.log1p(values.abs())


def best_linear(features: Tensor, answers: Tensor, ridge: float = 1e-3, *, bias: bool = True) -> tuple[Tensor, Tensor]:
    """Return weight ``(K, H)`` and bias ``(K,)`` of the linear layer that maps features to answers best.

    Ridge regression, argmin_W sum |F W^T + b - Y|^2 + ridge * mean_i C_ii |W|^2 with C the features' covariance,
    ``features`` ``(N, H)``, ``answers`` ``(N, K)``; the bias is not penalised. Without ``bias``, b is zero and C the
    features' second moments.
    """
    features, answers = features.double(), answers.double()
    centre, mean = features.mean(0) * bias, answers.mean(0) * bias
    deviations = features - centre
    covariance = deviations.T @ deviations / len(features)
    penalty = ridge * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(covariance), dtype=torch.float64)
    weight = torch.linalg.solve(covariance + penalty, deviations.T @ (answers - mean) / len(features)).T
    return weight.float(), (mean - weight @ centre).float()
