"""One thread for the whole suite: results and times then do not depend on what else the machine does."""

import torch

torch.set_num_threads(1)
