"""A vision transformer (F12)."""

import torch
from layers import Heads
from torch import nn


class Vit(nn.Module):
    def __init__(self, d=32, classes=10):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 8, 8)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, d)), nn.Parameter(torch.randn(1, 17, d))
        self.n1, self.n2, self.n3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = Heads(d, 4)
        self.mlp, self.out = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)), nn.Linear(d, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = x + self.attention(self.n1(x))
        x = x + self.mlp(self.n2(x))
        return self.out(self.n3(x)[:, 0])


NETWORKS = {"f12-vit": (Vit, lambda: [torch.rand(1, 3, 32, 32)])}
