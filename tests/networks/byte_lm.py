"""A decoder of bytes with a cache (F13)."""

import torch
from torch import nn
from torch.nn import functional as F


def rope(x, start):
    d = x.shape[-1]
    p = start + torch.arange(x.shape[2], dtype=torch.float32)
    a = p[:, None] * 10000 ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
    a = torch.cat([a, a], -1)
    left, right = x.chunk(2, -1)
    return x * a.cos() + torch.cat([-right, left], -1) * a.sin()


class Layer(nn.Module):
    def __init__(self, d, heads, wide):
        super().__init__()
        self.heads = heads
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.n1, self.n2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.q, self.k, self.v, self.o = (linear(d, d) for _ in range(4))
        self.gate, self.up, self.down = linear(d, wide), linear(d, wide), linear(wide, d)

    def forward(self, x, past):
        b, s, d = x.shape
        y, before = self.n1(x), past.shape[3]
        q, k, v = (f(y).reshape(b, s, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rope(q, before), rope(k, before)
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        seen = torch.arange(before + s) <= before + torch.arange(s)[:, None]
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        p = torch.where(seen, scores, float("-inf")).softmax(-1)
        x = x + self.o((p @ v).transpose(1, 2).reshape(b, s, d))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), torch.stack([k, v])


class ByteLm(nn.Module):
    def __init__(self, d=32, heads=4, wide=88, layers=2, symbols=320):
        super().__init__()
        self.embed, self.layers = nn.Embedding(symbols, d), nn.ModuleList(Layer(d, heads, wide) for _ in range(layers))
        self.norm, self.out = nn.RMSNorm(d, eps=1e-5), nn.Linear(d, symbols, bias=False)

    def forward(self, ids, past):
        x, now = self.embed(ids), []
        for layer, p in zip(self.layers, past):
            x, kv = layer(x, p)
            now.append(kv)
        return self.out(self.norm(x)), torch.stack(now)


def sample():
    return [torch.randint(0, 320, (1, 4)), torch.randn(2, 2, 1, 4, 6, 8)]


NETWORKS = {"f13-byte-lm": (ByteLm, sample)}
