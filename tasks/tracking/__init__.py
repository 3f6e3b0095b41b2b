"""The journal in MLflow: a projection of it, sent from beside the work."""
