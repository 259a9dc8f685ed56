"""Models on every family of image backbones, trained three steps in every way, saved, and opened in another process.

`python image_matrix.py FOLDER block` opens what `train_all` wrote where the package cannot be imported; with a folder
in the place of `block` the package is imported from there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAMILIES = ("resnet", "convnext", "mobilenet_v2", "swin", "vit", "dinov2", "siglip", "clip")
TUNINGS = ("full", "lora", "probe")
STEPS = 3


def train_all(model_class: Any, folder: Path, batch: Mapping[str, Any], processor: Any, **options: Any) -> None:
    """Train a model on each family in each way, and save it, its batch and its answers."""
    import torch
    from tiny_images import HEADS, IMAGE_BACKBONES, SIDE
    from transformers import AutoModel

    from hf_selfattn.adapters import tune
    from hf_selfattn.modeling.adapter_selfattn import save_adapter_checkpoint

    expected = {}
    for family in FAMILIES:
        torch.manual_seed(0)
        place = folder / "backbones" / family
        AutoModel.from_config(IMAGE_BACKBONES[family]).save_pretrained(place)
        for tuning in TUNINGS:
            torch.manual_seed(1)
            heads = {**HEADS, "subsequence_length": SIDE, "fusion_init": 0.7, **options}
            model = tune(model_class.from_backbone(str(place), **heads), tuning)
            losses = train(model, batch)
            assert min(losses[1:]) < losses[0], (family, tuning, losses)
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            with torch.no_grad():
                outputs = model.eval()(**inputs)
            expected[family, tuning] = {name: outputs[name] for name in ("logits", "pred_boxes") if name in outputs}
            target = folder / "checkpoints" / f"{family}-{tuning}"
            if tuning == "lora":
                save_adapter_checkpoint(model, target)
            else:
                model.save_pretrained(target)
            processor.save_pretrained(target)
    torch.save({"inputs": inputs, "answers": expected}, folder / "expected.pt")


def train(model: Any, batch: Mapping[str, Any], rate: float = 2e-4) -> list[float]:
    """Train a model for a few steps, and return its losses."""
    import torch

    optimizer = torch.optim.Adam((weight for weight in model.parameters() if weight.requires_grad), lr=rate)
    losses = []
    model.train()
    for _ in range(STEPS):
        torch.manual_seed(2)
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def open_all(auto_class: str, task: str, folder: Path, home: Path, package: str) -> str:
    """Open every checkpoint in a process of its own, by its auto class and in a pipeline; return what it complains of.

    Args:
        package: "block", or the folder from which the package is imported.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", __file__, auto_class, task, str(folder), package]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    return "" if done.returncode == 0 else done.stderr


def closure(module: str) -> set[str]:
    """Return the files that a module of `modeling` needs, itself among them."""
    import hf_selfattn

    text = (Path(hf_selfattn.__file__).parent / "modeling" / f"{module}.py").read_text()
    siblings = re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
    return {f"{module}.py"}.union(*(closure(sibling) for sibling in siblings))


class Blocked:
    """Lets no import find the package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "hf_selfattn":
            raise ModuleNotFoundError(f"{name} cannot be imported here")


def compare_all(auto_class: str, task: str, folder: Path, package: str) -> None:
    """Compare the answers of every checkpoint with those of the model that was saved."""
    if package == "block":
        sys.meta_path.insert(0, Blocked())
    else:
        sys.path.insert(0, package)
        import hf_selfattn  # noqa: F401
    import torch
    import transformers
    from PIL import Image

    torch.set_num_threads(1)
    expected = torch.load(folder / "expected.pt")
    remote = {"trust_remote_code": True} if package == "block" else {}
    for (family, tuning), answers in expected["answers"].items():
        checkpoint = folder / "checkpoints" / f"{family}-{tuning}"
        backbone = {"backbone_name_or_path": str(folder / "backbones" / family)} if tuning == "lora" else {}
        model = getattr(transformers, auto_class).from_pretrained(checkpoint, **remote, **backbone)
        assert type(model).__module__.partition(".")[0] == ("transformers_modules" if remote else "hf_selfattn")
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # to addresses that the allocator gives, which rounding depends on
        with torch.no_grad():
            outputs = model(**expected["inputs"])
        for name, value in answers.items():
            assert torch.equal(outputs[name], value), (family, tuning, name, (outputs[name] - value).abs().max())
        answer = transformers.pipeline(task, model=str(checkpoint), model_kwargs=backbone, **remote)
        assert isinstance(
            answer(Image.new("RGB", (50, 40), "red"), **({"threshold": 0.0} if "obj" in task else {})), list
        )


if __name__ == "__main__":
    compare_all(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
