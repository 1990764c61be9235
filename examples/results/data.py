#!/usr/bin/env python3
"""Turns public test sets into what the results are made from: for each model a folder with `model.onnx`, `calib.npz`, `test.npz` and `labels.npy`.

    python data.py KIT OUT

KIT holds `models/NAME/{model.onnx,calib.npz}` and `data/`: `fashion_mnist_test.npz` (x u8 [n,28,28], y), `cifar10_test.npz` (x u8 [n,3,32,32], y),
`stsb_test.npz` (ids1, mask1, type1, ids2, mask2, type2 i64 [n,128], score), `wikitext2_test_ids.npy` (u16). Calibration data is never taken from a test file.
Needs numpy.
"""
import shutil
import sys
from pathlib import Path

import numpy as np


def images(path, mean, deviation):
    d = np.load(path)
    x = d["x"].astype(np.float32) / 255
    x = x[:, None] if x.ndim == 3 else x
    of = [np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, deviation)]
    return {"image": (x - of[0]) / of[1]}, d["y"].astype(np.int64)


def pairs(path):
    """Sentences 2i and 2i+1 are pair i; padding that all share is left out."""
    d = np.load(path)
    longest = max(int(d[f"mask{k}"].sum(1).max()) for k in (1, 2))
    both = {n: np.stack([d[f"{n}1"], d[f"{n}2"]], 1).reshape(-1, d[f"{n}1"].shape[1])[:, :longest] for n in ("ids", "mask", "type")}
    return {"input_ids": both["ids"], "attention_mask": both["mask"], "token_type_ids": both["type"]}, d["score"].astype(np.float32)


def windows(path, count=128, length=256):
    return {"input_ids": np.load(path)[: count * length].astype(np.int64).reshape(count, length)}, None


def main():
    kit, out = Path(sys.argv[1]), Path(sys.argv[2])
    data = kit / "data"
    tasks = {
        "fashion-resnet": lambda: images(data / "fashion_mnist_test.npz", [0.2860], [0.3530]),
        "cifar-exits": lambda: images(data / "cifar10_test.npz", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        "minilm": lambda: pairs(data / "stsb_test.npz"),
        "wiki-llama": lambda: windows(data / "wikitext2_test_ids.npy"),
    }
    for name, make in tasks.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        inputs, labels = make()
        np.savez(folder / "test.npz", **inputs)
        if labels is not None:
            np.save(folder / "labels.npy", labels)
        for file in ("model.onnx", "calib.npz"):
            shutil.copyfile(kit / "models" / name / file, folder / file)
        print(folder)


if __name__ == "__main__":
    main()
