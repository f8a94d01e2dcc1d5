"""Spiking neurons against hand-computed traces and against step-by-step autograd."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snnrl.errors import UserError, did_you_mean
from snnrl.neurons import (
    GAMMA,
    IF,
    LIF,
    NEURONS,
    Binary,
    ExpandTime,
    FixedHoyer,
    Hoyer,
    SpikeCount,
    compiled,
    fire,
    lif_scan,
    linear_surrogate,
    sum_over_time,
)
from snnrl.neurons.compiled import compiled_scans
from snnrl.neurons.lif import SMALLEST_THRESHOLD
from snnrl.neurons.neuron import positive_percentile


class _Step(torch.autograd.Function):
    """Heaviside of z, with the triangular surrogate of height gamma: the oracle's own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.gamma = gamma
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        return grad * ctx.gamma * torch.relu(1 - z.abs()), None


class Naive(NamedTuple):
    spikes: Tensor
    potential: Tensor
    integrated: Tensor


def naive_scan(
    current: Tensor, threshold: Tensor, leak: Tensor, steps: int, potential: Tensor | None = None, gamma: float = GAMMA
) -> Naive:
    """One graph node per operation and step; the 0/1 mask of the reset is detached, its threshold is not."""
    membrane = torch.zeros_like(current[0]) if potential is None else potential
    spikes, integrated = [], []
    for t in range(steps):
        u = leak * membrane + (current[t] if len(current) > 1 else current[0])
        spike = _Step.apply(u / threshold - 1, gamma)
        membrane = u - threshold * spike.detach()
        spikes.append(spike)
        integrated.append(u)
    return Naive(torch.stack(spikes), membrane, torch.stack(integrated))


def number(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def column(*values: float) -> Tensor:
    """Return currents (T, 1, 1) of one neuron."""
    return torch.tensor(values).view(-1, 1, 1)


# --- hand-computed traces ------------------------------------------------------------------------------------------


def test_trace_without_leak() -> None:
    # v = 1, leak = 1, I = 0.75 each step, M_0 = 0:
    # U = 0.75 -> 0, M 0.75 | 1.5 -> 1, M 0.5 | 1.25 -> 1, M 0.25 | 1.0 -> 0 (strictly greater), M 1.0
    # U = 1.75 -> 1, M 0.75
    scan = lif_scan(column(0.75), number(1.0), number(1.0), 5, keep_potential=True)
    assert scan.spikes.flatten().tolist() == [0, 1, 1, 0, 1]
    assert scan.potential is not None
    assert scan.potential.item() == 0.75


def test_trace_with_leak() -> None:
    # v = 1, leak = 0.5, I = 1.5, 0.25, 1.5, 2.5, 0:
    # U = 1.5  -> 1, M 0.5
    # U = 0.25 + 0.25 = 0.5 -> 0, M 0.5
    # U = 0.25 + 1.5 = 1.75 -> 1, M 0.75
    # U = 0.375 + 2.5 = 2.875 -> 1, M 1.875 (one spike a step; the rest stays)
    # U = 0.9375 + 0 -> 0, M 0.9375
    scan = lif_scan(column(1.5, 0.25, 1.5, 2.5, 0.0), number(1.0), number(0.5), 5, keep_potential=True)
    assert scan.spikes.flatten().tolist() == [1, 0, 1, 1, 0]
    assert scan.potential is not None
    assert scan.potential.item() == 0.9375


def test_soft_reset_subtracts_the_threshold() -> None:
    # v = 0.5, I = 2: U = 2, M 1.5 | U = 3.5, M 3.0: twice the threshold is taken off, once per spike
    scan = lif_scan(column(2.0), number(0.5), number(1.0), 2, keep_potential=True)
    assert scan.potential is not None
    assert scan.potential.item() == 3.0


def test_carried_potential_leaks_in_at_the_first_step() -> None:
    # M_0 = 1.5, leak 0.5, v = 1, I = 0.5: U = 0.75 + 0.5 = 1.25 -> 1, M 0.25
    scan = lif_scan(column(0.5), number(1.0), number(0.5), 1, torch.tensor([[1.5]]), keep_potential=True)
    assert scan.spikes.item() == 1
    assert scan.potential is not None
    assert scan.potential.item() == 0.25


@pytest.mark.parametrize("steps", [1, 2])
def test_spike_only_strictly_above_threshold(steps: int) -> None:
    at = torch.tensor(0.3)
    above = torch.nextafter(at, torch.tensor(1.0))
    below = torch.nextafter(at, torch.tensor(0.0))
    spikes = lif_scan(torch.stack([below, at, above]).view(1, 3), at, torch.tensor(0.0), steps).spikes
    assert spikes[0].tolist() == [0, 0, 1]


# z = U / v - 1 = -1, -0.5, 0, 0.5, 1, 2; do/dz = 0.3 * max(0, 1 - |z|); do/dU has one factor 1 / v more
SURROGATE = [0.0, 0.15, 0.3, 0.15, 0.0, 0.0]


@pytest.mark.parametrize("v", [0.25, 1.0, 4.0])
def test_surrogate_values(v: float) -> None:
    potential = v * torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    torch.testing.assert_close(linear_surrogate(potential, v), torch.tensor(SURROGATE) / v, rtol=0, atol=1e-6)
    torch.testing.assert_close(linear_surrogate(potential, v, 0.6), torch.tensor(SURROGATE) * 2 / v, rtol=0, atol=2e-6)


@pytest.mark.parametrize("v", [0.5, 2.0])
def test_gradients_at_one_step(v: float) -> None:
    # do/dI = s(z) / v and do/dv = dz/dv s(z) = -U / v^2 s(z)
    potential = v * torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    for index, surrogate in enumerate(SURROGATE):
        current = potential[index].view(1, 1).requires_grad_()
        threshold, leak = number(v), number(0.7)
        lif_scan(current, threshold, leak, 1).spikes.sum().backward()
        assert threshold.grad is not None
        assert current.grad is not None
        assert current.grad.item() == pytest.approx(surrogate / v, abs=1e-6)
        assert threshold.grad.item() == pytest.approx(-potential[index].item() / v**2 * surrogate, abs=1e-6)
        assert leak.grad is None


def test_threshold_gradient_through_one_reset() -> None:
    # v = 1, leak = 0.5, I = 1.25, 0.5 (T = 2), L = o_2:
    # U_1 = 1.25 -> 1, M_1 = 0.25; U_2 = 0.125 + 0.5 = 0.625, z = -0.375, s = 0.3 * 0.625 = 0.1875
    # dU_2/dv = -leak = -0.5;  dz/dv = (dU_2/dv - U_2 / v) / v = -1.125;  dL/dv = -0.2109375
    # dL/dleak = s * M_1 = 0.046875;  dL/dI = leak * s, s = 0.09375, 0.1875
    current = column(1.25, 0.5).requires_grad_()
    threshold, leak = number(1.0), number(0.5)
    lif_scan(current, threshold, leak, 2).spikes[1].sum().backward()
    assert threshold.grad is not None
    assert leak.grad is not None
    assert current.grad is not None
    assert threshold.grad.item() == pytest.approx(-0.2109375, abs=1e-6)
    assert leak.grad.item() == pytest.approx(0.046875, abs=1e-6)
    assert current.grad.flatten().tolist() == pytest.approx([0.09375, 0.1875], abs=1e-6)


# --- against autograd ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    current: Tensor
    threshold: float
    leak: float
    steps: int
    potential: Tensor | None
    weights: Tensor


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Currents in eighths, thresholds odd multiples of 1/16: without leak no potential meets the threshold."""
    steps = draw(st.integers(1, 8))
    shape = (draw(st.integers(1, 3)), *draw(st.sampled_from([(), (3,), (2, 3), (2, 2, 3)])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def grid(*size: int) -> Tensor:
        return torch.randint(-8, 17, size, generator=generator).double() / 8

    return Case(
        grid(draw(st.sampled_from([1, steps])), *shape),
        draw(st.sampled_from([1, 5, 9, 17, 33])) / 16,
        draw(st.sampled_from([-0.75, 0.0, 0.25, 0.5, 0.75, 1.0])),
        steps,
        grid(*shape) if draw(st.booleans()) else None,
        torch.randn(steps, *shape, generator=generator, dtype=torch.float64),
    )


def _run(scan: Any, case: Case, dtype: torch.dtype) -> tuple[Any, list[Tensor]]:
    current = case.current.to(dtype, copy=True).requires_grad_()
    threshold, leak = number(case.threshold, dtype), number(case.leak, dtype)
    potential = None if case.potential is None else case.potential.to(dtype)
    kwargs = {"keep_potential": True} if scan is lif_scan else {}
    result = scan(current, threshold, leak, case.steps, potential, **kwargs)
    (result.spikes * case.weights.to(dtype)).sum().backward()
    gradients = [x.grad if x.grad is not None else torch.zeros_like(x) for x in (current, threshold, leak)]
    return result, gradients


def _distance_from_threshold(case: Case) -> float:
    integrated = naive_scan(
        case.current,
        number(case.threshold, torch.float64),
        number(case.leak, torch.float64),
        case.steps,
        case.potential,
    ).integrated
    return float((integrated.detach() - case.threshold).abs().min())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_scan_equals_autograd(dtype: torch.dtype, tolerance: float, case: Case) -> None:
    if _distance_from_threshold(case) < 1e-5:
        return  # a tie up to rounding: either answer is right
    expected, expected_gradients = _run(naive_scan, case, dtype)
    result, gradients = _run(lif_scan, case, dtype)
    assert torch.equal(result.spikes, expected.spikes)
    torch.testing.assert_close(result.potential, expected.potential, rtol=tolerance, atol=tolerance)
    scale = 1 + max(float(g.abs().max()) for g in expected_gradients)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_scan_equals_autograd_in_bfloat16(case: Case) -> None:
    # 8 bits of mantissa and potentials below 2^5: exact on the grid for leak 1 and 0; thresholds are off the grid
    case = case._replace(leak=float(round(abs(case.leak))), threshold=round(case.threshold * 8) / 8 + 1 / 16)
    if _distance_from_threshold(case) < 0.05:
        return
    expected, expected_gradients = _run(naive_scan, case, torch.float64)
    result, gradients = _run(lif_scan, case, torch.bfloat16)
    same = result.spikes.double() == expected.spikes
    assert result.spikes.dtype == torch.bfloat16
    assert same.double().mean() > 0.97
    if same.all():
        scale = 0.1 + max(float(g.abs().max()) for g in expected_gradients)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            assert float((ours.double() - theirs).abs().max()) < 0.03 * scale


@pytest.mark.parametrize("steps", [1, 4])
def test_channels_last_images_give_the_same(steps: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 5)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        current = images.contiguous(memory_format=layout).clone().requires_grad_()
        threshold, leak = number(0.4), number(0.9)
        spikes = lif_scan(current.unsqueeze(0), threshold, leak, steps).spikes
        (spikes * torch.arange(spikes.numel()).view(spikes.shape) / 100).sum().backward()
        gradients.append((spikes.detach(), current.grad, threshold.grad, leak.grad or torch.zeros(())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows of a larger batch": lambda whole: whole[:, :2],
    "every second step": lambda whole: whole[::2],
    "part of the features": lambda whole: whole[..., 1:3],
    "transposed": lambda whole: whole.transpose(1, 2),
    "expanded over the batch": lambda whole: whole[:, :1].expand(-1, 3, -1),
    "one neuron": lambda whole: whole[:, :1, :1],
    "flat": lambda whole: whole[:, :, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("carry", [False, True])
def test_memory_layout_does_not_matter(layout: str, steps: int, carry: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(2 * steps if layout == "every second step" else steps, 4, 5, generator=generator)
    weights = torch.randn(steps, 4, 5, generator=generator)
    found = []
    for scan in (lif_scan, naive_scan):
        base = whole.clone().requires_grad_()
        current = LAYOUTS[layout](base)
        threshold, leak = number(0.4), number(0.8)
        potential = current[0].detach() / 2 if carry else None
        spikes = scan(current, threshold, leak, steps, potential).spikes
        (spikes * weights.reshape(-1)[: spikes.numel()].view(spikes.shape)).sum().backward()
        leak_grad = leak.grad if leak.grad is not None else torch.zeros(())
        found.append((spikes.detach(), base.grad, threshold.grad, leak_grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own compiler does
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_compiled_scans_do_the_same(layout: str) -> None:
    torch.manual_seed(0)
    for steps, given_steps, carry in ((2, 2, False), (2, 1, True)):
        current = torch.randn(given_steps * 3, 4, 5, 6) + 0.5
        grad = torch.randn(steps * 3, 4, 5, 6)
        potential = torch.rand(3, 4, 5, 6) if carry else None
        if layout == "channels last":
            current = current.contiguous(memory_format=torch.channels_last)
        current = current.unflatten(0, (given_steps, 3)).requires_grad_()
        inputs = (current, torch.tensor(0.7, requires_grad=True), torch.tensor(0.9, requires_grad=True))
        found = []
        for wanted in (False, True):
            with compiled_scans(wanted):
                scan = lif_scan(*inputs, steps, potential, keep_potential=True)
            gradients = torch.autograd.grad(scan.spikes, inputs, grad.unflatten(0, (steps, 3)))
            found.append((*scan, *gradients))
        for passed, kernel in zip(*found, strict=True):
            torch.testing.assert_close(kernel, passed)
        assert torch.equal(found[0][0], found[1][0])
        assert found[0][0].stride() == found[1][0].stride()
        assert set(found[1][0].unique().tolist()) == {0.0, 1.0}


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Callable[..., Any]:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(compiled, "_kernel", fail)
    with pytest.raises(UserError, match=r"^neurons cannot be compiled for cpu here \(no compiler\): leave compile off"):
        compiled.check_compiles(torch.device("cpu"))


def test_float32_parameters_serve_other_precisions() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        threshold, leak = number(0.5), number(1.0)
        lif_scan(torch.full((1, 4), 0.4, dtype=dtype), threshold, leak, 3).spikes.sum().backward()
        assert threshold.grad is not None
        assert threshold.grad.dtype == torch.float32
        assert torch.isfinite(threshold.grad)


# --- what the scan promises ----------------------------------------------------------------------------------------


def test_one_step_keeps_no_state_and_ignores_the_leak() -> None:
    current = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    one = lif_scan(current, number(0.5), number(1.0), 1)
    assert one.potential is None
    assert torch.equal(one.spikes, fire(current, number(0.5)))
    for leak in (-1.0, 0.0, 0.3):
        assert torch.equal(one.spikes, lif_scan(current, number(0.5), number(leak), 1).spikes)
    # nor does the reset change anything: the longer way round, which resets, sends the same spikes
    assert torch.equal(one.spikes, lif_scan(current, number(0.5), number(1.0), 1, keep_potential=True).spikes)


@pytest.mark.parametrize("steps", [1, 8])
def test_graph_has_one_node_for_all_steps(steps: int) -> None:
    current = torch.randn(steps, 2, 3, requires_grad=True)
    threshold, leak = number(0.3), number(0.8)
    node = lif_scan(current, threshold, leak, steps).spikes.grad_fn
    assert node is not None
    inputs = [function.variable for function, _ in node.next_functions if function is not None]
    expected = [current, threshold] + ([leak] if steps > 1 else [])
    assert [id(x) for x in inputs] == [id(x) for x in expected]


def test_the_current_is_all_that_several_steps_keep() -> None:
    kept: list[torch.Size] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        lif_scan(torch.randn(1, 2, 3, requires_grad=True), number(0.3), number(0.8), 4)
    assert sorted(kept) == [(), (), (1, 2, 3)]


def test_carried_potential_is_a_constant() -> None:
    potential = torch.full((2, 3), 0.2, requires_grad=True)
    current = torch.full((1, 2, 3), 0.4, requires_grad=True)
    scan = lif_scan(current, number(0.5), number(1.0), 2, potential, keep_potential=True)
    scan.spikes.sum().backward()
    assert potential.grad is None
    assert current.grad is not None
    assert scan.potential is not None
    assert not scan.potential.requires_grad


def test_wrong_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="3 time steps, expected 1 or 4"):
        lif_scan(torch.zeros(3, 2), number(1.0), number(1.0), 4)


# --- the module ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_layer_folds_time_into_the_batch(steps: int) -> None:
    torch.manual_seed(2)
    current = torch.randn(2, 5)
    layer = LIF(steps, threshold=0.4, leak=0.9, encoder=True)
    spikes = layer(current)
    assert spikes.shape == (steps * 2, 5)
    expected = naive_scan(current.unsqueeze(0), layer.threshold, layer.leak, steps).spikes
    assert torch.equal(spikes, expected.flatten(0, 1))
    later = LIF(steps, threshold=0.4, leak=0.9)
    assert torch.equal(later(current.repeat(steps, 1)), spikes)  # time-major: row t * B + b
    assert "encoder" in repr(layer)
    assert "encoder" not in repr(later)


@pytest.mark.parametrize("steps", [1, 4])
def test_without_leak_it_is_a_leaky_neuron_that_never_leaks(steps: int) -> None:
    current = torch.randn(3, 7, generator=torch.Generator().manual_seed(4))
    found = []
    for layer in (IF(steps, threshold=0.4, encoder=True), LIF(steps, threshold=0.4, leak=1.0, encoder=True)):
        inputs = current.clone().requires_grad_()
        spikes = layer(inputs)
        (spikes * torch.arange(spikes.numel()).view_as(spikes)).sum().backward()
        layer.constrain()
        assert inputs.grad is not None
        assert layer.threshold.grad is not None
        found.append((spikes, inputs.grad, layer.threshold.grad))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    assert list(IF(steps).state_dict()) == [name for name, _ in IF(steps).named_parameters()] == ["threshold"]


def test_layer_keeps_nothing_between_forwards() -> None:
    layer = LIF(4, threshold=0.7, encoder=True)
    current = torch.rand(3, 6)
    first = layer(current)
    assert layer.potential is None
    assert torch.equal(first, layer(current))


def test_a_layer_counts_the_spikes_of_each_neuron() -> None:
    # v = 1, T = 5: I = 0.75 sends three spikes, 2 sends one at each step, 0.1 and 0 send none
    layer = LIF(5, encoder=True)
    layer.count = SpikeCount()
    assert layer.count.rate == 0
    layer(torch.tensor([[0.75, 2.0, 0.1], [0.75, 0.0, 0.0]]))
    layer(torch.zeros(1, 3))
    assert layer.count.spikes.tolist() == [6, 5, 0]
    assert layer.count.decisions == 3
    assert layer.count.rates.tolist() == pytest.approx([2, 5 / 3, 0])
    assert layer.count.rate == pytest.approx(11 / 9)
    assert not layer.count.spikes.requires_grad


@pytest.mark.parametrize("steps", [1, 3])
def test_counting_changes_no_spike_and_no_gradient(steps: int) -> None:
    answers = []
    for count in (None, SpikeCount()):
        layer = LIF(steps, 0.5)
        layer.count = count
        current = torch.randn(4 * steps, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
        spikes = layer(current)
        spikes.square().sum().backward()
        answers.append((spikes, current.grad, layer.threshold.grad))
    for plain, counted in zip(*answers, strict=True):
        assert plain is not None
        assert torch.equal(plain, counted)


def test_constrain_clamps_leak_and_threshold() -> None:
    layer = LIF(1, threshold=-2.0, leak=1.5)
    layer.constrain()
    assert layer.threshold.item() == pytest.approx(SMALLEST_THRESHOLD)
    assert layer.leak.item() == 1
    within = LIF(1, threshold=2.0, leak=-0.5)
    within.constrain()
    assert (within.threshold.item(), within.leak.item()) == (2.0, -0.5)


def test_parameters_may_be_given_as_integers() -> None:
    layer = LIF(1, threshold=2, leak=1)
    assert layer.threshold.dtype == layer.leak.dtype == torch.float32
    assert layer.spike_value == 2.0
    assert sorted(name for name, _ in layer.named_parameters()) == ["leak", "threshold"]


def test_percentile_by_hand() -> None:
    values = torch.arange(1.0, 11.0)  # 1..10: the 90th percentile is the ninth value
    assert positive_percentile(values, 90) == 9
    assert positive_percentile(values, 100) == 10
    assert positive_percentile(values, 1) == 1
    # nine of ten are negative: the 90th percentile is -1, so that of the positive one counts
    assert positive_percentile(torch.tensor([-9.0, -8, -7, -6, -5, -4, -3, -2, -1, 3]), 90) == 3
    assert positive_percentile(-values, 90) is None
    assert positive_percentile(values[:0], 90) is None


def test_calibration_sets_the_threshold() -> None:
    layer = LIF(2)
    assert layer.calibrate(torch.arange(1.0, 11.0).view(2, 5), 90)
    assert layer.threshold.item() == 9
    assert not layer.calibrate(-torch.ones(3), 90)
    assert layer.threshold.item() == 1
    assert layer.calibrate(torch.full((4,), 1e-7), 90)
    assert layer.threshold.item() == pytest.approx(SMALLEST_THRESHOLD)


# --- readout -------------------------------------------------------------------------------------------------------


def test_readout_sums_over_time() -> None:
    # rows are time-major: t0b0, t0b1, t1b0, t1b1
    current = torch.tensor([[1.0, 2], [3, 4], [10, 20], [30, 40]])
    assert sum_over_time(current, 2).tolist() == [[11, 22], [33, 44]]
    assert sum_over_time(current, 1) is current


def test_expand_time_repeats_rows_and_their_number() -> None:
    values = torch.tensor([[1.0], [2.0]])
    assert ExpandTime(3)(values).flatten().tolist() == [1, 2, 1, 2, 1, 2]
    assert ExpandTime(1)(values) is values
    assert ExpandTime(3)(7) == 21


def test_binary_activations_pass_the_gradient_straight_through() -> None:
    neuron = Binary(1)
    current = torch.tensor([[-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]], requires_grad=True)
    spikes = neuron(current)
    assert spikes.tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    (spikes * torch.arange(1.0, 8.0)).sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == [[0, 2, 3, 4, 5, 6, 0]]
    with pytest.raises(UserError, match="decide in one timestep"):
        Binary(2)(torch.ones(4, 1))


def test_known_neurons() -> None:
    assert {"lif": LIF, "if": IF, "binary": Binary, "hoyer": Hoyer, "hoyer-fixed": FixedHoyer} == NEURONS
    assert did_you_mean("lif_", NEURONS) == "; did you mean 'lif'?"
    assert did_you_mean("quadratic", NEURONS) == f"; known: {', '.join(sorted(NEURONS))}"


def _optimised(layer: nn.Module) -> Iterator[float]:
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    torch.manual_seed(0)
    current = torch.rand(64, 8)
    for _ in range(40):
        rate = layer(current).mean()
        optimiser.zero_grad()
        (rate - 0.25).pow(2).backward()
        optimiser.step()
        yield rate.item()


def test_threshold_learns_a_spike_rate() -> None:
    rates = list(_optimised(LIF(1, threshold=0.3, encoder=True)))
    assert rates[0] > 0.6
    assert abs(rates[-1] - 0.25) < 0.1
