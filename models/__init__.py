"""What is trained, and the process that trains it; knows no Prefect and no MLflow."""
