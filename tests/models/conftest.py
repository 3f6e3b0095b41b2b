"""Property tests are timed by the whole suite's limit: a deadline per example fails on a machine that is busy."""

import os

from hypothesis import settings

# Before torch is imported, here and in children: on two busy cores a tiny model trains ten times slower on two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
