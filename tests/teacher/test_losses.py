"""Each equation against the paper's formula, written with loops in double precision."""

import numpy as np
import pytest
import torch

from anomalib_students.teacher.losses import compactness_loss, distillation_loss, triplet_loss


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def equation_1(decoded, target):
    losses = []
    for one, other in zip(decoded, target, strict=True):
        losses.append(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)))
    return sum(losses) / len(losses)


def equations_2_to_4(anchors, positives, negatives, margin):
    losses = []
    for anchor, positive, negative in zip(anchors, positives, negatives, strict=True):
        to_positive = np.linalg.norm(anchor - positive) ** 2
        to_negative = min(np.linalg.norm(anchor - negative) ** 2, np.linalg.norm(positive - negative) ** 2)
        losses.append(max(0.0, margin + to_positive - to_negative))
    return sum(losses) / len(losses)


def equation_5(descriptors):
    correlations = np.corrcoef(descriptors, rowvar=False)
    dim = descriptors.shape[1]
    return sum(abs(correlations[i, j]) for i in range(dim) for j in range(dim) if i != j)


@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (1, 5), (4, 1), (6, 11)])
def test_distillation_loss_is_equation_1_averaged_over_the_batch(batch, dim):
    decoded, target = normal(batch, dim), normal(batch, dim, seed=1)
    loss = distillation_loss(torch.from_numpy(decoded), torch.from_numpy(target))
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(equation_1(decoded, target), rel=1e-12)


@pytest.mark.parametrize("margin", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (7, 3), (64, 2)])
def test_triplet_loss_is_equations_2_to_4_averaged_over_the_batch(batch, dim, margin):
    triplets = [normal(batch, dim, seed=seed) for seed in range(3)]
    loss = triplet_loss(*map(torch.from_numpy, triplets), margin)
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(equations_2_to_4(*triplets, margin), rel=1e-12)


@pytest.mark.parametrize("swapped", [True, False])
def test_gradient_of_the_triplet_loss_flows_through_the_nearer_pair(swapped):
    anchor, positive = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    negative = torch.tensor([[1.5, 0.5]]) if swapped else torch.tensor([[-0.5, 0.5]])
    for descriptor in (anchor, positive, negative):
        descriptor.requires_grad_()
    triplet_loss(anchor, positive, negative, margin=1.0).backward()

    nearer = positive if swapped else anchor
    to_positive, to_negative = 2 * (anchor - positive).detach(), 2 * (nearer - negative).detach()
    expected = {id(anchor): to_positive.clone(), id(positive): -to_positive}
    expected[id(nearer)] -= to_negative
    torch.testing.assert_close(anchor.grad, expected[id(anchor)])
    torch.testing.assert_close(positive.grad, expected[id(positive)])
    torch.testing.assert_close(negative.grad, to_negative)


@pytest.mark.parametrize(("batch", "dim"), [(2, 3), (5, 2), (16, 6), (64, 9)])
def test_compactness_loss_is_equation_5_with_absolute_values(batch, dim):
    descriptors = normal(batch, dim) @ normal(dim, dim, seed=1) + 3
    loss = compactness_loss(torch.from_numpy(descriptors))
    assert loss.ndim == 0
    assert float(loss) == pytest.approx(equation_5(descriptors), rel=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7])
def test_compactness_loss_leaves_out_a_constant_dimension(constant):
    descriptors = torch.randn(16, 4)
    with_constant = torch.cat([descriptors, torch.full((16, 1), constant)], dim=1)
    torch.testing.assert_close(compactness_loss(with_constant), compactness_loss(descriptors), rtol=0, atol=1e-2)


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7])
def test_gradient_of_the_compactness_loss_is_finite_for_a_constant_dimension(batch, constant):
    descriptors = torch.randn(batch, 4)
    descriptors[:, 1] = constant
    descriptors.requires_grad_()
    loss = compactness_loss(descriptors)
    loss.backward()
    assert loss.isfinite()
    assert descriptors.grad.isfinite().all()


def test_autocast_to_bfloat16_does_not_degrade_the_compactness_loss():
    descriptors = torch.randn(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        # What autocast does to the product of the correlations if it may.
        assert (descriptors.T @ descriptors).dtype == torch.bfloat16
        loss = compactness_loss(descriptors)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(equation_5(descriptors.double().numpy()), rel=1e-5)
