"""Codecs that quantise vectors by codebooks (F2)."""

import torch
from layers import GDN, Add, PixelAttention, ResBlock, c1, c3, norm
from torch import nn
from torch.nn import functional as F


def res(c):
    return Add(nn.Sequential(nn.SiLU(), c3(c, c), nn.SiLU(), c3(c, c)))


def res_down(c):
    return Add(nn.Sequential(nn.SiLU(), c3(c, c, 2), GDN(c), c3(c, c)), c3(c, c, 2))


def res_up(c):
    grow = lambda: [c3(c, 4 * c), nn.PixelShuffle(2)]
    return Add(nn.Sequential(nn.SiLU(), *grow(), GDN(c, inverse=True), c3(c, c)), nn.Sequential(*grow()))


class Gate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b, self.c = res(c), res(c), c1(c, c)

    def forward(self, x):
        return x + self.a(x) * torch.sigmoid(self.c(self.b(x)))


class Codebook(nn.Module):
    """`m` books of `k` vectors of `d`: indices of the nearest, and those vectors as an image."""

    def __init__(self, m, k, d):
        super().__init__()
        self.m, self.k, self.d = m, k, d
        self.book = nn.Parameter(0.3 * torch.randn(m, k, d))

    def forward(self, x):
        b, _, h, w = x.shape
        v = x.reshape(b, self.m, self.d, h * w).transpose(2, 3)
        near = (v * v).sum(-1, keepdim=True) + (self.book**2).sum(-1)[:, None] - 2 * v @ self.book.transpose(1, 2)
        codes = near.argmin(-1)
        table = self.book.reshape(-1, self.d)
        flat = codes + self.k * torch.arange(self.m)[:, None]
        y = F.embedding(flat, table).transpose(2, 3).reshape(b, -1, h, w)
        return codes.reshape(b, self.m, h, w), y


class Level(nn.Module):
    def __init__(self, c, m, k, last):
        super().__init__()
        self.latent, self.head = nn.Sequential(res_down(c), res(c)), nn.Sequential(res(c), c3(c, c))
        self.book = Codebook(m, k, c // m)
        self.rest = None if last else nn.Sequential(res(c), c3(c, c))
        self.this, self.above, self.grow = c3(c, c), None if last else c3(c, c), res_up(c)

    def code(self, x):
        x = self.latent(x)
        codes, y = self.book(self.head(x))
        return codes, y, None if self.rest is None else self.rest(x) - y

    def decode(self, y, above):
        return self.grow(self.this(y) if above is None else self.this(y) + self.above(above))


class McQuic(nn.Module):
    def __init__(self, c=16, m=2, books=(64, 32)):
        super().__init__()
        self.enc = nn.Sequential(c3(3, c, 2), res(c), res_down(c), Gate(c), res(c))
        self.levels = nn.ModuleList(Level(c, m, k, i + 1 == len(books)) for i, k in enumerate(books))
        self.dec = nn.Sequential(res(c), res_up(c), Gate(c), res(c), c3(c, 12), nn.PixelShuffle(2))

    def forward(self, x):
        x, codes, found = self.enc(x), [], []
        for level in self.levels:
            index, y, x = level.code(x)
            codes.append(index)
            found.append(y)
        o = None
        for level, y in zip(reversed(self.levels), reversed(found)):
            o = level.decode(y, o)
        return self.dec(o), *codes


class SimVQ(nn.Module):
    """A VQGAN whose code table is projected by one linear layer."""

    def __init__(self, c=16, k=64, d=16):
        super().__init__()
        halve = lambda c: [nn.ConstantPad2d((0, 1, 0, 1), 0.0), nn.Conv2d(c, c, 3, 2)]
        double = lambda c: [nn.Upsample(scale_factor=2), c3(c, c)]
        body = [c3(3, c), ResBlock(c, c), *halve(c), ResBlock(c, 2 * c), *halve(2 * c), ResBlock(2 * c, 2 * c)]
        tail = [PixelAttention(2 * c), norm(2 * c), nn.SiLU(), c3(2 * c, d), c1(d, d)]
        self.enc = nn.Sequential(*body, *tail)
        self.book, self.project = nn.Parameter(torch.randn(k, d)), nn.Linear(d, d)
        body = [c1(d, d), c3(d, 2 * c), PixelAttention(2 * c), ResBlock(2 * c, 2 * c), *double(2 * c)]
        tail = [ResBlock(2 * c, c), *double(c), ResBlock(c, c), norm(c), nn.SiLU(), c3(c, 3)]
        self.dec = nn.Sequential(*body, *tail)

    def forward(self, x):
        z = self.enc(x)
        b, d, h, w = z.shape
        v = z.flatten(2).transpose(1, 2)
        table = self.project(self.book)
        near = (v * v).sum(-1, keepdim=True) + (table * table).sum(-1) - 2 * v @ table.t()
        codes = near.argmin(-1)
        y = F.embedding(codes, table).transpose(1, 2).reshape(b, d, h, w)
        return self.dec(y), codes.reshape(b, h, w)


NETWORKS = {
    "f2a-mcquic": (McQuic, lambda: [torch.rand(1, 3, 64, 64)]),
    "f2b-simvq": (SimVQ, lambda: [torch.rand(1, 3, 32, 32)]),
}
