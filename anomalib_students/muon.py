"""Muon: descent whose steps have equal singular values."""

from collections.abc import Callable, Iterable

import torch

LEAST_SINGULAR_VALUE = 1e-3
"""Of the largest; what is smaller is rounding of the gradient, which a step does not enlarge beyond this."""
VECTOR_RATE = 0.1  # Learning rate of the biases, as a multiple of that of the weights.


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024).

    A weight, as a matrix with a row for each output, moves along the nearest matrix with orthonormal rows or columns,
    and a bias along its signs: directions in which the gradient is small are learnt as fast as others.

    Args:
        parameters: Parameters to optimise.
        lr: Learning rate: the spectral norm of a step, see :func:`orthogonalise`.
        momentum: Fraction of the average gradient that a step keeps (Nesterov's momentum).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step along the gradients, which ``closure``, if there is one, computes together with the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                direction = parameter.grad.lerp(average, group["momentum"])
                step = orthogonalise(direction.flatten(1)) if direction.ndim > 1 else VECTOR_RATE * direction.sign()
                parameter.add_(step.view_as(parameter), alpha=-group["lr"])
        return loss


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Return the polar factor of a matrix ``(rows, columns)``, of the spectral norm ``max(1, rows / columns) ** 0.5``.

    Of a matrix U S V^T it is U V^T. The eigenvectors of the smaller Gram matrix give it at the least cost.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return orthogonalise(matrix.T).T * (rows / columns) ** 0.5
    gram = (matrix @ matrix.T).float()
    if not gram.isfinite().all():
        # The weights that follow say that the training has diverged, where an error of linear algebra would not.
        return matrix * torch.nan
    values, vectors = torch.linalg.eigh(gram)
    least = (LEAST_SINGULAR_VALUE**2 * values[-1]).clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors * values.clamp(min=least).rsqrt() @ vectors.T).to(matrix) @ matrix
