"""Small networks of the families that people compress, as conformance cases: `python build.py OUT [NAME...]` gives
`OUT/<exporter>/<network>/{model.onnx, data.json, test_data_set_0}`; a name stands for all that begin with it.

Each is built from seeded random weights by torch and exported three ways: by the exporter that captures programs, at opsets 18 and 23,
and by the one that traces, at opset 17, where that can express it. Outputs are those of ONNX Runtime, or of torch where ONNX Runtime
does not load the file; they are compared with torch's in either case. Needs torch, onnxscript, onnx and onnxruntime.
"""

import importlib
import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import nn

FAMILIES = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("build", "layers"))
EXPORTS = {"opset18": (18, True), "opset23": (23, True), "traced17": (17, False)}


def seeded(make):
    """A network in the state of one that was trained: norms have scales, shifts and statistics of their own."""
    torch.manual_seed(0)
    net = make().eval()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d)):
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.5, 1.5)
            if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)) and m.weight is not None:
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(0, 0.1)
    return net


def run(path, inputs):
    """Outputs of ONNX Runtime as it stands in the file, without its optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: t for i, t in zip(session.get_inputs(), inputs, strict=True)})


def write(folder, prefix, values, names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (value, name) in enumerate(zip(values, names, strict=True)):
        data = numpy_helper.from_array(np.asarray(value, order="C"), name).SerializeToString()
        (folder / f"{prefix}_{i}.pb").write_bytes(data)


def check(found, wanted):
    """Fails where two runs of a network differ by more than the order of sums explains."""
    for a, b in zip(found, wanted, strict=True):
        if a.dtype.kind in "iub":
            assert (a == b).all(), f"{(a != b).sum()} of {a.size} integers differ"
        else:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(b).max())))


def export(net, inputs, opset, captured, path):
    args = dict(opset_version=opset, dynamo=captured, verbose=False)
    if captured:
        torch.onnx.export(net, tuple(inputs), path, external_data=False, **args)
    else:
        torch.onnx.export(net, tuple(inputs), path, **args)


def build(out, name, make, sample):
    net = seeded(make)
    inputs = sample()
    count = sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        wanted = net(*inputs)
    wanted = [t.numpy() for t in (wanted if isinstance(wanted, (tuple, list)) else [wanted])]
    inputs_np = [t.numpy() for t in inputs]
    notes = []
    for way, (opset, captured) in EXPORTS.items():
        folder = out / way / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        try:
            export(net, inputs, opset, captured, path)
        except Exception as e:
            # The tracing exporter knows neither complex numbers nor `cond`, integer xor and a few more.
            if captured:
                raise
            shutil.rmtree(folder)
            notes.append(f"- ({type(e).__name__}: {str(e).splitlines()[0][:80]})")
            continue
        graph = onnx.load(path).graph
        notes.append(str(len(graph.node)))
        try:
            outputs = run(path, inputs_np)
        except Exception as e:
            notes[-1] += f" (torch's outputs: {str(e).splitlines()[0][:120]})"
            outputs = wanted
        check(outputs, wanted)
        # Sums of some hundred layers in another order: absolute errors follow the largest elements.
        most = max([1.0] + [float(np.abs(o).max()) for o in outputs if o.dtype.kind == "f"])
        (folder / "data.json").write_text(json.dumps({"rtol": 1e-3, "atol": 2e-5 * most}))
        write(folder / "test_data_set_0", "input", inputs_np, [i.name for i in graph.input])
        write(folder / "test_data_set_0", "output", outputs, [o.name for o in graph.output])
    print(f"{name:24} {count:7} parameters, nodes {' / '.join(notes)}", flush=True)


def main():
    out, chosen = Path(sys.argv[1]), sys.argv[2:]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for family in FAMILIES:
        for name, network in importlib.import_module(family).NETWORKS.items():
            if not chosen or any(name.startswith(c) for c in chosen):
                build(out, name, *network)


if __name__ == "__main__":
    main()
