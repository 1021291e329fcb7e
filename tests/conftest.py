"""What all tests share."""

import os

# Networks of toy width spend their time in barriers between threads: one each, before torch reads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
