"""The step of a training, what it updates, and what it leaves behind."""
