"""Lets torchvision be imported beside a CPU build of torch: `pytest -p tests.support.torchvision_operators`.

Its wheels for Linux are built for CUDA, so that their compiled operators cannot be loaded there, and it looks for two
of them when it is imported. timm needs none; tests that need some are skipped.
"""

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
