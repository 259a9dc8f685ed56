"""What a session with a GPU runs, as far as a CPU can: kernels in the interpreter, the device stood in for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton has packages for Linux only")

from triton_interpreter import mend_bfloat16  # noqa: E402

from benchmarks.records import read_results  # noqa: E402
from benchmarks.speed import attention_gpu, gpu_errors  # noqa: E402
from hf_selfattn.modeling import attention_selfattn  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="stands in for a GPU")


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    mend_bfloat16(monkeypatch)
    monkeypatch.setattr(attention_selfattn, "has_triton_kernels", lambda device: True)


@pytest.mark.parametrize("dtype", gpu_errors.DTYPES)
def test_errors_are_small(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_errors, "LENGTHS", (40, 1))
    row = gpu_errors.errors_of(16, 8, dtype)
    assert row["holds"] and 0 < max(row["kernels"]) < 0.05


def test_a_layer_is_measured_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    def as_graph(action: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    module = attention_gpu
    for name, value in {
        "milliseconds": lambda action: float(action() is not None) + 1,
        "mebibytes": lambda action: 1.0,
        "limit_of": lambda rows, num_tokens, graph_seconds: {"share": 0.5},
        "TARGET": tmp_path / "attention_gpu.json",
        "SHAPES": ((1, 70),),
        "REPEATS": 1,
        "WARM_UP": 1,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "set_default_device", lambda device: None)
    monkeypatch.setattr(sys, "argv", ["attention_gpu", "--parts", "layers"])
    monkeypatch.setattr(module, "LAYERS", {name: module.LAYERS[name] for name in (*module.FULL, module.KERNELS)})
    module.main()
    assert "grouped" in capsys.readouterr().out
    rows = read_results(tmp_path / "attention_gpu.json")["rows"]
    assert [row["layer"] for row in rows] == [*module.FULL, module.KERNELS]
    assert rows[2]["faster_than_full"] == [1.0, 1.0] and rows[2]["limit"] == {"share": 0.5}
    monkeypatch.setattr(module, "as_graph", as_graph)
    refused = module.rows_of(1, 70)[2]
    assert "capturing" in refused["left_out"] and refused["seconds"]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["attention_gpu"])
    with pytest.raises(SystemExit, match="needs a GPU"):
        attention_gpu.main()
