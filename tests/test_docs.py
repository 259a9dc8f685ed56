"""The pages of docs/: links resolve, options exist, the site loads nothing from elsewhere, and every example runs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import run_with_hub
from hub_state import USER, Hub
from image_runs import image_backbone, image_folders
from pages import DOCS, README, ROOT, blocks, commands, copy_first_rows, fetch, run, type_in
from sound_runs import sound_folders, speech_table
from tiny_images import IMAGE_BACKBONES, tiny_image_processor
from tiny_models import BACKBONES, tiny_wordpiece
from tiny_sounds import SOUND_BACKBONES
from transformers import AutoModel, TrainingArguments, WhisperFeatureExtractor
from warm_python import warm_python

import hf_selfattn.tasks
from hf_selfattn import (
    AudioClassificationArguments,
    EvaluateArguments,
    ImageClassificationArguments,
    NerArguments,
    ObjectDetectionArguments,
    PredictArguments,
    ReportArguments,
    SelfAttnConfig,
    SentimentArguments,
    ServeArguments,
    SpeechRecognitionArguments,
)

PAGES = sorted(DOCS.glob("*.md"))
WITH_COMMANDS = [
    "adapters.md",
    "audio.md",
    "command-line.md",
    "images.md",
    "ner.md",
    "scaling.md",
    "sentiment.md",
    "training.md",
]
WITH_CODE = [
    *("adapters.md", "audio.md", "detection.md", "export.md", "extend.md"),
    *("images.md", "ner.md", "report.md", "using.md"),
]
# What inline code names beside options of a run: parameters of functions, and options of Transformers and PEFT.
PARAMETERS = {
    "HF_HUB_OFFLINE",
    "HF_SELFATTN_KERNELS",
    "add_adapter",
    "attn_implementation",
    "id2label",
    "feat_extract_norm",
    "is_trainable",
    "key",
    "modules_to_save",
    "output_attentions",
    "target_modules",
    "trust_remote_code",
    "with_adapter",
    "word_starts",
}


def text_of(path: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    slugs = {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text_of(path)))


def pages_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_in(entry)]


def test_the_site_has_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages_in(nav)) == [path.name for path in PAGES]


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda path: path.name)
def test_links_and_anchors_resolve(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{path.name} links to {link}"
        assert path.parent != DOCS or target.parent == DOCS, f"{path.name}: {link} is not on the site"
        assert not anchor or anchor in anchors_of(target), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_options_exist(path: Path) -> None:
    known = {*SelfAttnConfig.__annotations__, *PARAMETERS}
    of_commands = (PredictArguments, EvaluateArguments, ReportArguments, ServeArguments)
    of_sounds = (AudioClassificationArguments, SpeechRecognitionArguments)
    of_images = (ImageClassificationArguments, ObjectDetectionArguments)
    kinds = (NerArguments, SentimentArguments, TrainingArguments, *of_images, *of_sounds, *of_commands)
    known |= {item.name for kind in kinds for item in fields(kind)}
    for code in re.findall(r"`([^`\n]+)`", text_of(path)):
        for name in re.findall(r"(?:^|[\s(])([a-zA-Z_]\w*(?:\.\w+)?)=", code):
            room, _, inner = name.rpartition(".")
            assert (inner if room in ("", "heads") else room) in known, f"{path.name}: {code}"


def test_pages_with_examples_are_run() -> None:
    for path in PAGES:
        runs = [command for command in commands(path) if not command.startswith("pip install")]
        assert not runs or path.name in [*WITH_COMMANDS, "hub.md"], path.name
        assert not blocks(path, "python") or path.name in [*WITH_CODE, "hub.md"], path.name


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    pages = sorted(tmp_path.glob("*.html"))
    assert {page.stem for page in pages} >= {path.stem for path in PAGES}
    loads = r"""<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
    for path in [*pages, *tmp_path.rglob("*.css")]:
        assert not re.search(loads, path.read_text(encoding="utf-8")), path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: recipes, a tiny encoder in the place of MiniLM, and few rows of each file."""
    fetch("vader", "conll2003")
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    copy_first_rows(folder, rows=48)
    image_backbone(folder / ".data/mobilenetv2")
    for name, seed in (("photos", 0), ("new-photos", 1)):
        image_folders(folder / name, 12, seed)
    for name, seed in (("calls", 0), ("new-calls", 1)):
        sound_folders(folder / name, 4, seed)
    speech_table(folder, "prompts", 12)
    speech_table(folder, "new-prompts", 3, seed=1)
    (folder / "new.csv").write_text("file\nnew-photos/circles/0.png\nnone.png\n", encoding="utf-8")
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder / ".data/minilm")
    tiny_wordpiece().save_pretrained(folder / ".data/minilm")
    AutoModel.from_config(IMAGE_BACKBONES["resnet"]).save_pretrained(folder / ".data/resnet")
    tiny_image_processor().save_pretrained(folder / ".data/resnet")
    AutoModel.from_config(deepcopy(SOUND_BACKBONES["whisper"])).save_pretrained(folder / ".data/whisper")
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder / ".data/whisper")
    (folder / ".data/conll2003").mkdir()
    for source in (ROOT / ".data/conll2003").glob("*.txt"):
        documents = source.read_text(encoding="utf-8").split("-DOCSTART-")[:7]
        (folder / ".data/conll2003" / source.name).write_text("-DOCSTART-".join(documents), encoding="utf-8")
    (folder / "news.conll").symlink_to(folder / ".data/conll2003/train.txt")
    (folder / "shards").mkdir()
    (folder / "shards/0.jsonl").symlink_to(folder / ".data/vader/movies-polarity-train.jsonl")
    (folder / "dev.jsonl").symlink_to(folder / ".data/vader/movies-polarity-validation.jsonl")
    votes = ({"text": f"w{n} w{n + 1}", "votes": [n % 3, 1]} for n in range(5, 60))
    (folder / "votes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in votes), encoding="utf-8")
    names = re.findall(r"[Hh]ere\s`(\w+\.yaml)`", (DOCS / "training.md").read_text(encoding="utf-8"))
    for name, block in zip(names, blocks(DOCS / "training.md", "yaml"), strict=True):
        (folder / name).write_text(block, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(workshop: Path) -> Path:
    """The workshop with the models that pages open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop)
        for page in ("training.md", "ner.md", "adapters.md"):
            type_in(commands(DOCS / page)[0], patch)
    return workshop


@pytest.fixture
def trained(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workshop as the working folder."""
    monkeypatch.chdir(models)
    monkeypatch.setattr(hf_selfattn.tasks, "TASKS", dict(hf_selfattn.tasks.TASKS))
    return models


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_of_a_page(page: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(DOCS / page)
    for command in found:
        type_in(command, monkeypatch)
    for folder in re.findall(r"output_dir=(\S+)", "\n".join(line for line in found if "check=true" not in line)):
        assert (trained / folder / "results.json").is_file(), folder


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_code_of_a_page(page: str, trained: Path) -> None:
    """The blocks of a page one after another, as in one session."""
    names: dict[str, Any] = {}
    for block in blocks(DOCS / page, "python"):
        (trained / "block.py").write_text(block, encoding="utf-8")
        names = runpy.run_path("block.py", init_globals=names, run_name="__main__")
    assert names


@pytest.mark.slow
def test_the_page_of_the_hub(trained: Path, hub: Hub) -> None:
    for command in commands(DOCS / "hub.md"):
        words = shlex.split(command.replace("USER/MODEL", f"{USER}/pushed"))
        run_with_hub([warm_python(), *words[1:]], hub, trained)
    run_with_hub("\n".join(blocks(DOCS / "hub.md", "python")).replace("USER/MODEL", f"{USER}/model"), hub, trained)
    assert all(any(name in request for request in hub.requests) for name in ("tester/pushed", "tester/model"))
