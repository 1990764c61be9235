"""A diffusion transformer of video (F6)."""

import math

import torch
from layers import Heads, sinusoids
from torch import nn
from torch.nn import functional as F


def rms(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def turner(positions, d, theta=10000.0):
    """The rotation of neighbouring pairs by three positions each, over the whole width."""
    p = positions / torch.tensor([20.0, 2048.0, 2048.0])[:, None]
    steps = theta ** torch.linspace(0, 1, d // 6) * math.pi / 2
    a = ((2 * p - 1)[..., None] * steps).permute(0, 2, 3, 1).flatten(2)
    cos, sin = a.cos().repeat_interleave(2, -1), a.sin().repeat_interleave(2, -1)

    def turn(x):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack([-b, a], -1).flatten(2) * sin

    return turn


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        normalise = lambda n: nn.RMSNorm(n, eps=1e-6)
        self.table = nn.Parameter(0.1 * torch.randn(6, d))
        self.own, self.text = Heads(d, heads, normalise=normalise), Heads(d, heads, normalise=normalise)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU("tanh"), nn.Linear(4 * d, d))

    def forward(self, x, e, text, mask, turn):
        b1, s1, g1, b2, s2, g2 = (self.table + e).unbind(1)
        one = lambda v: v[:, None]
        x = x + one(g1) * self.own(rms(x) * (1 + one(s1)) + one(b1), turn=turn)
        x = x + self.text(x, text, mask=mask)
        return x + one(g2) * self.mlp(rms(x) * (1 + one(s2)) + one(b2))


class VideoTransformer(nn.Module):
    def __init__(self, d=48, heads=4, blocks=2):
        super().__init__()
        self.enter, self.text = nn.Linear(8, d), nn.Sequential(nn.Linear(24, d), nn.GELU("tanh"), nn.Linear(d, d))
        self.time = nn.Sequential(nn.Linear(32, d), nn.SiLU(), nn.Linear(d, d))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(blocks))
        self.table, self.norm = nn.Parameter(0.1 * torch.randn(2, d)), nn.LayerNorm(d, 1e-6, elementwise_affine=False)
        self.out = nn.Linear(d, 8)

    def forward(self, x, positions, text, mask, t):
        d = self.out.in_features
        time = self.time(sinusoids(1000 * t, 32))
        e = self.modulation(time).reshape(-1, 6, d)
        x, text, turn = self.enter(x), self.text(text), turner(positions, d)
        mask = ((1 - mask) * -1e4)[:, None, None]
        for block in self.blocks:
            x = block(x, e, text, mask, turn)
        shift, scale = (self.table + time[:, None]).unbind(1)
        return self.out(self.norm(x) * (1 + scale[:, None]) + shift[:, None])


def sample():
    p = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(4), indexing="ij")).reshape(1, 3, 24)
    mask = torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    return [torch.randn(1, 24, 8), 32.0 * p, torch.randn(1, 6, 24), mask, torch.tensor([0.7])]


NETWORKS = {"f6-video-transformer": (VideoTransformer, sample)}
