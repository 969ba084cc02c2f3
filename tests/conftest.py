"""Every test process computes on one thread: tests run side by side, and bits depend on threads."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ.setdefault("WANDB_MODE", "offline")

import torch

torch.set_num_threads(1)
