"""How good a model is: evaluation on held-out documents, and what else the labels could have bought."""
