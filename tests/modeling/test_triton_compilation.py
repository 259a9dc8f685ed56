"""The kernels compile for GPUs, with the arguments that they are given, into what a multiprocessor has room for.

Triton compiles without a GPU, but not in a process that runs its interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton has packages for Linux only")

LEAST_SHARED_MEMORY = 99 * 1024  # of a program on GPUs from compute capability 8.0 on, in bytes

# argv: type, width of a head, compute capability. Prints each kernel with its shared memory.
SCRIPT = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hf_selfattn.modeling import triton_selfattn

dtype, head_dim, capability = getattr(torch, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}

class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *inputs, num_warps=4, **sizes):
        given = dict(zip(self.kernel.arg_names, inputs), **sizes)
        types = {name: TYPES[x.dtype] if isinstance(x, torch.Tensor) else "i32" for name, x in given.items()}
        types |= dict.fromkeys(sizes, "constexpr")
        source = ASTSource(self.kernel, types, constexprs=sizes)
        options = {"num_warps": num_warps}
        program = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        print(self.kernel.__name__, program.metadata.shared)

for name in dir(triton_selfattn):
    if name.endswith("_kernel"):
        setattr(triton_selfattn, name, Compiled(getattr(triton_selfattn, name)))
projected = torch.randn(130, 4, 3 * head_dim + 16, dtype=dtype, requires_grad=True)
metric, scale = torch.randn(130, 16, dtype=dtype), torch.ones(4, dtype=dtype)
prototypes = torch.randn(4, 64, 16, dtype=dtype)
rows = torch.tensor([0, 130]), torch.tensor([130])
triton_selfattn.grouped_attention(projected, metric, scale, prototypes, rows, 130, 64).sum().backward()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "head_dim", "capability"), [("bfloat16", 32, 90), ("bfloat16", 112, 80)])
def test_kernels_compile_for_a_gpu(dtype: str, head_dim: int, capability: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", SCRIPT, dtype, str(head_dim), str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shared = {name: int(size) for name, size in map(str.split, done.stdout.splitlines())}
    assert len(shared) == 8 and max(shared.values()) <= LEAST_SHARED_MEMORY, shared
