"""What happens in which order: Prefect flows, the recipe, the command line."""
