"""Writes the cases of ONNX's own backend tests as folders: `python cases.py OUT` gives `OUT/<family>/<case>/{model.onnx, test_data_set_N}`.

The families are those of the installed `onnx` package: `node`, made by its code, and folders of its test data. With `--light` there are
also its whole networks, `light`, which the reference evaluator takes minutes for. A `data.json` beside a model holds the case's own tolerances.
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner


def proto(value, info):
    """A value of a case as the message that its declared type asks for."""
    if isinstance(value, (onnx.TensorProto, onnx.SequenceProto, onnx.OptionalProto)):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    return numpy_helper.from_array(value, info.name)


def write(folder, prefix, values, infos):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (value, info) in enumerate(zip(values, infos, strict=True)):
        (folder / f"{prefix}_{i}.pb").write_bytes(proto(value, info).SerializeToString())


def node_cases(out):
    for case in collect_testcases(None):
        folder, graph = out / case.name, case.model.graph
        for n, (inputs, outputs) in enumerate(case.data_sets):
            write(folder / f"test_data_set_{n}", "input", inputs, graph.input)
            write(folder / f"test_data_set_{n}", "output", outputs, graph.output)
        onnx.save(case.model, folder / "model.onnx")


def light_cases(data, out):
    """Whole networks whose weights are constants; their inputs are made as the package's runner makes them."""
    for case in load_model_tests(kind="real"):
        source = data / "light" / Path(case.url).name
        folder, graph = out / case.name, onnx.load(source).graph
        weights = {t.name for t in graph.initializer}
        infos = [i for i in graph.input if i.name not in weights]
        make = lambda i: Runner.generate_dummy_data(i, seed=0, name=case.model_name, random=False)
        write(folder / "test_data_set_0", "input", map(make, infos), infos)
        for i, _ in enumerate(graph.output):
            shutil.copy(source.with_name(f"{source.stem}_output_{i}.pb"), folder / "test_data_set_0" / f"output_{i}.pb")
        shutil.copy(source, folder / "model.onnx")
        (folder / "data.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))


def main():
    out = Path(sys.argv[1])
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    warnings.simplefilter("ignore")
    shutil.rmtree(out, ignore_errors=True)
    node_cases(out / "node")
    for family in ["pytorch-converted", "pytorch-operator", "simple"]:
        shutil.copytree(data / family, out / family)
    if "--light" in sys.argv[2:]:
        light_cases(data, out / "light")


if __name__ == "__main__":
    main()
