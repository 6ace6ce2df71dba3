"""One thread a process: the suite runs on two cores beside itself, and a number must not depend on the other tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
