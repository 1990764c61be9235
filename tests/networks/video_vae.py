"""Causal autoencoders of video (F5)."""

import torch
from layers import Heads, PixelAttention, c3, norm, sinusoids
from torch import nn
from torch.nn import functional as F


class Causal(nn.Module):
    """A convolution whose past is the first frame."""

    def __init__(self, i, o, k=3, stride=(1, 1, 1)):
        super().__init__()
        self.past, self.conv = k - 1, nn.Conv3d(i, o, k, stride, (0, k // 2, k // 2))

    def forward(self, x):
        return self.conv(torch.cat([x[:, :, :1].repeat(1, 1, self.past, 1, 1), x], 2))


class R3(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.body = nn.Sequential(norm(i, 4), nn.SiLU(), Causal(i, o), norm(o, 4), nn.SiLU(), Causal(o, o))
        self.skip = nn.Conv3d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x):
        return self.skip(x) + self.body(x)


class Frames(nn.Module):
    """A layer of images over each frame."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        b, c, t, h, w = x.shape
        y = self.layer(x.transpose(1, 2).reshape(b * t, c, h, w))
        return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


class TimeDown(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.mix, self.conv = nn.Parameter(torch.tensor([2.0])), nn.Conv3d(c, c, 3, (2, 1, 1), (0, 1, 1))

    def forward(self, x):
        past = torch.cat([x[:, :, :1].repeat(1, 1, 2, 1, 1), x], 2)
        a = torch.sigmoid(self.mix)
        return a * F.avg_pool3d(past, (3, 1, 1), (2, 1, 1)) + (1 - a) * self.conv(past)


class TimeUp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.mix, self.conv = nn.Parameter(torch.tensor([2.0])), Causal(c, c)

    def forward(self, x):
        rest = F.interpolate(x[:, :, 1:], scale_factor=(2.0, 1.0, 1.0), mode="trilinear")
        x, a = torch.cat([x[:, :, :1], rest], 2), torch.sigmoid(self.mix)
        return a * x + (1 - a) * self.conv(x)


class OdVae(nn.Module):
    def __init__(self, c=8, z=4):
        super().__init__()
        self.enter, self.a = Causal(3, c), R3(c, c)
        self.down, self.b = nn.Conv3d(c, c, (1, 3, 3), (1, 2, 2)), R3(c, 2 * c)
        self.time, self.attention, self.latent = TimeDown(2 * c), Frames(PixelAttention(2 * c, 4)), Causal(2 * c, 2 * z)
        self.back, self.c = Causal(z, 2 * c), R3(2 * c, 2 * c)
        self.grow, self.space = nn.Upsample(scale_factor=2), nn.Conv3d(2 * c, 2 * c, (1, 3, 3), 1, (0, 1, 1))
        self.again, self.d = TimeUp(2 * c), R3(2 * c, c)
        self.out = nn.Sequential(norm(c, 4), nn.SiLU(), Causal(c, 3))

    def forward(self, x):
        x = self.down(F.pad(self.a(self.enter(x)), (0, 1, 0, 1)))
        mean, spread = self.latent(self.attention(self.time(self.b(x)))).chunk(2, 1)
        x = self.c(self.back(mean))
        b, c, t, h, w = x.shape
        x = self.grow(x.transpose(1, 2).reshape(b * t, c, h, w)).reshape(b, t, c, 2 * h, 2 * w).transpose(1, 2)
        return self.out(self.d(self.again(self.space(x)))), mean, spread.clamp(-30, 20)


def pixel_norm(x):
    return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6)


def fold(x, p, q):
    """Blocks of `p` frames and `q` by `q` pixels as channels."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // p, p, h // q, q, w // q, q)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * p * q * q, t // p, h // q, w // q)


def unfold(x, p, q):
    b, c, t, h, w = x.shape
    x = x.reshape(b, c // (p * q * q), p, q, q, t, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // (p * q * q), t * p, h * q, w * q)


class LtxVae(nn.Module):
    def __init__(self, c=16, z=8):
        super().__init__()
        self.enter, self.a = Causal(12, c), Causal(c, c)
        self.down, self.latent = Causal(c, 4), Causal(32, z + 1)
        self.back, self.grow = Causal(z, 32), Causal(32, 8 * c)
        self.time = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2 * c))
        self.b, self.out = Causal(c, c), Causal(c, 12)

    def forward(self, x, t):
        # Channels, width, height.
        patched = fold(x, 1, 2).unflatten(1, (3, 2, 2)).transpose(2, 3).flatten(1, 3)
        x = self.enter(patched)
        x = x + self.a(F.silu(pixel_norm(x)))
        x = torch.cat([x[:, :, :1], x], 2)
        skip = fold(x, 2, 2).unflatten(1, (-1, 4)).mean(2)
        mean = self.latent(skip + fold(self.down(x), 2, 2))[:, :-1]
        x = unfold(self.grow(F.silu(self.back(mean))), 2, 2)[:, :, 1:]
        scale, shift = self.time(sinusoids(1000 * t, 32))[:, :, None, None, None].chunk(2, 1)
        x = x + self.b(F.silu(pixel_norm(x) * (1 + scale) + shift))
        x = self.out(F.silu(pixel_norm(x)))
        return unfold(x.unflatten(1, (3, 2, 2)).transpose(2, 3).flatten(1, 3), 1, 2), mean


class TextVae(nn.Module):
    """Pixels attend to a text, in patches of two by two."""

    def __init__(self, c=8, z=4):
        super().__init__()
        flat = lambda i, o, s=1, p=1: nn.Conv3d(i, o, (1, 3, 3), (1, s, s), (0, p, p))
        self.enter, self.a = flat(3, c), nn.Sequential(norm(c, 4), nn.SiLU(), flat(c, c))
        self.b = nn.Sequential(norm(c, 4), nn.SiLU(), nn.Conv3d(c, c, 3, 1, 1))
        self.down, self.norm = flat(c, c, 2, 0), nn.LayerNorm(4 * c)
        self.cross = Heads(4 * c, 2, context=12, width=16, qkv_bias=False)
        self.latent, self.back = nn.Conv3d(c, 2 * z, 3, (2, 1, 1)), nn.ConvTranspose3d(z, c, 3, (2, 1, 1), 1, (1, 0, 0))
        self.out = flat(c, 3)

    def forward(self, x, text):
        x = self.enter(x)
        x = x + self.b(self.a(x))
        x = self.down(F.pad(x, (0, 1, 0, 1)))
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h // 2, 2, w // 2, 2)
        tokens = frames.permute(0, 2, 4, 1, 3, 5).reshape(b * t, -1, 4 * c)
        tokens = tokens + self.cross(self.norm(tokens), text.repeat_interleave(t, 0))
        frames = tokens.reshape(b * t, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        x = frames.reshape(b, t, c, h, w).transpose(1, 2)
        mean = self.latent(F.pad(x, (1, 1, 1, 1, 1, 0), mode="replicate")).chunk(2, 1)[0]
        x = F.interpolate(self.back(mean), scale_factor=(1.0, 2.0, 2.0), mode="nearest")
        return self.out(x), mean


clip = lambda frames: torch.rand(1, 3, frames, 16, 16)

NETWORKS = {
    "f5a-od-vae": (OdVae, lambda: [clip(9)]),
    "f5b-ltx-vae": (LtxVae, lambda: [clip(9), torch.tensor([0.05])]),
    "f5c-text-vae": (TextVae, lambda: [clip(8), torch.randn(1, 5, 12)]),
}
