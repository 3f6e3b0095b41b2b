"""The servers of Prefect and MLflow, the lock before them, and the schedules on them."""
