"""Transformers' own tests on our classes: `python peer_suite.py CHECKOUT [pytest options]`, CHECKOUT with `tests/`.

The checkout is one of Transformers near the installed version. Nothing of it is part of this project: its tests are
linked into a folder for the time of a run, beside this file, which tells them of our models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import transformers
from transformers import BertConfig, BertTokenizer
from transformers.models.auto import modeling_auto

from hf_selfattn import (
    SelfAttnConfig,
    SelfAttnForSequenceClassification,
    SelfAttnForTokenClassification,
    SelfAttnModel,
)

TASKS = {
    "feature-extraction": SelfAttnModel,
    "text-classification": SelfAttnForSequenceClassification,
    "token-classification": SelfAttnForTokenClassification,
}
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}


class ModelTester:
    """What the suite asks about our model."""

    is_training, batch_size, seq_length = True, 13, 7
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_labels = 99, 32, 2, 4, 3

    def __init__(self, parent: Any):
        self.parent = parent

    def get_config(self, vocab_size: int = vocab_size) -> SelfAttnConfig:
        return SelfAttnConfig(backbone_config=BertConfig(vocab_size=vocab_size, type_vocab_size=16, **SIZES))

    def prepare_config_and_inputs_for_common(self) -> tuple[SelfAttnConfig, dict[str, Any]]:
        from tests.test_modeling_common import ids_tensor, random_attention_mask

        shape = [self.batch_size, self.seq_length]
        ids, types = ids_tensor(shape, self.vocab_size), ids_tensor(shape, 16)
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": random_attention_mask(shape)}
        return self.get_config(), inputs


def suite() -> type[unittest.TestCase]:
    """Return the mixins of the checkout, which must be importable as `tests`, on our classes."""
    from tests.test_configuration_common import ConfigTester
    from tests.test_modeling_common import ModelTesterMixin
    from tests.test_pipeline_mixin import PipelineTesterMixin

    tables = ("MODEL_MAPPING", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING")
    for table, kind in zip(tables, TASKS.values(), strict=True):  # the shapes of labels are told by the names there
        getattr(modeling_auto, f"{table}_NAMES")["selfattn-of-the-suite"] = kind.__name__

    class SelfAttnModelTest(ModelTesterMixin, PipelineTesterMixin, unittest.TestCase):  # type: ignore[misc]
        all_model_classes = tuple(TASKS.values())
        pipeline_model_mapping = TASKS
        _is_composite = True

        def setUp(self) -> None:
            self.model_tester = ModelTester(self)
            sizes = ["hidden_size", "num_attention_heads", "num_hidden_layers"]
            options = {"has_text_modality": False, "common_properties": sizes}
            self.config_tester = ConfigTester(self, config_class=SelfAttnConfig, **options)

        def test_config(self) -> None:
            self.config_tester.run_common_tests()

    return SelfAttnModelTest


def write_tiny_models(folder: Path) -> None:
    """Write the checkpoints that the tests of pipelines open."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *".,!?'-", *(f"##{letter}" for letter in letters)]
    summary = {}
    for kind in TASKS.values():
        place = folder / "selfattn" / kind.__name__
        kind(ModelTester(None).get_config(len(words))).save_pretrained(place)
        vocabulary = {word: number for number, word in enumerate(words)}
        BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(place)
        summary[kind.__name__] = {
            "tokenizer_classes": ["BertTokenizer"],
            "processor_classes": [],
            "model_classes": [kind.__name__],
        }
    (folder / "reports").mkdir()
    (folder / "reports/tiny_model_summary.json").write_text(json.dumps(summary))


def main(checkout: Path, options: list[str]) -> int:
    """Run the suite and return its exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("tests", "conftest.py", "utils"):
            (folder / part).symlink_to(checkout.resolve() / part)
        (folder / "src").mkdir()
        (folder / "src/transformers").symlink_to(Path(transformers.__file__).parent)
        (folder / "ours").mkdir()
        (folder / "ours/__init__.py").touch()
        (folder / "ours/test_selfattn.py").write_text("from peer_suite import suite\n\nSelfAttnModelTest = suite()\n")
        write_tiny_models(folder / "tiny")
        ours = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([name, *ours]), "HF_HUB_OFFLINE": "1"}
        environment["TRANSFORMERS_TINY_MODEL_PATH"] = str(folder / "tiny")
        command = [sys.executable, "-m", "pytest", "-q", "ours/test_selfattn.py", *options]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
