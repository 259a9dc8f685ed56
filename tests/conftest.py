from __future__ import annotations

import gc
import os

# Read once by huggingface_hub when it is imported: no test reaches a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # several processes share the cores; threads of theirs would wait for each other

gc.disable()  # until all is imported

from collections.abc import Iterator  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on the CPU

from hub_server import serve_hub  # noqa: E402
from hub_state import Hub  # noqa: E402
from tiny_models import BACKBONES, tiny_tokenizer, tiny_wordpiece  # noqa: E402
from transformers import AutoModel  # noqa: E402

# A deprecation fails the test. Excepted are warnings that a library gives about its own code.
FILTERS = (
    "error::DeprecationWarning",
    "error::FutureWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning:torch",  # of 2.11, when it compiles
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:(transformers|peft|accelerate)",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in FILTERS:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish() -> None:
    """Let no search for garbage look at what the libraries made when they were imported, which is two thirds of it."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def closed_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subprocesses that a test starts reach no hub either."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug: what is written is there for every process, on the disk or not yet."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A fresh hub on loopback; only processes started with `hub_server.run_with_hub` reach it."""
    with serve_hub() as server:
        yield server


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny random BERT and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny random BERT and a tokenizer of words and their pieces."""
    folder = tmp_path_factory.mktemp("wordpiece")
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder)
    tiny_wordpiece().save_pretrained(folder)
    return str(folder)
