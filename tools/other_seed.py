"""Run by a kernel at its start (as PYTHONSTARTUP): every seed that the chapter sets becomes another one."""

import os
import random

import numpy as np
import torch

_shift = int(os.environ["COURSE_SEED_SHIFT"])
_manual_seed, _default_rng = torch.manual_seed, np.random.default_rng


class _Generator(torch.Generator):
    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed + _shift)


class _Random(random.Random):  # a class, since libraries name it in annotations
    def __new__(cls, *args: object) -> random.Random:
        return super().__new__(cls)

    def __init__(self, seed: object = None) -> None:
        super().__init__(seed + _shift if isinstance(seed, int) else seed)


torch.manual_seed = lambda seed: _manual_seed(seed + _shift)
torch.Generator = _Generator
np.random.default_rng = lambda seed=None: _default_rng(seed if not isinstance(seed, int) else seed + _shift)
random.Random = _Random
