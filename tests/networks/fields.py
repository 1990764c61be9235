"""Networks of coordinates, hash grids, generated kernels (F10)."""

import torch
from layers import c1, c3
from torch import nn
from torch.nn import functional as F


class Sine(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.layer = nn.Linear(i, o)

    def forward(self, x):
        return torch.sin(30 * self.layer(x))


class Nirvana(nn.Module):
    """Patches of three frames from coordinates."""

    def __init__(self, c=32):
        super().__init__()
        self.body, self.wide = nn.Sequential(Sine(2, c), Sine(c, c), Sine(c, c)), nn.Linear(c, 64)
        self.out = nn.Sequential(c3(16, 64), nn.PixelShuffle(2), nn.GELU(), c3(16, 36), nn.PixelShuffle(2), nn.Sigmoid())

    def forward(self, x):
        x = self.wide(self.body(x)).reshape(-1, 16, 2, 2)
        return self.out(x).reshape(-1, 3, 3, 8, 8)


PRIMES = (1, 2654435761, 805459861)


class Splats(nn.Module):
    """Attributes of splats: residual codebooks, and a hash grid with spherical harmonics."""

    def __init__(self, levels=4, entries=256, k=16):
        super().__init__()
        self.scales, self.turns = nn.Parameter(torch.randn(3, k, 3)), nn.Parameter(torch.randn(3, k, 4))
        self.grid = nn.Parameter(torch.randn(levels, entries, 2))
        self.mlp = nn.Sequential(nn.Linear(2 * levels + 9, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))

    def encode(self, u):
        out, entries = [], self.grid.shape[1]
        for level, table in enumerate(self.grid):
            at = u * int(4 * 1.447**level)
            cell = torch.floor(at)
            part, cell, sum_ = at - cell, cell.to(torch.int64), 0
            for corner in range(8):
                bits = [corner >> a & 1 for a in range(3)]
                keys = [(cell[:, a] + bits[a]) * PRIMES[a] for a in range(3)]
                h = (keys[0] ^ keys[1] ^ keys[2]) & (entries - 1)
                w = torch.stack([part[:, a] if bits[a] else 1 - part[:, a] for a in range(3)], -1).prod(-1)
                sum_ = sum_ + w[:, None] * table[h]
            out.append(sum_)
        return torch.cat(out, -1)

    def forward(self, xyz, scale_codes, turn_codes, view):
        chosen = lambda book, codes: sum(book[i][codes[:, i]] for i in range(3))
        scale, turn = chosen(self.scales, scale_codes), F.normalize(chosen(self.turns, turn_codes), dim=-1)
        r = torch.linalg.vector_norm(xyz, dim=-1, keepdim=True)
        far = r.clamp(min=1e-6)
        u = torch.where(r <= 1, xyz, (2 - 1 / far) * xyz / far) / 4 + 0.5
        x, y, z = F.normalize(view, dim=-1).unbind(-1)
        harmonics = [
            0.28209479 * torch.ones_like(x), -0.48860251 * y, 0.48860251 * z, -0.48860251 * x, 1.09254843 * x * y,
            -1.09254843 * y * z, 0.31539157 * (3 * z * z - 1), -1.09254843 * x * z, 0.54627422 * (x * x - y * y),
        ]  # fmt: skip
        colour = torch.sigmoid(self.mlp(torch.cat([self.encode(u), torch.stack(harmonics, -1)], -1)))
        return colour, torch.exp(scale), turn


class Coordinates(nn.Module):
    """A multiplicative sine network over a square of coordinates."""

    def __init__(self, size, o, hidden=12):
        super().__init__()
        t = torch.linspace(-1, 1, size)
        self.register_buffer("at", torch.stack(torch.meshgrid(t, t, indexing="ij"))[None])
        self.f = nn.ModuleList(c1(2, hidden) for _ in range(3))
        self.g, self.out = nn.ModuleList(c1(hidden, hidden) for _ in range(2)), c1(hidden, o)

    def forward(self, gain=1.0):
        h = torch.sin(self.f[0](self.at)) * gain
        for f, g in zip(self.f[1:], self.g):
            h = torch.sin(f(self.at)) * g(h)
        return self.out(h)


class HyperZzw(nn.Module):
    def __init__(self, c=8, size=20, classes=10):
        super().__init__()
        self.enter, self.gate, self.norm = c1(3, c), c1(c, c), nn.InstanceNorm2d(c)
        self.wide, self.narrow = Coordinates(size, c), Coordinates(5, c)
        self.modulate, self.point = nn.Sequential(c1(c, c), c1(c, 12), nn.GELU()), c1(c, c)
        self.mix, self.last, self.out = c1(4 * c, 2 * c), nn.InstanceNorm2d(2 * c), nn.Linear(2 * c, classes)

    def forward(self, x):
        z = self.enter(x)
        g = torch.matmul(z * self.wide(), self.norm(self.gate(z)))
        # The batch shares one kernel.
        s = self.modulate(F.avg_pool2d(z, 5, 1, 2).mean(0, keepdim=True).mean((2, 3), keepdim=True))
        kernel = self.narrow(s)[0][:, None]
        kernel = kernel / torch.linalg.vector_norm(kernel, dim=(2, 3), keepdim=True).clamp(min=1e-6)
        l = self.point(F.conv2d(z, kernel, padding=2, groups=z.shape[1]))
        mean, spread = l.mean((0, 2, 3), keepdim=True), l.var((0, 2, 3), keepdim=True, correction=0)
        l = F.gelu((l - mean) / torch.sqrt(spread + 1e-5))
        y = self.mix(torch.cat([g, l, g * torch.sigmoid(g), z], 1))
        return self.out(F.gelu(self.last(y)).mean((2, 3)))


def splats():
    codes = lambda: torch.randint(0, 16, (32, 3))
    return [2 * torch.randn(32, 3), codes(), codes(), torch.randn(32, 3)]


NETWORKS = {
    "f10a-nirvana": (Nirvana, lambda: [2 * torch.rand(16, 2) - 1]),
    "f10b-splats": (Splats, splats),
    "f10c-hyper-zzw": (HyperZzw, lambda: [torch.randn(2, 3, 20, 20)]),
}
