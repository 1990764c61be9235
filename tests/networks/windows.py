"""A codec with attention in shifted windows and a checkerboard context (F3)."""

import math

import torch
from layers import c1, c3
from torch import nn
from torch.nn import functional as F


def partition(x, w):
    b, height, width, c = x.shape
    x = x.reshape(b, height // w, w, width // w, w, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)


def merge(x, w, height, width):
    x = x.reshape(-1, height // w, width // w, w, w, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def regions(height, width, w, shift):
    """0 between pixels of one region, -100 between those that the roll brought together."""
    strip = lambda n: (torch.arange(n) >= n - w).long() + (torch.arange(n) >= n - shift).long()
    label = (3 * strip(height)[:, None] + strip(width))[None, :, :, None]
    label = partition(label, w)[..., 0]
    return torch.where(label[:, None, :] == label[:, :, None], 0.0, -100.0)


def offsets(w):
    """Differences of the positions of two pixels of a window, rows then columns."""
    p = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij"), -1).reshape(-1, 2)
    return p[:, None] - p[None]


class WindowAttention(nn.Module):
    """Attention in windows, shifted or not; `cosine` for normalised queries and a bias by a network of the coordinates."""

    def __init__(self, c, heads, w, shift, cosine):
        super().__init__()
        self.heads, self.w, self.shift, self.cosine = heads, w, w // 2 if shift else 0, cosine
        self.qkv, self.out = nn.Linear(c, 3 * c, bias=not cosine), nn.Linear(c, c)
        if cosine:
            self.q_bias, self.v_bias = nn.Parameter(0.1 * torch.randn(c)), nn.Parameter(0.1 * torch.randn(c))
            self.tau = nn.Parameter(math.log(10) * torch.ones(heads, 1, 1))
            self.mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads, bias=False))
            t = torch.arange(-(w - 1), w) / (w - 1)
            t = torch.stack(torch.meshgrid(t, t, indexing="ij"), -1)
            self.register_buffer("coords", torch.sign(t) * torch.log2((8 * t).abs() + 1) / math.log2(8))
        else:
            self.table = nn.Parameter(0.1 * torch.randn((2 * w - 1) ** 2, heads))
        d = offsets(w) + w - 1
        self.register_buffer("index", (d[..., 0] * (2 * w - 1) + d[..., 1]).reshape(-1))

    def bias(self):
        n = self.w**2
        table = 16 * torch.sigmoid(self.mlp(self.coords).reshape(-1, self.heads)) if self.cosine else self.table
        return table[self.index].reshape(n, n, self.heads).permute(2, 0, 1)

    def forward(self, x):
        _, height, width, c = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = partition(x, self.w)
        qkv = self.qkv(x)
        if self.cosine:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = qkv.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.cosine:
            q = F.normalize(q, dim=-1) * self.tau.clamp(max=math.log(100)).exp()
            k = F.normalize(k, dim=-1)
        else:
            q = q * q.shape[-1] ** -0.5
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) + self.bias()
        if self.shift:
            scores = scores + regions(height, width, self.w, self.shift)[:, None]
        y = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        y = merge(self.out(y.transpose(1, 2).flatten(2)), self.w, height, width)
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


class Last(nn.Module):
    """A layer over the last axis, of images whose channels are the second."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinV2(nn.Module):
    def __init__(self, c, shift, heads=4, w=4):
        super().__init__()
        self.attention = WindowAttention(c, heads, w, shift, cosine=True)
        self.a, self.b = nn.LayerNorm(c), nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))

    def forward(self, x):
        x = x + self.a(self.attention(x))
        return x + self.b(self.mlp(x))


class Deformable(nn.Module):
    """Attention of all pixels to keys and values read at learned offsets of up to two cells."""

    def __init__(self, c):
        super().__init__()
        self.depthwise, self.norm, self.point = nn.Conv2d(c, c, 5, 1, 2, groups=c), nn.LayerNorm(c), c1(c, 2)
        self.q, self.k, self.v, self.out = c1(c, c), c1(c, c), c1(c, c), c1(c, c)

    def forward(self, x):
        _, c, h, w = x.shape
        q = self.q(x)
        o = self.norm(self.depthwise(q).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        o = 2 * torch.tanh(self.point(F.gelu(o)))
        gy, gx = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        grid = torch.stack([gx + o[:, 0] * (2 / (w - 1)), gy + o[:, 1] * (2 / (h - 1))], -1)
        there = F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)
        k, v = self.k(there).flatten(2), self.v(there).flatten(2)
        scores = torch.einsum("bcq,bck->bqk", q.flatten(2), k) * c**-0.5
        y = torch.einsum("bqk,bck->bcq", scores.softmax(-1), v)
        return self.out(y.reshape(x.shape))


class Windows(nn.Module):
    def __init__(self, n=16, m=24, slices=3):
        super().__init__()
        self.s = m // slices
        up = lambda: nn.ConvTranspose2d(n, n, 3, 2, 1, output_padding=1)
        swin = lambda shift: Last(SwinV2(n, shift))
        self.head = nn.Sequential(nn.Conv2d(3, n, 5, 2, 2), swin(False), swin(True), c3(n, n, 2))
        self.window, self.tail = Last(WindowAttention(n, 4, 4, True, cosine=False)), c3(n, m, 2)
        self.h_a = nn.Sequential(c3(m, n), nn.GELU(), c3(n, n, 2))
        self.h_s = nn.Sequential(c3(n, n), nn.GELU(), c3(n, 4 * 48), nn.PixelShuffle(2))
        before = [48 + self.s * i + (self.s if i else 0) for i in range(slices)]
        self.prior = nn.ModuleList(nn.Sequential(c1(c, 32), nn.GELU(), c3(32, 2 * self.s)) for c in before)
        self.again = nn.ModuleList(nn.Sequential(c1(c + self.s, 32), nn.GELU(), c3(32, 2 * self.s)) for c in before)
        self.fix = nn.ModuleList(c3(48 + self.s * (i + 1), self.s) for i in range(slices))
        self.deform = nn.ModuleList(Deformable(self.s * i) for i in range(1, slices))
        self.mix = nn.ModuleList(c1(self.s * i, self.s) for i in range(1, slices))
        self.first, self.g_s = up(), nn.Sequential(swin(False), up(), c3(n, 12), nn.PixelShuffle(2))
        self.enter = c1(m, n)

    def forward(self, x):
        x = self.head(x)
        y = self.tail(x + self.window(x))
        hyper = self.h_s(torch.round(self.h_a(y)))
        h, w = y.shape[2:]
        anchors = ((torch.arange(h)[:, None] + torch.arange(w)) % 2 == 0).float()
        done, codes = [], []
        for i, part in enumerate(y.split(self.s, 1)):
            context = hyper
            if i:
                known = torch.cat(done, 1)
                context = torch.cat([hyper, known, self.mix[i - 1](self.deform[i - 1](known))], 1)
            sigma, mu = self.prior[i](context).chunk(2, 1)
            q = torch.round((4 * part - mu) * anchors) * anchors
            here = (q + mu) * anchors
            sigma, mu = self.again[i](torch.cat([context, here], 1)).chunk(2, 1)
            q = q + torch.round((4 * part - mu) * (1 - anchors)) * (1 - anchors)
            got = here + (q + mu) * (1 - anchors)
            done.append(got + 0.5 * torch.tanh(self.fix[i](torch.cat([hyper, *done, got], 1))))
            codes.append(q)
        image = self.g_s(self.first(self.enter(torch.cat(done, 1))))
        return image, torch.cat(codes, 1).to(torch.int32)


NETWORKS = {"f3-window-codec": (Windows, lambda: [torch.rand(1, 3, 64, 64)])}
