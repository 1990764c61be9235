"""A codec in the domain of wavelet packets (F14)."""

import torch
from layers import PixelAttention, ResBlock, c1, c3
from torch import nn
from torch.nn import functional as F

H0 = [0.03782845550726404, -0.02384946501955684, -0.11062440441843718, 0.37740285561283066, 0.8526986790088938]
G0 = [-0.06453888262869706, -0.04068941760916406, 0.41809227322161724, 0.7884856164055829]
mirrored = lambda half: torch.tensor(half + half[-2::-1])
signs = lambda n, first: torch.tensor([first * (-1.0) ** i for i in range(n)])
h0, g0 = mirrored(H0), mirrored(G0)
h1, g1 = signs(7, 1) * g0, signs(9, -1) * h0


def along(x, taps, axis):
    """A periodic convolution of each channel along the rows (axis 2) or the columns (axis 3)."""
    c, r = x.shape[1], len(taps) // 2
    pads = (0, 0, r, r) if axis == 2 else (r, r, 0, 0)
    shape = (len(taps), 1) if axis == 2 else (1, len(taps))
    return F.conv2d(F.pad(x, pads, mode="circular"), taps.reshape(1, 1, *shape).repeat(c, 1, 1, 1), groups=c)


def split(x, axis):
    low, high = along(x, h0, axis), along(x, h1, axis)
    return (low[:, :, ::2], high[:, :, 1::2]) if axis == 2 else (low[..., ::2], high[..., 1::2])


def analyse(x):
    """One level: channel `c` becomes `4c` to `4c + 3`."""
    bands = [band for part in split(x, 3) for band in split(part, 2)]
    return torch.stack(bands, 2).flatten(1, 2)


def joined(low, high, axis):
    zeros = torch.zeros_like(low)
    spread = lambda a, b: torch.stack([a, b], axis + 1).flatten(axis, axis + 1)
    return along(spread(low, zeros), g0.flip(0), axis) + along(spread(zeros, high), g1.flip(0), axis)


def synthesise(x):
    a, b, c, d = x.unflatten(1, (-1, 4)).unbind(2)
    return joined(joined(a, b, 2), joined(c, d, 2), 3)


class Walloc(nn.Module):
    def __init__(self, latent=6, c=16, bits=4):
        super().__init__()
        most = 2 ** (bits - 1) - 1
        self.l, self.s = most + 0.5 - 1e-3, most / 1.85
        q = torch.arange(-most, most + 1, dtype=torch.float32)
        p = (q / (2 * self.l) + 0.5).clamp(1e-4, 1 - 1e-4)
        self.register_buffer("levels", self.s * 2**0.5 * torch.erfinv(2 * p - 1))
        self.enc = c1(48, latent)
        self.dec = nn.Sequential(c3(latent, c), ResBlock(c, c), PixelAttention(c), c3(c, 48))

    def forward(self, x):
        z = self.enc(analyse(analyse(x)))
        q = torch.round(self.l * torch.erf(8 * z / (self.s * 2**0.5))).to(torch.int64)
        image = synthesise(synthesise(self.dec(self.levels[q + len(self.levels) // 2])))
        return image.clamp(-0.5, 0.5), q.to(torch.int32)


NETWORKS = {"f14-wavelet-codec": (Walloc, lambda: [torch.rand(1, 3, 32, 32) - 0.5])}
