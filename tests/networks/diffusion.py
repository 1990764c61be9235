"""A latent diffusion UNet (F7)."""

import torch
from layers import Heads, ResBlock, c1, c3, norm, sinusoids
from torch import nn
from torch.nn import functional as F


class Geglu(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = nn.Linear(c, 8 * c), nn.Linear(4 * c, c)

    def forward(self, x):
        value, gate = self.a(x).chunk(2, -1)
        return self.b(value * F.gelu(gate))


class Spatial(nn.Module):
    """Pixels as tokens: self-attention, attention to a context, a gated network."""

    def __init__(self, c, context, heads=2):
        super().__init__()
        self.norm, self.enter, self.leave = norm(c), c1(c, c), c1(c, c)
        self.n1, self.n2, self.n3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.own, self.cross = Heads(c, heads, qkv_bias=False), Heads(c, heads, context, qkv_bias=False)
        self.mlp = Geglu(c)

    def forward(self, x, context):
        b, c, h, w = x.shape
        y = self.enter(self.norm(x)).flatten(2).transpose(1, 2)
        y = y + self.own(self.n1(y))
        y = y + self.cross(self.n2(y), context)
        y = y + self.mlp(self.n3(y))
        return x + self.leave(y.transpose(1, 2).reshape(b, c, h, w))


class UNet(nn.Module):
    def __init__(self, c=16, t=32, context=12):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, t), nn.SiLU(), nn.Linear(t, t))
        rb, st = lambda i, o: ResBlock(i, o, t), lambda c: Spatial(c, context)
        self.enter, self.a, self.sa, self.down = c3(4, c), rb(c, c), st(c), c3(c, c, 2)
        self.b, self.sb = rb(c, 2 * c), st(2 * c)
        self.m1, self.sm, self.m2 = rb(2 * c, 2 * c), st(2 * c), rb(2 * c, 2 * c)
        self.c, self.sc, self.up = rb(4 * c, 2 * c), st(2 * c), c3(2 * c, 2 * c)
        self.d, self.sd = rb(3 * c, c), st(c)
        self.out = nn.Sequential(norm(c), nn.SiLU(), c3(c, 4))

    def forward(self, x, t, context):
        e = self.time(sinusoids(t, 16))
        a = self.sa(self.a(self.enter(x), e), context)
        b = self.sb(self.b(self.down(a), e), context)
        m = self.m2(self.sm(self.m1(b, e), context), e)
        y = self.sc(self.c(torch.cat([m, b], 1), e), context)
        y = self.up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        return self.out(self.sd(self.d(torch.cat([y, a], 1), e), context))


def sample():
    return [torch.randn(1, 4, 16, 16), torch.tensor([321]), torch.randn(1, 5, 12)]


NETWORKS = {"f7-diffusion-unet": (UNet, sample)}
