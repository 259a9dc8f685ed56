"""Every kind of checkpoint opens in a process that has done nothing before, and answers as where it was saved.

On BERT these are all kinds; of the other families, whose code differs in the backbone alone, one of each class.

What a model computes in `__init__` runs under the meta device, and a cache that was filled before hides what fails
there. So one process imports what is needed and forks a child of its own for each opening.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import BACKBONES, tiny_batch, tiny_tokenizer
from transformers import AutoModel

import hf_selfattn
from hf_selfattn import SelfAttnForSequenceClassification, SelfAttnForTokenClassification
from hf_selfattn.adapters import add_lora
from hf_selfattn.modeling.adapter_selfattn import save_adapter_checkpoint

SMALL: dict[str, Any] = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
TAGS = {"id2label": dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))}
KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    **{name: (SelfAttnForTokenClassification, {**TAGS, "decoding": name}) for name in ("viterbi", "crf", "argmax")},
    "class_query": (SelfAttnForSequenceClassification, {"num_labels": 3}),
    "mean": (SelfAttnForSequenceClassification, {"num_labels": 3, "pooling": "mean", "num_mixed_layers": 2}),
}
LENGTHS = [70, 9]
PACKAGE = str(Path(hf_selfattn.__file__).parents[1])
Saved = tuple[Path, dict[str, torch.Tensor]]

# argv: folders of the checkpoints and of the answers, "block" or the folder of the package. A child for each
# checkpoint and type.
SCRIPT = """
import gc, os, sys, traceback
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_selfattn":
            raise ModuleNotFoundError(f"{name} cannot be imported here")

folder, answers, package = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
remote = package == "block"
if remote:
    sys.meta_path.insert(0, Blocked())
else:
    sys.path.insert(0, package)
    import hf_selfattn.modeling.modeling_selfattn

import peft, torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

torch.set_num_threads(1)
gc.collect()
gc.freeze()

def open_and_answer(checkpoint, dtype):
    family, kind, _ = checkpoint.name.split(".")
    is_tagger = kind in ("viterbi", "crf", "argmax")
    auto_class = AutoModelForTokenClassification if is_tagger else AutoModelForSequenceClassification
    place = {"backbone_name_or_path": str(folder / family)} if checkpoint.suffix == ".adapter" else {}
    model = auto_class.from_pretrained(checkpoint, trust_remote_code=remote, dtype=dtype, **place)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        logits = model(**torch.load(folder / f"{family}.batch")).logits
    torch.save({"logits": logits, "module": type(model).__module__}, answers / f"{checkpoint.name}-{dtype}.pt")

for checkpoint in sorted(folder.glob("*.*.*")):
    for dtype in ("float32", "bfloat16"):
        child = os.fork()
        if child == 0:
            try:
                open_and_answer(checkpoint, dtype)
            except BaseException:
                print(checkpoint.name, dtype, traceback.format_exc(), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        os.waitpid(child, 0)
"""


def write_checkpoints(folder: Path, family: str, kinds: Sequence[str]) -> dict[str, torch.Tensor]:
    """Save kinds of models of a family, whole and as adapters, and return their logits."""
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES[family]).save_pretrained(folder / family)
    tiny_tokenizer().save_pretrained(folder / family)
    batch, expected = tiny_batch(LENGTHS, family), {}
    torch.save(batch, folder / f"{family}.batch")
    for kind in kinds:
        model_class, options = KINDS[kind]
        for form in ("whole", "adapter"):
            model = model_class.from_backbone(str(folder / family), fusion_init=0.7, **SMALL, **options)
            crf = getattr(model, "crf", None)
            for parameter in [] if crf is None else crf.parameters():
                torch.nn.init.normal_(parameter)
            name = f"{family}.{kind}.{form}"
            if form == "adapter":
                model = add_lora(model, r=2).eval()
                save_adapter_checkpoint(model, folder / name)
            else:
                model.save_pretrained(folder / name)
            with torch.no_grad():
                expected[name] = model(**batch).logits
    return expected


@pytest.fixture(scope="module", params=["bert", pytest.param("others", marks=pytest.mark.slow)])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A folder with checkpoints of one family, or of all others, and their logits."""
    others = {family: ("viterbi", "class_query") for family in BACKBONES if family != "bert"}
    folder, expected = tmp_path_factory.mktemp("checkpoints"), {}
    for family, kinds in ({"bert": tuple(KINDS)} if request.param == "bert" else others).items():
        expected |= write_checkpoints(folder, family, kinds)
    return folder, expected


@pytest.mark.parametrize("package", [PACKAGE, "block"], ids=["package", "remote code"])
def test_every_kind_of_checkpoint_opens(package: str, saved: Saved, tmp_path: Path) -> None:
    folder, expected = saved
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", SCRIPT, str(folder), str(tmp_path), package]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for name, logits in expected.items():
        for dtype in ("float32", "bfloat16"):
            path = tmp_path / f"{name}-{dtype}.pt"
            assert path.exists(), f"{name} in {dtype} did not open:\n{done.stderr[-3000:]}"
            answer = torch.load(path)
            assert answer["module"].split(".")[0] == ("transformers_modules" if package == "block" else "hf_selfattn")
            assert answer["logits"].isfinite().all()
            if dtype == "float32":
                assert torch.equal(answer["logits"], logits), name
