"""Sampled measurements, Fourier transforms and audio (F11)."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Sampled(nn.Module):
    """Recovery of a signal from chosen Fourier samples, by unrolled proximal steps."""

    def __init__(self, n=64, m=16, steps=3):
        super().__init__()
        self.m, self.steps = m, steps
        a = 2 * math.pi * torch.outer(torch.arange(n), torch.arange(n)) / n
        self.register_buffer("re", torch.cos(a) / math.sqrt(n))
        self.register_buffer("im", -torch.sin(a) / math.sqrt(n))
        self.logits = nn.Parameter(torch.randn(n))
        self.net = nn.ModuleList(nn.Sequential(nn.Conv1d(2, 8, 3, 1, 1), nn.ReLU(), nn.Conv1d(8, 2, 3, 1, 1)) for _ in range(steps))
        self.theta = nn.Parameter(0.05 * torch.ones(steps))

    def turn(self, re, im, back=False):
        c, s = self.re, -self.im if back else self.im
        return re @ c - im @ s, re @ s + im @ c

    def forward(self, x):
        mask = torch.zeros_like(self.logits).scatter(0, self.logits.topk(self.m).indices, 1.0)
        yr, yi = (t * mask for t in self.turn(x, torch.zeros_like(x)))
        ur, ui = self.turn(yr, yi, True)
        for i, net in enumerate(self.net):
            fr, fi = self.turn(ur, ui)
            gr, gi = self.turn(mask * fr - yr, mask * fi - yi, True)
            ur, ui = ur - gr, ui - gi
            step = net(torch.stack([ur, ui], 1))
            ur, ui = ur - 0.1 * step[:, 0], ui - 0.1 * step[:, 1]
            size = torch.sqrt(ur * ur + ui * ui + 1e-12)
            gain = torch.relu(size - self.theta[i]) / size
            ur, ui = ur * gain, ui * gain
        return ur, ui, mask


class Consistency(nn.Module):
    """Keeps the Fourier samples that a mask says."""

    def forward(self, x, mask):
        z = torch.view_as_complex(x.permute(0, 2, 3, 1).contiguous())
        z = torch.fft.ifft2(torch.fft.fft2(z, norm="ortho") * mask, norm="ortho")
        return torch.view_as_real(z).permute(0, 3, 1, 2)


class Separator(nn.Module):
    """A mask of a spectrogram, by convolutions and a recurrent layer in both directions."""

    def __init__(self, n=64, c=16):
        super().__init__()
        self.n = n
        self.enter, self.glu = nn.Conv1d(3 * (n // 2 + 1), c, 3, 1, 1), nn.Conv1d(c, 2 * c, 3, 1, 1)
        self.point, self.lstm = nn.Conv1d(c, 2 * c, 1), nn.LSTM(c, 8, bidirectional=True, batch_first=True)
        self.out = nn.ConvTranspose1d(c, n // 2 + 1, 3, 1, 1)

    def forward(self, x):
        spectrum = torch.view_as_real(torch.stft(x, self.n, 16, window=torch.hann_window(self.n), return_complex=True))
        re, im = spectrum.unbind(-1)
        magnitude = torch.linalg.vector_norm(spectrum, dim=-1)
        y = F.glu(self.glu(F.gelu(self.enter(torch.cat([magnitude, re, im], 1)))), 1)
        y = F.glu(self.point(y), 1)
        y, _ = self.lstm(y.transpose(1, 2))
        return torch.sigmoid(self.out(y.transpose(1, 2))) * magnitude


def sampled():
    mask = (torch.arange(16) % 3 != 1).float()[:, None].expand(16, 16).contiguous()
    return [torch.randn(1, 2, 16, 16), mask]


NETWORKS = {
    "f11a-sampled": (Sampled, lambda: [torch.randn(2, 64)]),
    "f11b-consistency": (Consistency, sampled),
    "f11c-separator": (Separator, lambda: [torch.randn(1, 512)]),
}
