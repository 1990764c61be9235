"""Image codecs with a hyperprior and divisive normalisation (F1)."""

import torch
from layers import GDN, SCALES, c3, gaussian_bits
from torch import nn
from torch.nn import functional as F


def down(i, o, bias=True):
    return nn.Conv2d(i, o, 5, 2, 2, bias=bias)


def up(i, o):
    return nn.ConvTranspose2d(i, o, 5, 2, 2, output_padding=1)


class FactorisedPrior(nn.Module):
    """One monotone network for each channel: the logit of a cumulative distribution (Balle et al. 2018)."""

    def __init__(self, channels, widths=(1, 3, 3, 3, 1)):
        super().__init__()
        pairs = list(zip(widths, widths[1:]))
        self.h = nn.ParameterList(torch.randn(channels, o, i) for i, o in pairs)
        self.b = nn.ParameterList(torch.rand(channels, o, 1) - 0.5 for _, o in pairs)
        self.a = nn.ParameterList(0.2 * torch.randn(channels, o, 1) for _, o in pairs[:-1])
        self.median = nn.Parameter(0.1 * torch.randn(channels))

    def logits(self, v):
        for i, (h, b) in enumerate(zip(self.h, self.b)):
            v = F.softplus(h) @ v + b
            if i < len(self.a):
                v = v + torch.tanh(self.a[i]) * torch.tanh(v)
        return v

    def bits(self, z):
        z = z.transpose(0, 1).flatten(1)[:, None]
        lower, upper = self.logits(z - 0.5), self.logits(z + 0.5)
        s = -torch.sign(lower + upper)
        p = (torch.sigmoid(s * upper) - torch.sigmoid(s * lower)).abs()
        return -torch.log2(p.clamp(min=1e-9)).sum()


class Hyperprior(nn.Module):
    def __init__(self, n=16, m=24):
        super().__init__()
        self.g_a = nn.Sequential(down(3, n), GDN(n), down(n, n), GDN(n), down(n, n), GDN(n), down(n, m))
        self.h_a = nn.Sequential(c3(m, n), nn.LeakyReLU(), down(n, n), nn.LeakyReLU(), down(n, n))
        self.h_s = nn.Sequential(up(n, m), nn.LeakyReLU(), up(m, 36), nn.LeakyReLU(), c3(36, 2 * m))
        inverse = lambda: GDN(n, inverse=True)
        self.g_s = nn.Sequential(up(m, n), inverse(), up(n, n), inverse(), up(n, n), inverse(), up(n, 3))
        self.prior = FactorisedPrior(n)

    def forward(self, x):
        y = self.g_a(x)
        z = self.h_a(y)
        median = self.prior.median[:, None, None]
        z = torch.round(z - median) + median
        sigma, mu = self.h_s(z).chunk(2, 1)
        sigma = sigma.clamp(min=0.11)
        q = torch.round(y - mu)
        image = self.g_s(q + mu).clamp(0, 1)
        index = (SCALES[:-1] < sigma[..., None]).sum(-1, dtype=torch.int32)
        return image, q.to(torch.int32), index, gaussian_bits(q, sigma) + self.prior.bits(z)


class Student(nn.Module):
    """A classifier cut at a coded edge; no convolution has a bias."""

    def __init__(self):
        super().__init__()
        conv = lambda i, o, k=2, p=0, s=1: nn.Conv2d(i, o, k, s, p, bias=False)
        gdn = lambda c, inverse=False: GDN(c, inverse, simple=True)
        self.enc = nn.Sequential(down(3, 24, False), gdn(24), down(24, 12, False), gdn(12), conv(12, 6))
        self.median = nn.Parameter(0.1 * torch.randn(6))
        self.dec = nn.Sequential(conv(6, 32, p=1), gdn(32, True), conv(32, 16), gdn(16, True), conv(16, 16, p=1))
        tail = [conv(16, 32, 3, 1, 2), nn.BatchNorm2d(32), nn.ReLU(), conv(32, 32, 3, 1), nn.BatchNorm2d(32), nn.ReLU()]
        self.tail, self.fc = nn.Sequential(*tail), nn.Linear(32, 10)

    def forward(self, x):
        m = self.median[:, None, None]
        q = torch.round(8 * self.enc(x) - m)
        return self.fc(self.tail(self.dec(q + m)).mean((2, 3))), q.to(torch.int32)


NETWORKS = {
    "f1a-hyperprior": (Hyperprior, lambda: [torch.rand(1, 3, 64, 64)]),
    "f1b-entropic-student": (Student, lambda: [torch.rand(1, 3, 64, 64)]),
}
