"""Restoration and super-resolution (F8)."""

import torch
from layers import c3
from torch import nn
from torch.nn import functional as F


def double(i, o):
    layer = lambda i: [nn.Conv3d(i, o, 3, 1, 1), nn.ReLU(), nn.BatchNorm3d(o)]
    return nn.Sequential(*layer(i), *layer(o))


class UNet3d(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        self.a, self.b, self.c = double(2, w), double(w, 2 * w), double(2 * w, 4 * w)
        self.up2, self.up1 = nn.ConvTranspose3d(4 * w, 2 * w, 2, 2), nn.ConvTranspose3d(2 * w, w, 2, 2)
        self.d, self.e, self.out = double(4 * w, 2 * w), double(2 * w, w), nn.Conv3d(w, 1, 1)

    def forward(self, x, prior):
        def joined(deep, skip):
            return torch.cat([skip, F.interpolate(deep, skip.shape[2:], mode="trilinear")], 1)

        a = self.a(torch.cat([x, prior], 1))
        b = self.b(F.avg_pool3d(a, 2))
        y = self.up2(self.c(F.avg_pool3d(b, 2)))
        y = self.up1(self.d(joined(y, b)))
        return self.out(self.e(joined(y, a)))


class Rrdb3d(nn.Module):
    """Residual in residual dense blocks of volumes."""

    def __init__(self, c=8, growth=4):
        super().__init__()
        conv = lambda i, o: nn.Conv3d(i, o, 3, 1, 1)
        self.enter = conv(3, c)
        self.dense = nn.ModuleList(conv(c + growth * i, growth if i < 4 else c) for i in range(5))
        self.grow, self.out = conv(c, 64), conv(8, 3)

    def forward(self, x):
        small = F.max_pool3d(x, 2)
        first = x = self.enter(small)
        for i, conv in enumerate(self.dense):
            y = conv(x)
            x = torch.cat([x, F.leaky_relu(y, 0.2)], 1) if i < 4 else y
        x = first + 0.2 * (first + 0.2 * x)
        b, _, t, h, w = x.shape
        x = self.grow(x).reshape(b, 8, 2, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return self.out(F.leaky_relu(x.reshape(b, 8, 2 * t, 2 * h, 2 * w), 0.2)), small


class Nested(nn.Module):
    """UNets one inside the other: each stage goes one level deeper and comes back past all earlier nodes."""

    def __init__(self, stages=3, c=8):
        super().__init__()
        self.enter = nn.Sequential(c3(1, c), nn.ReLU(), c3(c, c))
        self.down = nn.ModuleList(nn.Sequential(c3(c, c), c3(c, c, 2), c3(c, c)) for _ in range(stages))
        levels = [list(range(k, -1, -1)) for k in range(stages)]
        self.up = nn.ModuleList(nn.ModuleList(nn.ConvTranspose2d(c, c, 3, 2, 1) for _ in l) for l in levels)
        fuse = lambda earlier: nn.Sequential(c3((earlier + 1) * c, c), nn.ReLU(), c3(c, c))
        self.fuse = nn.ModuleList(nn.ModuleList(fuse(k - i + 1) for i in l) for k, l in enumerate(levels))
        self.exit = nn.ModuleList(c3(c, 1) for _ in range(stages))

    def start(self, x):
        return [[self.enter(x)]]

    def stage(self, k, nodes, x):
        """Output `k`, and the nodes by level with those of this stage."""
        nodes = [list(level) for level in nodes] + [[self.down[k](nodes[k][0])]]
        y = nodes[k + 1][0]
        for i in range(k, -1, -1):
            y = self.up[k][k - i](y)
            skip = nodes[i][0]
            y = F.pad(y, (0, skip.shape[3] - y.shape[3], 0, skip.shape[2] - y.shape[2]))
            y = self.fuse[k][k - i](torch.cat([*nodes[i], y], 1))
            nodes[i].append(y)
        return self.exit[k](y) + x, nodes

    def forward(self, x):
        nodes, images = self.start(x), []
        for k in range(len(self.down)):
            y, nodes = self.stage(k, nodes, x)
            images.append(y)
        return tuple(images)


class Quality(nn.Module):
    """How little an image looks coded: blocking and blurring of patches that straddle the edges of coding blocks."""

    def __init__(self, patch=4, grid=8):
        super().__init__()
        self.patch, self.grid = patch, grid
        a, b = 0.6708, 0.2236
        rows = [[0.5] * 4, [-a, -b, b, a], [0.5, -0.5, -0.5, 0.5], [-b, a, -a, b]]
        self.register_buffer("basis", torch.tensor(rows))
        t = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / 50)
        self.register_buffer("blur", (t[:, None] * t / t.sum() ** 2)[None, None])

    def moments(self, p):
        return self.basis @ p @ self.basis.t()

    def forward(self, x):
        g, n = self.grid, self.patch
        h, w = x.shape[2] // g - 1, x.shape[3] // g - 1
        lo = g - n // 2
        inner = x[0, 0, lo : lo + h * g, lo : lo + w * g]
        p = inner.reshape(h, g, w, g).permute(0, 2, 1, 3)[:, :, :n, :n].reshape(-1, n, n)
        norm = (p * p).sum((1, 2), keepdim=True).sqrt()
        p = p / torch.where(norm > 0, norm, 1.0)
        p = p - p.mean((1, 2), keepdim=True)
        m, soft = self.moments(p), self.moments(F.conv2d(p[:, None], self.blur, padding=1)[:, 0])
        energy = (m * m).sum((1, 2)) - m[:, 0, 0] ** 2
        textured = (energy > 0.004).float()
        same = ((2 * m * soft + 1e-5) / (m * m + soft * soft + 1e-5)).mean((1, 2))
        total = m.abs().sum((1, 2)) - m[:, 0, 0].abs()
        total = torch.where(total > 0, total, 1.0)
        share = lambda last: (last.abs().sum(1) / total).clamp(max=0.05)
        u = (share(m[:, -1]) + share(m[:, :, -1])) / 2
        block = torch.log(1 - u) / torch.log(torch.tensor(0.95))

        def average(v, mask):
            n = mask.sum()
            return torch.where(n > 0, (v * mask).sum() / torch.maximum(n, torch.tensor(1.0)), 1.0)

        q = average(block, 1 - textured) ** 0.9 * average(1 - same, textured) ** 0.1
        return q, q >= 0.855


class Exit(nn.Module):
    """The first image where it is good, else the second."""

    def __init__(self, threshold=0.855):
        super().__init__()
        self.net, self.quality = Nested(2), Quality()

    def forward(self, x):
        first, nodes = self.net.stage(0, self.net.start(x), x)
        q, good = self.quality(first)
        enter, deep = nodes[0][0], nodes[1][0]
        second = lambda first, x, a, b, c: self.net.stage(1, [[a, b], [c]], x)[0]
        image = torch.cond(good, lambda first, *_: first + 0.0, second, (first, x, enter, nodes[0][1], deep))
        return image, q


class DnCnn(nn.Module):
    def __init__(self, c=64, layers=6):
        super().__init__()
        middle = [m for _ in range(layers) for m in (c3(c, c), nn.ReLU())]
        self.net = nn.Sequential(c3(1, c), nn.ReLU(), *middle, c3(c, 1))

    def forward(self, x):
        return x - self.net(x)


def blocks():
    """A picture of gradients, flat blocks and noise."""
    smooth = torch.linspace(0, 1, 64)[:, None] * torch.linspace(0.2, 1, 64)
    coarse = torch.rand(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)
    noise = torch.rand(64, 64) * (torch.arange(64) > 40)
    return (smooth + 0.02 * coarse + 0.3 * noise)[None, None]


volume = lambda: torch.randn(1, 1, 8, 16, 16)

NETWORKS = {
    "f8a-unet3d": (UNet3d, lambda: [volume(), volume()]),
    "f8b-rrdb3d": (Rrdb3d, lambda: [torch.randn(1, 3, 8, 8, 8)]),
    "f8c-nested-unet": (Nested, lambda: [torch.rand(1, 1, 32, 32)]),
    "f8d-quality": (Quality, lambda: [blocks()]),
    "f8e-exit": (Exit, lambda: [blocks()]),
    "f8f-dncnn": (DnCnn, lambda: [torch.rand(1, 1, 24, 24)]),
}
