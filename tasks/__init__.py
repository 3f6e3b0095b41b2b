"""The stages: one file, one stage, one pure function from artifacts to an artifact."""
