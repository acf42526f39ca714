"""One thread per test process: the models are tiny, and results do not depend on how many cores there are."""

import torch

torch.set_num_threads(1)
