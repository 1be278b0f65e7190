"""How good scores are: what Keras's metrics say of a model, in NumPy."""

from __future__ import annotations

import numpy as np


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, AUC and mean log loss. logits: float [rows]; labels: 0 or 1 [rows]."""
    logits, labels = logits.astype(np.float64), labels.astype(np.float64)
    _, order, count = np.unique(logits, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[order]  # of equal scores the mean rank
    ones = labels.sum()
    zeros = len(labels) - ones
    return {
        "test_accuracy": float(np.mean((logits > 0) == (labels > 0))),
        "test_auc": float((ranks[labels > 0].sum() - ones * (ones + 1) / 2) / (ones * zeros)),
        "test_loss": float(np.mean(np.logaddexp(0, logits) - labels * logits)),
    }
