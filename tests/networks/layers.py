"""Layers that several networks share. `c3` and `c1` are convolutions of 3x3 and 1x1 that keep the extents, `norm` a GroupNorm."""

import math

import torch
from torch import nn
from torch.nn import functional as F

SCALES = torch.exp(torch.linspace(math.log(0.11), math.log(256), 64))


def c3(i, o, s=1):
    return nn.Conv2d(i, o, 3, s, 1)


def c1(i, o):
    return nn.Conv2d(i, o, 1)


def norm(channels, groups=8):
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Add(nn.Module):
    """The sum of a branch and its operand, or a projection of that."""

    def __init__(self, branch, skip=None):
        super().__init__()
        self.branch, self.skip = branch, skip or nn.Identity()

    def forward(self, x):
        return self.skip(x) + self.branch(x)


class GDN(nn.Module):
    """Generalised divisive normalisation (Balle et al. 2016); `simple` is that of the first power."""

    def __init__(self, channels, inverse=False, simple=False, beta_min=1e-6):
        super().__init__()
        self.inverse, self.simple, self.pedestal = inverse, simple, 2.0**-36
        self.beta_bound, self.gamma_bound = math.sqrt(beta_min + self.pedestal), math.sqrt(self.pedestal)
        self.beta = nn.Parameter(0.8 + 0.4 * torch.rand(channels))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + 0.02 * torch.rand(channels, channels)))

    def forward(self, x):
        beta = self.beta.clamp(min=self.beta_bound) ** 2 - self.pedestal
        gamma = self.gamma.clamp(min=self.gamma_bound) ** 2 - self.pedestal
        gamma = gamma[:, :, None, None]
        if self.simple:
            n = F.conv2d(x.abs(), gamma, beta)
            return x * n if self.inverse else x / n
        n = F.conv2d(x * x, gamma, beta)
        return x * torch.sqrt(n) if self.inverse else x * torch.rsqrt(n)


class ResBlock(nn.Module):
    """(norm, silu, conv) twice beside a skip; with `embed`, the projection of an embedding between them."""

    def __init__(self, i, o, embed=None, groups=8):
        super().__init__()
        self.a, self.b = nn.Sequential(norm(i, groups), nn.SiLU(), c3(i, o)), nn.Sequential(norm(o, groups), nn.SiLU(), c3(o, o))
        self.skip = c1(i, o) if i != o else nn.Identity()
        self.embed = nn.Linear(embed, o) if embed else None

    def forward(self, x, e=None):
        h = self.a(x)
        if self.embed is not None:
            h = h + self.embed(F.silu(e))[:, :, None, None]
        return self.skip(x) + self.b(h)


class PixelAttention(nn.Module):
    """Attention of one head over all pixels of an image."""

    def __init__(self, c, groups=8):
        super().__init__()
        self.norm, self.q, self.k, self.v, self.out = norm(c, groups), c1(c, c), c1(c, c), c1(c, c), c1(c, c)

    def forward(self, x):
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (f(y).reshape(b, c, h * w).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(y.transpose(1, 2).reshape(b, c, h, w))


class Heads(nn.Module):
    """Attention of several heads, of tokens to themselves or to a context; `normalise` for q and k before the heads."""

    def __init__(self, d, heads, context=None, width=None, bias=True, qkv_bias=True, normalise=None):
        super().__init__()
        inner = width or d
        self.heads = heads
        self.q = nn.Linear(d, inner, qkv_bias)
        self.k, self.v = nn.Linear(context or d, inner, qkv_bias), nn.Linear(context or d, inner, qkv_bias)
        self.out = nn.Linear(inner, d, bias)
        self.nq, self.nk = (normalise(inner), normalise(inner)) if normalise else (nn.Identity(), nn.Identity())

    def forward(self, x, context=None, mask=None, turn=None):
        context = x if context is None else context
        q, k, v = self.nq(self.q(x)), self.nk(self.k(context)), self.v(context)
        if turn is not None:
            q, k = turn(q), turn(k)
        q, k, v = (t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


def sinusoids(t, d):
    """Cosines and sines of positions `t`, `d` in all."""
    f = torch.exp(-math.log(10000) * torch.arange(d // 2, dtype=torch.float32) / (d // 2))
    a = t.float()[:, None] * f
    return torch.cat([torch.cos(a), torch.sin(a)], -1)


def warp(x, flow):
    """An image read where a flow, in pixels, says; beyond the border as on it."""
    h, w = x.shape[2:]
    gy, gx = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    gx, gy = gx + flow[:, 0] / ((w - 1) / 2), gy + flow[:, 1] / ((h - 1) / 2)
    return F.grid_sample(x, torch.stack([gx, gy], -1), "bilinear", "border", align_corners=True)


def gaussian_bits(q, sigma):
    """Bits of integers `q` under normal distributions of zero mean, integrated over each step."""
    cdf = lambda v: 0.5 + 0.5 * torch.erf(v * 2**-0.5)
    v = q.abs()
    p = cdf((0.5 - v) / sigma) - cdf((-0.5 - v) / sigma)
    return -torch.log2(p.clamp(min=1e-9)).sum()
