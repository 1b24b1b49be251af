"""A logistic regression in numpy, its gradient in closed form, and the same as a step trick sees it."""

import numpy as np
import torch

from spaces.domain import Stage

X = np.random.default_rng(0).normal(size=(12, 5))
Y = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
START = np.random.default_rng(1).normal(size=(3, 5))
COUNTS = (60, 20, 5)


def gradient_of(w, a):
    """(1/B) Σ a_y ∇ CE (w) of a softmax regression: (p − onehot) xᵀ."""
    z = X @ w.T
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return ((p - np.eye(3)[Y]) * a[Y][:, None]).T @ X / len(Y)


def by_hand(rho, a):
    """The gradient that the optimiser steps along."""
    ascent = gradient_of(START, a)
    return gradient_of(START, 1 - a) + gradient_of(START + rho * ascent / (np.linalg.norm(ascent) + 1e-12), a)


class Gradient:
    """Of that regression, in two parameters so that the norm is one over both."""

    def __init__(self):
        self.left, self.right = (torch.nn.Parameter(torch.tensor(part)) for part in (START[:, :2], START[:, 2:]))
        self.optimiser = torch.optim.SGD([{"params": [self.left]}, {"params": [self.right]}], lr=1.0)
        self.passes = 0

    def losses(self):
        self.passes += 1
        z = torch.tensor(X) @ torch.cat((self.left, self.right), dim=1).T
        return torch.nn.functional.cross_entropy(z, torch.tensor(Y), reduction="none")

    def __call__(self, factors=None):
        losses = self.losses()
        (losses if factors is None else factors(torch.tensor(Y)) * losses).mean().backward()

    def parts(self, factors):
        losses = self.losses()
        for part in factors:
            (part(torch.tensor(Y)) * losses).mean().backward(retain_graph=True)
            yield

    def after(self, made, facts):
        """The gradient that a step trick leaves; the weights are as they were."""
        made.build(facts(*COUNTS))(self, self.optimiser)
        assert np.array_equal(torch.cat((self.left, self.right), dim=1).detach().numpy(), START)
        return torch.cat((self.left.grad, self.right.grad), dim=1).numpy()


def ends(make_plan, pipeline, *choices):
    """Networks after two epochs with these tricks, and the steps that were made."""
    found = []
    for choose in choices:
        run = pipeline(make_plan(Stage("a", epochs=2, batch_size=64, choose=choose)))
        run.run()
        found.append((run.network().state_dict(), run.cost.steps))
    return found
