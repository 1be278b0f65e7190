"""The formulas of the optimizers on one row, in float32, as the kernels of TensorFlow compute them.

A row has its weights, then its slots, each as wide as the weights; see optimizers.py for the order
of the numbers.
"""

from __future__ import annotations

import numpy as np

from tfos.kv.compiled import inlined

_0, _1 = np.float32(0), np.float32(1)


@inlined
def update(kind, row, gradient, width, numbers):
    """Changes row, float32 [width and slots], by gradient, float32 [width]."""
    if kind == 0:
        if numbers[1] == 0:
            _sgd(row, gradient, width, numbers)
        else:
            _momentum(row, gradient, width, numbers)
    elif kind == 1:
        _adagrad(row, gradient, width, numbers)
    elif kind == 2:
        _adam(row, gradient, width, numbers)
    elif kind == 3:
        _ftrl(row, gradient, width, numbers)
    elif kind == 4:
        _proximal_adagrad(row, gradient, width, numbers)
    else:
        _group_ftrl(row, gradient, width, numbers)


@inlined
def _sgd(row, gradient, width, numbers):
    rate = numbers[0]
    for d in range(width):
        row[d] -= rate * gradient[d]


@inlined
def _momentum(row, gradient, width, numbers):
    rate, momentum, nesterov = numbers[0], numbers[1], numbers[2]
    for d in range(width):
        change = rate * gradient[d]
        moved = momentum * row[width + d] - change
        row[width + d] = moved
        row[d] += momentum * moved - change if nesterov != 0 else moved


@inlined
def _adagrad(row, gradient, width, numbers):
    rate, epsilon = numbers[0], numbers[1]
    for d in range(width):
        g = gradient[d]
        n = row[width + d] + g * g
        row[width + d] = n
        divisor = np.sqrt(n) + epsilon
        if divisor > _0:  # else it is 0 / 0
            row[d] -= rate * g / divisor


@inlined
def _adam(row, gradient, width, numbers):
    scale, more_1, more_2, epsilon = numbers[0], numbers[1], numbers[2], numbers[3]
    for d in range(width):
        g = gradient[d]
        m = row[width + d] + (g - row[width + d]) * more_1
        v = row[2 * width + d] + (g * g - row[2 * width + d]) * more_2
        row[width + d], row[2 * width + d] = m, v
        divisor = np.sqrt(v) + epsilon
        if divisor > _0:
            row[d] -= scale * m / divisor


@inlined
def _ftrl(row, gradient, width, numbers):
    rate, l1, l2 = numbers[0], numbers[1], numbers[2]
    for d in range(width):
        g, w, n = gradient[d], row[d], row[width + d]
        more = n + g * g
        z = row[2 * width + d] + g - (np.sqrt(more) - np.sqrt(n)) / rate * w
        row[width + d], row[2 * width + d] = more, z
        row[d] = (np.copysign(l1, z) - z) / (np.sqrt(more) / rate + l2) if np.abs(z) > l1 else _0


@inlined
def _proximal_adagrad(row, gradient, width, numbers):
    rate, l1, l2 = numbers[0], numbers[1], numbers[2]
    for d in range(width):
        g = gradient[d]
        n = row[width + d] + g * g
        row[width + d] = n
        r = rate / np.sqrt(n)
        u = row[d] - r * g
        row[d] = np.copysign(max(np.abs(u) - r * l1, _0), u) / (_1 + r * l2)


@inlined
def _group_ftrl(row, gradient, width, numbers):
    rate, l1, l2, l21, beta = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    n = row[2 * width]  # one for the row
    more = _0
    for d in range(width):
        more += gradient[d] * gradient[d]
    more = n + more / np.float32(width)
    row[2 * width] = more
    sigma = (np.sqrt(more) - np.sqrt(n)) / rate
    mean = _0
    for d in range(width):
        z = row[width + d] + gradient[d] - sigma * row[d]
        row[width + d] = z
        soft = max(np.abs(z) - l1, _0)
        mean += soft * soft
    mean /= np.float32(width)
    scale = _0
    if mean > l21 * l21:
        scale = (_1 - l21 / np.sqrt(mean)) / ((beta + np.sqrt(more)) / rate + l2)
    for d in range(width):
        z = row[width + d]
        row[d] = np.copysign(scale * max(np.abs(z) - l1, _0), -z)
