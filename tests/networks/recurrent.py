"""Recurrent restoration of video, and optical flow (F9)."""

import torch
from layers import Add, c1, c3
from torch import nn
from torch.nn import functional as F


class Dense(nn.Module):
    """Two convolutions that grow the channels, and one that brings them back."""

    def __init__(self, c, growth):
        super().__init__()
        self.a, self.b, self.out = c3(c, growth), c3(c + growth, growth), c1(c + 2 * growth, c)

    def forward(self, x):
        y = torch.cat([x, F.gelu(self.a(x))], 1)
        y = torch.cat([y, F.gelu(self.b(y))], 1)
        return x + self.out(y)


class Estrnn(nn.Module):
    def __init__(self, n=4):
        super().__init__()
        conv = lambda i, o, s: nn.Conv2d(i, o, 5, s, 2)
        self.n = n
        self.cell = nn.Sequential(conv(3, n, 1), Dense(n, 4), conv(n, 2 * n, 2), Dense(2 * n, 4), conv(2 * n, 4 * n, 2))
        self.hidden, self.state = Dense(5 * n, 4), nn.Sequential(c3(5 * n, n), Dense(n, 4), c3(n, n))
        self.gate = nn.Sequential(nn.Linear(10 * n, 20 * n), nn.GELU(), nn.Linear(20 * n, 10 * n), nn.Sigmoid())
        self.mix, self.down = nn.Sequential(c1(10 * n, 10 * n), c1(10 * n, 10 * n)), c1(10 * n, 5 * n)
        self.fuse = c1(15 * n, 15 * n)
        up = lambda i, o: nn.ConvTranspose2d(i, o, 3, 2, 1, output_padding=1)
        self.out = nn.Sequential(up(15 * n, 2 * n), up(2 * n, n), conv(n, 3, 1))

    def pair(self, a, b):
        x = torch.cat([a, b], 1)
        gate = self.gate(x.mean((2, 3)))[:, :, None, None]
        return self.down(gate * self.mix(x))

    def forward(self, video):
        frames, cells = video.unbind(1), []
        state = torch.zeros(video.shape[0], self.n, video.shape[3] // 4, video.shape[4] // 4)
        for frame in frames:
            h = self.hidden(torch.cat([self.cell(frame), state], 1))
            state = self.state(h)
            cells.append(h)
        inner = []
        for i in range(1, len(cells) - 1):
            near = [self.pair(cells[i], cells[j]) for j in (i - 1, i + 1)]
            inner.append(self.out(self.fuse(torch.cat([near[0], cells[i], near[1]], 1))))
        return torch.stack(inner, 1)


class SeparableGru(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        along = lambda: nn.ModuleList(nn.Conv2d(hidden + width, hidden, k, 1, p) for k, p in (((1, 5), (0, 2)), ((5, 1), (2, 0))))
        self.z, self.r, self.q = along(), along(), along()

    def forward(self, h, x):
        for z, r, q in zip(self.z, self.r, self.q):
            both = torch.cat([h, x], 1)
            z, r = torch.sigmoid(z(both)), torch.sigmoid(r(both))
            h = (1 - z) * h + z * torch.tanh(q(torch.cat([r * h, x], 1)))
        return h


class Raft(nn.Module):
    def __init__(self, c=16, radius=2, iterations=2):
        super().__init__()
        encoder = lambda o: nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3), nn.InstanceNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, c, 3, 2, 1), nn.InstanceNorm2d(c), nn.ReLU(), nn.Conv2d(c, o, 1),
        )  # fmt: skip
        self.features, self.context = encoder(c), encoder(2 * c)
        self.radius, self.iterations = radius, iterations
        taps = 2 * (2 * radius + 1) ** 2
        self.motion = nn.Sequential(nn.Conv2d(taps + 2, 14, 3, 1, 1), nn.ReLU())
        self.gru, self.flow = SeparableGru(c, c + 16), nn.Sequential(c3(c, 16), nn.ReLU(), c3(16, 2))
        self.mask = nn.Sequential(c3(c, 16), nn.ReLU(), c1(16, 9 * 16))

    def forward(self, a, b):
        fa, fb = self.features(a), self.features(b)
        n, c, h, w = fa.shape
        volume = (fa.flatten(2).transpose(1, 2) @ fb.flatten(2)) * c**-0.5
        volume = volume.reshape(n * h * w, 1, h, w)
        pyramid = [volume, F.avg_pool2d(volume, 2)]
        state, x = self.context(a).chunk(2, 1)
        state, x = torch.tanh(state), torch.relu(x)
        cells = lambda h, w: torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")[::-1]).float()
        start, r = cells(h, w)[None], self.radius
        around = (cells(2 * r + 1, 2 * r + 1) - r).permute(1, 2, 0)[None]
        flow = torch.zeros(n, 2, h, w)
        for _ in range(self.iterations):
            at, found = (start + flow).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2), []
            for i, level in enumerate(pyramid):
                size = torch.tensor([level.shape[3] - 1.0, level.shape[2] - 1.0])
                grid = 2 * (at / 2**i + around) / size - 1
                found.append(F.grid_sample(level, grid, "bilinear", "zeros", align_corners=True).reshape(n, h, w, -1))
            near = torch.cat(found, -1).permute(0, 3, 1, 2)
            motion = torch.cat([self.motion(torch.cat([near, flow], 1)), flow], 1)
            state = self.gru(state, torch.cat([x, motion], 1))
            flow = flow + self.flow(state)
        # Each fine cell mixes the nine coarse ones around it.
        mask = self.mask(state).reshape(n, 1, 9, 4, 4, h, w).softmax(2)
        near = F.unfold(4 * flow, 3, padding=1).reshape(n, 2, 9, 1, 1, h, w)
        return (mask * near).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 4 * h, 4 * w)


image = lambda: torch.rand(1, 3, 64, 64)

NETWORKS = {
    "f9a-estrnn": (Estrnn, lambda: [torch.rand(1, 4, 3, 32, 32)]),
    "f9b-raft": (Raft, lambda: [image(), image()]),
}
