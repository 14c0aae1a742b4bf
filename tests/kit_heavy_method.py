"""A method whose module brings torch."""

import kit_methods
import torch


class HeavyImport(kit_methods.Good):
    device = torch.device("cpu")
