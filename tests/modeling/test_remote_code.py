"""A checkpoint opens by its own code where the package cannot be imported, and by the package where it can."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import tiny_image_model
from tiny_models import TASKS, aligned, main_output, tiny_batch, tiny_model
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification
from warm_python import warm_python

import hf_selfattn

AUTO_NAMES = {"model": "AutoModel", "token": "AutoModelForTokenClassification"}
BATCH = tiny_batch([70, 9])
MODELING = Path(hf_selfattn.__file__).parent / "modeling"

# Run where no path leads to the package; argv: folder of the checkpoints, "block" or the folder of the package.
SCRIPT = """
import sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_selfattn":
            raise ModuleNotFoundError(f"{name} cannot be imported here")

folder, package = Path(sys.argv[1]), sys.argv[2]
remote = package == "block"
if remote:
    sys.meta_path.insert(0, Blocked())
else:
    sys.path.insert(0, package)
    import hf_selfattn

import torch
import transformers

torch.set_num_threads(1)
batch = torch.load(folder / "batch.pt")
answers = {}
for checkpoint in sorted(path for path in folder.iterdir() if path.is_dir()):
    for name in ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForTokenClassification"):
        model = getattr(transformers, name).from_pretrained(checkpoint, trust_remote_code=remote)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        with torch.no_grad():
            outputs = model(**batch)
        answers[checkpoint.name, name] = {
            "class": type(model).__name__,
            "module": type(model).__module__.partition(".")[0],
            "output": outputs[0],
            "features": model.base_model(**batch).last_hidden_state.detach(),
        }
torch.save(answers, folder / "answers.pt")
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for task in TASKS:
        tiny_model(task).save_pretrained(folder / task)
    torch.save(BATCH, folder / "batch.pt")
    return folder


def answers_of(checkpoints: Path, package: str, home: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Open every checkpoint by every auto class in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [warm_python(), "-I", "-c", SCRIPT, str(checkpoints), package]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(checkpoints / "answers.pt")


@pytest.mark.parametrize("where", ["without the package", "with the package"])
def test_opened_in_another_process(where: str, checkpoints: Path, tmp_path: Path) -> None:
    remote = where == "without the package"
    package = "block" if remote else str(Path(hf_selfattn.__file__).parents[1])
    answers = answers_of(checkpoints, package, tmp_path)
    assert len(answers) == 3 * len(TASKS)
    for (task, name), answer in answers.items():
        assert answer["module"] == ("transformers_modules" if remote else "hf_selfattn")
        assert answer["class"] == name.replace("AutoModelFor", "SelfAttnFor").replace("AutoModel", "SelfAttnModel")
        model = tiny_model(task)
        with torch.no_grad():
            assert torch.equal(answer["features"], model.base_model(**BATCH).last_hidden_state)
            if name == AUTO_NAMES.get(task, "AutoModelForSequenceClassification"):
                assert torch.equal(answer["output"], main_output(model(**BATCH)))


def closure(name: str = "modeling_selfattn") -> set[str]:
    """The files that a module of the folder needs, itself among them."""
    needed = {name}
    for sibling in re.findall(r"^\s*from \.(\w+) import", (MODELING / f"{name}.py").read_text(), re.MULTILINE):
        needed |= {path.removesuffix(".py") for path in closure(sibling)}
    return {f"{module}.py" for module in needed}


def test_a_text_carries_no_code_of_images(tmp_path: Path) -> None:
    of_images = {"image_selfattn.py", "tiles_selfattn.py"}
    assert not closure() & of_images and of_images <= closure("image_selfattn")
    of_texts = {"modeling_selfattn.py", "words_selfattn.py", "decoding_selfattn.py"}
    assert not of_texts & (closure("image_selfattn") | closure("audio_selfattn"))
    tiny_image_model().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == closure("image_selfattn")


@pytest.mark.parametrize(("name", "most"), [("modeling", 15), ("image", 14), ("audio", 14), ("detection", 16)])
def test_a_checkpoint_carries_few_files(name: str, most: int) -> None:
    assert len(closure(f"{name}_selfattn")) <= most


@pytest.mark.parametrize("task", TASKS)
def test_checkpoint_carries_the_whole_closure(task: str, checkpoints: Path) -> None:
    assert {path.name for path in (checkpoints / task).glob("*.py")} == closure()
    config = json.loads((checkpoints / task / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", *_AUTO_CLASSES}
    for path in (checkpoints / task).glob("*.json"):
        assert str(checkpoints) not in path.read_text()


_AUTO_CLASSES = {
    "AutoModel": AutoModel,
    "AutoModelForSequenceClassification": AutoModelForSequenceClassification,
    "AutoModelForTokenClassification": AutoModelForTokenClassification,
}


@pytest.mark.parametrize("task", TASKS)
def test_saved_again_after_reopening(task: str, checkpoints: Path, tmp_path: Path) -> None:
    auto_class = _AUTO_CLASSES[AUTO_NAMES.get(task, "AutoModelForSequenceClassification")]
    auto_class.from_pretrained(checkpoints / task).save_pretrained(tmp_path)
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (checkpoints / task, tmp_path))
    for config in (first, second):
        del config["backbone_config"]["dtype"]  # unknown before the weights were loaded
    assert first == second
    assert {path.name for path in tmp_path.glob("*.py")} == closure()
    reopened = aligned(auto_class.from_pretrained(tmp_path))
    with torch.no_grad():
        assert torch.equal(main_output(reopened(**BATCH)), main_output(tiny_model(task)(**BATCH)))
