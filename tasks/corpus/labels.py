"""Which labels a training may see: a balanced, seeded choice, the same for every model that is compared."""

import numpy as np

from tasks.core.errors import UserError


def choose_labels(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Positions (int64, shape [budget]) of a balanced, seeded choice of `budget` of the labels (int, shape [n]).

    Classes take turns in a seeded order, each drawing its examples in a seeded order, until the budget is spent:
    class counts differ by at most one unless a class runs out. A larger budget with the same seed contains the
    smaller one, so the points of a label-efficiency curve are nested.

    Raises UserError if there are fewer labels than the budget.
    """
    if budget > len(labels):
        raise UserError(
            f"A budget of {budget} labels was asked for and the pool has {len(labels)}: "
            "lower the budget of labels or enlarge the pool."
        )
    generator = np.random.default_rng(seed)
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    turn_of_class = generator.permutation(len(classes))
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    draw = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.lexsort((turn_of_class[inverse[by_class]], draw))
    return by_class[order[:budget]].astype(np.int64)
