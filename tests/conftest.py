from __future__ import annotations

import os

# Read once by huggingface_hub when it is imported: no test reaches a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest  # noqa: E402
import torch  # noqa: E402

# A deprecation fails the test. Excepted are warnings that a library gives about its own code.
FILTERS = (
    "error::DeprecationWarning",
    "error::FutureWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:(transformers|peft|accelerate)",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in FILTERS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def closed_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subprocesses that a test starts reach no hub either."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
