"""An adapter checkpoint opens by its name on the hub: its backbone is found there, or in the cache when offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hub_server import run_with_hub
from hub_state import USER, Hub
from tiny_models import tiny_batch
from warm_python import warm_python

REPO, BACKBONE = f"{USER}/an-adapter", f"{USER}/a-backbone"

TRAIN = f"""
import sys
from huggingface_hub import HfApi
import torch
from transformers import AutoTokenizer
from hf_selfattn import SelfAttnForSequenceClassification
from hf_selfattn.adapters import add_lora
from hf_selfattn.hub.saving import save_adapter
folder, backbone = sys.argv[1:]
api = HfApi()
for repo in ("{REPO}", "{BACKBONE}"):
    api.create_repo(repo)
api.upload_folder(folder_path=backbone, repo_id="{BACKBONE}")
torch.manual_seed(0)
labels = {{"id2label": {{0: "bad", 1: "fair", 2: "good"}}, "label2id": {{"bad": 0, "fair": 1, "good": 2}}}}
model = SelfAttnForSequenceClassification.from_backbone(
    "{BACKBONE}", head_dim=8, group_dim=8, num_groups=4, block_size=8, subsequence_stride=4, **labels
)
adapted = add_lora(model, "SEQ_CLS", r=4)
for parameter in adapted.parameters():
    if parameter.requires_grad:
        parameter.data += 0.2 * torch.randn(parameter.shape)
save_adapter(adapted.eval(), AutoTokenizer.from_pretrained("{BACKBONE}"), folder + "/adapter")
with torch.no_grad():
    torch.save(adapted(**torch.load(folder + "/batch.pt")).logits, folder + "/expected.pt")
api.upload_folder(folder_path=folder + "/adapter", repo_id="{REPO}")
"""

OPEN = f"""
import sys
import torch
torch.set_num_threads(1)
from transformers import AutoModelForSequenceClassification, pipeline
folder, remote = sys.argv[1], sys.argv[2] == "remote"
if not remote:
    import hf_selfattn
options = {{"trust_remote_code": True}} if remote else {{}}
model = AutoModelForSequenceClassification.from_pretrained("{REPO}", **options)
assert type(model).__module__.startswith("transformers_modules" if remote else "hf_selfattn"), type(model)
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
with torch.no_grad():
    difference = model(**torch.load(folder + "/batch.pt")).logits - torch.load(folder + "/expected.pt")
assert not difference.any(), difference.abs().max()
answer = pipeline("text-classification", model="{REPO}", top_k=None, **options)(["w7 w8 " * 40])[0]
assert {{entry["label"] for entry in answer}} == {{"bad", "fair", "good"}}, answer
model.save_pretrained(folder + "/again")
"""


@pytest.mark.slow
def test_by_name_with_and_without_the_package_and_offline(hub: Hub, tiny_backbone: str, tmp_path: Path) -> None:
    torch.save(tiny_batch([70, 9]), tmp_path / "batch.pt")
    run_with_hub([warm_python(), "-c", TRAIN, str(tmp_path), tiny_backbone], hub, tmp_path / "author")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["backbone_name_or_path"] == BACKBONE and len(config["backbone_revision"]) == 40
    weights = b"another commit of the backbone"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(weights)
    later = f"import huggingface_hub as h; h.HfApi().upload_folder(folder_path='../other', repo_id='{BACKBONE}')"
    run_with_hub(later, hub, tmp_path / "author")
    for where in ("local", "remote"):
        for offline in (False, True):
            how = {"package": where == "local", "offline": offline}
            run_with_hub([warm_python(), "-c", OPEN, str(tmp_path), where], hub, tmp_path / where, **how)
            assert (tmp_path / "again" / "adapter_selfattn.py").is_file()
