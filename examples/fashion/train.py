#!/usr/bin/env python3
"""Trains the network of this example, a small residual CNN on Fashion-MNIST, and exports it to ONNX.

    python train.py train.npz model.onnx [--minutes 6]

train.npz holds the training split: x u8 [60000, 28, 28], y u8 [60000]. Needs torch, numpy and onnx. The learning-rate schedule
runs over CPU minutes, so two runs give slightly different weights. BatchNormalization is left in the exported graph.
"""
import argparse
import math
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

MEAN, DEVIATION = 0.2860, 0.3530


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        same = stride == 1 and cin == cout
        self.down = None if same else nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + (x if self.down is None else self.down(x)))


class FashionResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2))
        self.layers = nn.Sequential(Block(24, 48, 1), Block(48, 48, 1), Block(48, 96, 2), Block(96, 96, 1))
        self.fc = nn.Linear(96, 10)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.layers(self.stem(x)), 1).flatten(1))


def augment(x, pad=2):
    """Random horizontal flip, and random crop after padding with black."""
    n, _, h, w = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    x = F.pad(x, (pad,) * 4, value=-MEAN / DEVIATION)
    rows = torch.randint(0, 2 * pad + 1, (n, 1, 1, 1)) + torch.arange(h).view(1, 1, h, 1)
    columns = torch.randint(0, 2 * pad + 1, (n, 1, 1, 1)) + torch.arange(w).view(1, 1, 1, w)
    return x[torch.arange(n).view(n, 1, 1, 1), 0, rows, columns]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--minutes", type=float, default=6)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = np.load(args.data)
    x = torch.from_numpy((data["x"].astype(np.float32) / 255 - MEAN) / DEVIATION)[:, None]
    y = torch.from_numpy(data["y"].astype(np.int64))
    model = FashionResNet()
    rest = [p for p in model.parameters() if p.dim() < 2]
    weights = [p for p in model.parameters() if p.dim() >= 2]
    optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0}], lr=4e-3)
    start, done = time.process_time(), 0.0
    while done < 1:
        for batch in torch.randperm(len(x)).split(128):
            done = (time.process_time() - start) / (args.minutes * 60)
            warm = min(1.0, done / 0.1)
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * max(0.02, warm) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            loss = F.cross_entropy(model(augment(x[batch])), y[batch], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if done >= 1:
                break
        print(f"{done:.0%} loss {loss.item():.3f}", flush=True)
    model.eval()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(model, x[:1], args.out, input_names=["image"], output_names=["logits"], dynamic_axes=axes, opset_version=17,
                      do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE, dynamo=False)


if __name__ == "__main__":
    main()
