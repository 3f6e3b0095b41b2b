"""Which functions of the project run in each stage: observed from outside, for tests/tasks/core/test_closure.py."""
