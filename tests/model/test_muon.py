"""The optimizer of the students against its definition by the singular value decomposition, in float64."""

import pytest
import torch
from torch import nn

from anomalib_students.muon import Muon, orthogonalise


def polar_factor(matrix: torch.Tensor) -> torch.Tensor:
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left @ right


@pytest.mark.parametrize(("shape", "norm"), [((5, 40), 1.0), ((40, 10), 2.0), ((7, 7), 1.0)])
def test_all_singular_values_of_a_step_are_equal(shape: tuple[int, int], norm: float) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # The Gram matrix, in float32, has the square of the condition, here up to some hundred.
    torch.testing.assert_close(orthogonalise(matrix).double(), norm * polar_factor(matrix), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0, 1e-12, 1e6])
def test_a_step_does_not_depend_on_the_scale_of_the_gradient(scale: float) -> None:
    """A gradient of zero, of dead units, moves nothing."""
    row = torch.linspace(-1, 1, 30)
    matrix = scale * torch.stack([row, row**2, 0 * row])
    expected = polar_factor(torch.stack([row, row**2])) * (scale > 0)
    step = orthogonalise(matrix)
    torch.testing.assert_close(step[:2].double(), expected, atol=1e-3, rtol=0)
    assert not step[2].any()


def test_steps_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(3, 4, 3), torch.rand(3, 2, 3, 5, 5)
    weight, bias = layer.weight.detach().double().clone(), layer.bias.detach().double().clone()
    optimizer = Muon(layer.parameters(), lr=0.1, momentum=0.75)
    averages = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for batch in images:
        optimizer.zero_grad()
        layer(batch).square().sum().backward()
        gradients = [layer.weight.grad.double(), layer.bias.grad.double()]
        averages = [0.75 * average + 0.25 * gradient for average, gradient in zip(averages, gradients, strict=True)]
        of_weight, of_bias = (0.75 * a + 0.25 * g for a, g in zip(averages, gradients, strict=True))
        weight -= 0.1 * polar_factor(of_weight.reshape(4, 27)).reshape(weight.shape)
        bias -= 0.1 * 0.1 * of_bias.sign()
        optimizer.step()
        torch.testing.assert_close(layer.weight.double(), weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.bias.double(), bias, atol=1e-6, rtol=0)


def test_gradients_that_are_not_finite_leave_weights_that_are_not() -> None:
    """They are noticed where scores are normalised; torch's decomposition would raise an error of its own."""
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.tensor([[1.0, torch.inf, 1.0], [1.0, 1.0, 1.0]])
    Muon([weight], lr=0.1).step()
    assert weight.isnan().all()
