"""RESNET-20: the small residual network for pictures of 32 x 32, without its classifier: pictures -> features [n, 64].

Source: He et al. 2015, Deep Residual Learning for Image Recognition, section 4.2 (n = 3, shortcuts of option A).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad, relu

WIDTHS = (16, 32, 64)
BLOCKS = 3


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every second pixel, zeros for the channels that are new."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride, self.new = (1 if before == width else 2), width - before
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, width, s / stride, s / stride] for x [n, before, s, s]."""
        h = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        shortcut = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return relu(h + shortcut)


class ResNet20(nn.Module):
    """Pictures [n, 3, s, s] -> pooled features [n, 64]."""

    num_features = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])
        widths = [width for width in WIDTHS for _ in range(BLOCKS)]
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip([WIDTHS[0], *widths], widths, strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return self.blocks(relu(self.bn(self.conv(x)))).mean((2, 3))
