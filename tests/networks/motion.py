"""A codec of video that compensates motion and codes in four parts (F4)."""

import math

import torch
from layers import c1, c3, warp
from torch import nn
from torch.nn import functional as F

#: Which of the positions of a 2x2 cell a group of channels codes, by part.
ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


class DCB(nn.Module):
    """A depthwise block: a mixing half and a gated half, each beside a skip."""

    def __init__(self, i, o):
        super().__init__()
        self.mix = nn.Sequential(c1(i, i), nn.LeakyReLU(0.01), nn.Conv2d(i, i, 3, 1, 1, groups=i), c1(i, o))
        self.skip = c1(i, o) if i != o else nn.Identity()
        self.grow, self.shrink = c1(o, 4 * o), c1(2 * o, o)

    def forward(self, x):
        x = self.skip(x) + self.mix(x)
        a, b = self.grow(x).chunk(2, 1)
        return x + self.shrink(F.leaky_relu(a, 0.1) + F.leaky_relu(b, 0.01))


class Flow(nn.Module):
    """Two levels, coarse first; each sees both images, the reference as the flow so far warps it."""

    def __init__(self):
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(8, 16, 7, 1, 3), nn.ReLU(), nn.Conv2d(16, 2, 7, 1, 3))
        self.fine = nn.Sequential(nn.Conv2d(8, 8, 5, 1, 2), nn.ReLU(), nn.Conv2d(8, 2, 5, 1, 2))

    def forward(self, x, ref):
        a, b = F.avg_pool2d(x, 2), F.avg_pool2d(ref, 2)
        flow = self.coarse(torch.cat([a, b, torch.zeros_like(a[:, :2])], 1))
        flow = F.interpolate(flow, scale_factor=2.0, mode="bilinear") * 2
        return flow + self.fine(torch.cat([x, warp(ref, flow), flow], 1))


class Diversity(nn.Module):
    """A context from two groups of features, each read at two offsets from the motion."""

    def __init__(self, c=8, groups=2, ways=2):
        super().__init__()
        self.g, self.ways = groups, ways
        self.net = nn.Sequential(c3(c + 5, 16, 1), nn.LeakyReLU(0.1), c3(16, 3 * groups * ways))
        self.fuse = nn.Conv2d(c * ways, c, 1, groups=groups)

    def forward(self, feature, aligned, ref, mv):
        b, c, h, w = feature.shape
        offset, mask = self.net(torch.cat([aligned, warp(ref, mv), mv], 1)).split([2 * self.g * self.ways, self.g * self.ways], 1)
        offset = 40 * torch.tanh(0.1 * offset) + mv.tile(1, self.g * self.ways, 1, 1)
        mask = torch.sigmoid(mask).reshape(-1, 1, h, w)
        groups = feature.reshape(b * self.g, c // self.g, h, w).repeat_interleave(self.ways, 0)
        read = warp(groups, offset.reshape(-1, 2, h, w)) * mask
        return self.fuse(read.reshape(b, c * self.ways, h, w)) + aligned


def shuffle(i, o):
    return nn.Sequential(c1(i, 4 * o), nn.PixelShuffle(2))


class FourParts(nn.Module):
    """Codes a quarter of each group's positions at a time; each part sees those before it."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.enter = nn.ModuleList(nn.Sequential(c1(4 * c, 2 * c), DCB(2 * c, 2 * c)) for _ in range(3))

    def masks(self, h, w):
        cell = 2 * (torch.arange(h)[:, None] % 2) + torch.arange(w) % 2
        for order in ORDERS:
            parts = [(cell == p).float().expand(self.c // 4, h, w) for p in order]
            yield torch.cat(parts)[None]

    def forward(self, y, prior):
        step, sigma, mu = prior.split(self.c, 1)
        step = step.clamp(min=0.5)
        y, got, codes, bits = y / step, 0, 0, []
        for i, m in enumerate(self.masks(*y.shape[2:])):
            if i:
                sigma, mu = self.enter[i - 1](torch.cat([got, step, sigma, mu], 1)).chunk(2, 1)
            q = torch.round((y - mu) * m)
            codes, got = codes + q, got + (q + mu) * m
            bits.append(sigma * m)
        return got * step, codes, sum(bits)


class Motion(nn.Module):
    def __init__(self, c=8, m=16):
        super().__init__()
        self.flow = Flow()
        self.mv_enc = nn.Sequential(nn.Conv2d(2, 16, 3, 2, 1), DCB(16, 16), nn.Conv2d(16, 8, 3, 2, 1))
        self.mv_dec = nn.Sequential(DCB(8, 8), shuffle(8, 8), DCB(8, 8), shuffle(8, 2))
        self.diversity = Diversity(c)
        self.enc = nn.Sequential(nn.Conv2d(3 + c, 16, 3, 2, 1), DCB(16, 16), nn.Conv2d(16, m, 3, 2, 1))
        self.scale = nn.Parameter(torch.tensor([0.5, 8.0]))
        self.inverse = nn.Parameter(torch.tensor([2.0, 0.125]))
        self.h_a, self.h_s = nn.Sequential(DCB(m, m), nn.Conv2d(m, 8, 3, 2, 1)), nn.Sequential(shuffle(8, 16), DCB(16, m))
        self.temporal = nn.Sequential(nn.Conv2d(c, 16, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(16, m, 3, 2, 1))
        self.prior = nn.Sequential(DCB(3 * m, 3 * m), c1(3 * m, 3 * m))
        self.parts = FourParts(m)
        self.dec = nn.Sequential(shuffle(m, 16), DCB(16, 16), shuffle(16, c))
        self.recon, self.image = DCB(2 * c, c), c3(c, 3)

    def rate(self, ends, i):
        low, high = torch.log(ends[0]), torch.log(ends[1])
        return torch.exp(low + i * (high - low) / 63)

    def forward(self, x, ref, feature, previous, quality):
        mv = self.mv_dec(torch.round(4 * self.mv_enc(self.flow(x, ref))))
        context = self.diversity(feature, warp(feature, mv), ref, mv)
        y = self.enc(torch.cat([x, context], 1)) * self.rate(self.scale, quality)
        z = torch.round(self.h_a(y))
        prior = self.prior(torch.cat([self.temporal(context), self.h_s(z), previous], 1))
        got, codes, _ = self.parts(y, prior)
        feature = self.recon(torch.cat([self.dec(got * self.rate(self.inverse, quality)), context], 1))
        return self.image(feature).clamp(0, 1), feature, got, codes.to(torch.int32)


def sample():
    image = lambda: torch.rand(1, 3, 32, 32)
    return [image(), image(), torch.randn(1, 8, 32, 32), torch.randn(1, 16, 8, 8), torch.tensor(21.0)]


NETWORKS = {"f4-motion-codec": (Motion, sample)}
