"""A finished run on its way to a hub and back: what is sent, who may send it, what is left where that fails."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import ROOT, client_environment, run_with_hub
from hub_state import USER, Fault, Hub
from huggingface_hub import CommitInfo, ModelCard
from runs import text_arguments
from tiny_models import aligned, tiny_model, tiny_text
from transformers import AutoModelForSequenceClassification
from warm_python import warm_launcher, warm_python

from hf_selfattn import TextClassificationArguments, run
from hf_selfattn.files import read_json
from hf_selfattn.hub import push as push_module
from hf_selfattn.hub.push import PushTarget, files_to_push, push_command, push_run, push_target, stale_files

REPO = f"{USER}/a-model"
TEXTS = [tiny_text(70), tiny_text(5, seed=1)]
HEADS = {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4}
FAKE = "hf_faketokenXYZ"


@pytest.fixture(scope="module")
def recipe(tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run; a folder that holds it under another name holds the same run."""
    rows = [
        {"text": f"w{10 + i % 3} {tiny_text(5, seed=i)}", "label": ("left", "right", "up")[i % 3]} for i in range(36)
    ]
    train = tmp_path_factory.mktemp("rows") / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    quick = {"num_train_epochs": 1, "bf16": False, "disable_tqdm": True, "baseline": False, "heads": HEADS}
    return {"model": tiny_backbone, "train": str(train), **quick}


@pytest.fixture(scope="module")
def finished(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(text_arguments({**recipe, "output_dir": str(folder)}))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def words(settings: dict[str, Any], **more: Any) -> list[str]:
    """The recipe as a user types it."""
    given = [f"{key}={json.dumps(value)}" for key, value in {**settings, **more}.items()]
    return [warm_python(), str(ROOT / "recipes/text_classification.py"), *given]


def client(code: str, hub: Hub, home: Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return run_with_hub(f"from hf_selfattn.hub.push import push_run\n{code}", hub, home, **how)


def logits(folder: Path) -> list[list[float]]:
    model = aligned(AutoModelForSequenceClassification.from_pretrained(folder)).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 75)[None]).logits.tolist()


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_result_is_one_commit(folder: Path, hub: Hub, tmp_path: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "figures/reliability.svg").write_text("<svg/>")
    before = contents(folder)
    push = f'print(push_run({str(folder)!r}, "a-model", private=True, commit_message="First"))'
    done = client(f"{push}\n{push}", hub, tmp_path / "home")
    assert [commit.title for commit in hub.history(REPO)] == ["First", "initial commit"]
    assert hub.repos["models", REPO].private
    files = hub.files(REPO)
    always = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "results.json",
        "README.md",
    }
    assert always | {"modeling_selfattn.py", "figures/reliability.svg"} <= set(files)
    assert not [name for name in files if name.startswith(("checkpoint", "arguments", "predictions"))]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]

    changed = {name for name, digest in contents(folder).items() if before.get(name) != digest}
    assert changed == {"README.md"} and set(contents(folder)) == set(before)
    assert f'model="{REPO}"' in files["README.md"].decode() and "USER/MODEL" not in files["README.md"].decode()
    for name in set(files) - {".gitattributes"}:
        assert files[name] == (folder / name).read_bytes(), name
    addresses = [line for line in done.stdout.splitlines() if line.startswith(hub.url)]
    assert addresses == [f"{hub.url}/{REPO}/commit/{hub.history(REPO)[0].oid}"] * 2


@pytest.mark.slow
def test_a_branch_and_a_proposal(folder: Path, hub: Hub, tmp_path: Path) -> None:
    code = f"""
push_run({str(folder)!r}, {REPO!r}, revision="side", predictions=True)
print(push_run({str(folder)!r}, {REPO!r}, create_pr=True, predictions=True))
"""
    done = client(code, hub, tmp_path / "home")
    expected = {".gitattributes", *files_to_push(folder), "predictions-validation.jsonl"}
    assert set(hub.files(REPO, "side")) == set(hub.files(REPO, "refs/pr/1")) == expected
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert done.stdout.splitlines()[-1] == f"{hub.url}/{REPO}/discussions/1"


def test_a_card_that_the_user_changed_is_kept(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nMore of my own.\n", encoding="utf-8")
    push_module.name_card(folder, REPO)
    assert "More of my own" in card.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_pushed_run_opens_by_name_and_from_the_cache(folder: Path, hub: Hub, tmp_path: Path) -> None:
    client(f"push_run({str(folder)!r}, {REPO!r}, private=True)", hub, tmp_path / "pusher")
    expected = logits(folder)
    commit = hub.history(REPO)[0].oid
    code = """
import json, sys
try:
    import hf_selfattn
    how = {}
except ModuleNotFoundError:
    how = {"trust_remote_code": True, "code_revision": REVISION}
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
model = AutoModelForSequenceClassification.from_pretrained(REPO, revision=REVISION, **how).eval()
for parameter in model.parameters():
    parameter.data = parameter.data.clone()
with torch.no_grad():
    found = model(input_ids=torch.arange(5, 75)[None]).logits.tolist()
how.pop("code_revision", None)
classify = pipeline("text-classification", model=REPO, revision=REVISION, top_k=None, **how)
labels = sorted(answer["label"] for answer in classify(TEXTS)[0])
print(); print(json.dumps([type(model).__module__.split(".")[0], found, labels, model.config.temperature]))
"""
    code = f"REPO, REVISION, TEXTS = {REPO!r}, {commit!r}, {TEXTS!r}\n{code}"
    temperature = json.loads((folder / "config.json").read_text())["temperature"]
    for package, module in ((True, "hf_selfattn"), (False, "transformers_modules")):
        home = tmp_path / module
        for offline in (False, True):
            seen = len(hub.requests)
            done = run_with_hub(code, hub, home, package=package, offline=offline)
            answer = json.loads(done.stdout.splitlines()[-1])
            assert answer == [module, expected, ["left", "right", "up"], temperature]
            assert offline == (len(hub.requests) == seen)


@pytest.mark.slow
def test_a_push_that_cannot_succeed_is_refused_before_training(
    recipe: dict[str, Any], hub: Hub, tmp_path: Path
) -> None:
    hub.users[FAKE] = "stranger"
    run_with_hub(f"from huggingface_hub import create_repo; create_repo({REPO!r})", hub, tmp_path / "owner")
    code = f"""
import os
from hf_selfattn import TextClassificationArguments, build_arguments
from hf_selfattn import run

def error(token, name, **more):
    try:
        given = {{**{recipe!r}, "output_dir": name, "push_to_hub": True, "hub_token": token, **more}}
        run(build_arguments(given, TextClassificationArguments))
    except ValueError as caught:
        print("REFUSED", caught)

error(None, "nobody")
error("hf_wrongtokenXYZ", "wrong")
error({FAKE!r}, "theirs", hub_model_id={REPO!r})
error({FAKE!r}, "new", hub_model_id="tester/new")
error({FAKE!r}, "seeds", seeds=2)
error({FAKE!r}, "both", hub_create_pr=True, hub_strategy="checkpoint")
assert "HF_TOKEN" not in os.environ or not os.environ["HF_TOKEN"]
"""
    done = run_with_hub(code, hub, tmp_path, token="")
    lines = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(lines) == 6
    assert "LocalTokenNotFoundError" in lines[0] and "hf auth login" in lines[0]
    assert "Invalid user token" in lines[1] and "hf auth login" in lines[1]
    assert all("403" in line and "may write" in line for line in lines[2:4])
    assert "several seeds" in lines[4] and "hub_create_pr=true" in lines[5]
    assert FAKE not in done.stdout + done.stderr and "wrongtoken" not in done.stdout + done.stderr
    assert list(hub.repos) == [("models", REPO)] and len(hub.history(REPO)) == 1
    for name in ("nobody", "wrong", "theirs", "new"):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["arguments.json"]

    offline = run_with_hub(code, hub, tmp_path, offline=True, token="")
    lines = [line for line in offline.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(lines) == 6 and all("offline" in line.lower() for line in lines[1:4])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault("commit", 500), Fault("commit", "drop"), Fault("upload", 507)], ids=str)
def test_a_failed_push_says_how_to_repeat_it(
    fault: Fault, recipe: dict[str, Any], folder: Path, hub: Hub, tmp_path: Path
) -> None:
    before = {name: digest for name, digest in contents(folder).items() if name != "README.md"}
    hub.faults.append(fault)
    how = {"hub_model_id": REPO, "push_to_hub": True, "hub_private_repo": True, "output_dir": str(folder)}
    failed = run_with_hub(words(recipe, **how), hub, tmp_path / "home", check=False)
    assert failed.returncode == 1 and "nothing to train" in failed.stdout and "Traceback" not in failed.stderr
    assert list(hub.files(REPO)) == [".gitattributes"]
    assert {name: digest for name, digest in contents(folder).items() if name != "README.md"} == before
    assert logits(folder)

    hub.faults.clear()
    command = re.search(r"^  (python -c .*)$", failed.stderr, re.MULTILINE)
    assert command, failed.stderr
    run_with_hub([warm_python(), *shlex.split(command[1])[1:]], hub, tmp_path / "home")
    assert hub.files(REPO)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(hub.history(REPO)) == 2 and hub.repos["models", REPO].private

    again = run_with_hub(words(recipe, **how), hub, tmp_path / "home")
    assert "nothing to train" in again.stdout and f"Pushed to {hub.url}/{REPO}" in again.stdout
    assert len(hub.history(REPO)) == 2


@pytest.mark.slow
def test_two_processes_push_one_commit(recipe: dict[str, Any], hub: Hub, tmp_path: Path) -> None:
    how = {"push_to_hub": True, "hub_model_id": REPO, "output_dir": str(tmp_path / "run")}
    launcher = [*warm_launcher("torchrun"), "--nproc_per_node", "2", "--standalone"]
    done = run_with_hub([*launcher, *words(recipe, **how)[1:]], hub, tmp_path / "home")
    assert done.stdout.count(f"Pushed to {hub.url}/{REPO}") == 1
    assert read_json(tmp_path / "run" / "results.json")["training"]["processes"] == 2
    assert len(hub.history(REPO)) == 2  # the empty repository, and the result
    assert hub.files(REPO)["model.safetensors"] == (tmp_path / "run/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("route", ["upload", "commit"])
def test_a_push_that_is_killed_leaves_the_earlier_revision(route: str, folder: Path, hub: Hub, tmp_path: Path) -> None:
    push = f"push_run({str(folder)!r}, {REPO!r})"
    client(push, hub, tmp_path / "home")
    earlier, expected = hub.files(REPO), logits(folder)

    tiny_model(seed=7).save_pretrained(folder)
    local = contents(folder)
    hub.calls.clear()
    hub.faults.append(Fault(route, "hang", last=1))
    code = f"from hf_selfattn.hub.push import push_run\n{push}"
    process = subprocess.Popen([warm_python(), "-c", code], env=client_environment(hub, tmp_path / "home"))
    assert hub.hanging.wait(timeout=100)
    process.kill()
    process.wait()
    assert hub.files(REPO) == earlier
    assert logits(write_files(hub.files(REPO), tmp_path / "pulled")) == expected
    assert contents(folder) == local

    client(push, hub, tmp_path / "home")
    assert logits(write_files(hub.files(REPO), tmp_path / "again")) == logits(folder) != expected


def test_a_file_that_comes_back_changed_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_text("other")
    monkeypatch.setattr(push_module, "hf_hub_download", lambda *_, **__: str(tmp_path / "other"))
    commit = CommitInfo(
        commit_url=f"https://huggingface.co/{REPO}/commit/0", commit_message="", commit_description="", oid="0" * 40
    )
    with pytest.raises(ValueError, match="config.json came back from the hub with another content"):
        push_module.check_arrived(folder, ["config.json"], PushTarget(REPO), commit)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["end", "checkpoint"])
def test_a_recipe_pushes_what_it_trained_and_no_token(
    strategy: str, recipe: dict[str, Any], hub: Hub, tmp_path: Path
) -> None:
    hub.users[FAKE] = USER
    loud = {
        "HF_DEBUG": "1",
        "HF_HUB_VERBOSITY": "debug",
        "TRANSFORMERS_VERBOSITY": "debug",
        "ACCELERATE_LOG_LEVEL": "debug",
    }
    how = {"push_to_hub": True, "hub_token": FAKE, "hub_model_id": "a-model", "output_dir": str(tmp_path / "run")}
    how |= {} if strategy == "end" else {"hub_strategy": strategy, "hub_revision": "trial"}
    put = f"api.upload_folder(folder_path={recipe['model']!r}, repo_id='tester/encoder')"
    code = f"from huggingface_hub import HfApi; api = HfApi(); api.create_repo('tester/encoder'); {put}"
    run_with_hub(code, hub, tmp_path / "owner")
    recipe = {**recipe, "model": "tester/encoder"}
    # Once by the argument, once more by the environment.
    done = [
        run_with_hub(words(recipe, **how), hub, tmp_path / "home", token="", env=loud),
        run_with_hub(words(recipe, **{**how, "hub_token": None}), hub, tmp_path / "home", token=FAKE, env=loud),
    ]
    assert "nothing to train" in done[1].stdout
    for text in (*(output.stdout + output.stderr for output in done), *hub.requests):
        assert FAKE not in text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or FAKE.encode() not in path.read_bytes(), path

    files = hub.files(REPO, "main" if strategy == "end" else "trial")
    assert not any(FAKE.encode() in content for content in files.values())
    checkpoint = {name for name in files if name.startswith("last-checkpoint/")}
    local = files_to_push(tmp_path / "run")
    assert set(files) - checkpoint - {".gitattributes"} == set(local)
    assert bool(checkpoint) == (strategy == "checkpoint")
    assert len(hub.history(REPO)) == (2 if strategy == "end" else 1)
    assert logits(write_files(files, tmp_path / "pulled")) == logits(tmp_path / "run")

    commit = hub.history("tester/encoder")[0].oid
    assert json.loads(files["results.json"])["backbone"]["commit"] == commit
    card = files["README.md"].decode()
    assert f"commit {commit}" in card and ModelCard(card).data.base_model == "tester/encoder"


@pytest.mark.slow
def test_code_of_a_repository_runs_with_the_flag_only(folder: Path, hub: Hub, tmp_path: Path) -> None:
    """Of the package there is nothing in the process that pulls, so the repository's own code would have to run."""
    marker = tmp_path / "it ran"
    client(f"push_run({str(folder)!r}, {REPO!r})", hub, tmp_path / "pusher")
    earlier = hub.history(REPO)[0].oid
    for path in folder.glob("*_selfattn.py"):
        path.write_text(f"{path.read_text()}\nopen({str(marker)!r}, 'w').close()\n")
    client(f"push_run({str(folder)!r}, {REPO!r})", hub, tmp_path / "pusher")
    code = f"""
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline
opens = (
    lambda **how: AutoConfig.from_pretrained({REPO!r}, **how),
    lambda **how: AutoModelForSequenceClassification.from_pretrained({REPO!r}, **how),
    lambda **how: pipeline("text-classification", model={REPO!r}, **how),
)
for open_it in opens:
    for how in ({{}}, {{"trust_remote_code": False}}):
        try:
            open_it(**how)
        except ValueError as caught:
            assert "trust_remote_code=True" in str(caught), caught
            print("REFUSED")
"""
    done = run_with_hub(code, hub, tmp_path / "reader", package=False)
    assert done.stdout.count("REFUSED") == 6 and not marker.exists()

    # The code is that of the revision, unless another is asked for.
    model = f"from transformers import AutoModelForSequenceClassification as Auto; Auto.from_pretrained({REPO!r}, "
    for how, ran in ((f"revision={earlier!r}", False), (f"revision={earlier!r}, code_revision='main'", True)):
        run_with_hub(f"{model}trust_remote_code=True, {how})", hub, tmp_path / "reader", package=False)
        assert marker.exists() == ran


def test_the_installed_package_wins_over_the_code_of_a_repository(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    for path in folder.glob("*_selfattn.py"):
        path.write_text(f"{path.read_text()}\nopen({str(marker)!r}, 'w').close()\n")
    assert type(AutoModelForSequenceClassification.from_pretrained(folder)).__module__.startswith("hf_selfattn.")
    assert not marker.exists()


def test_files_of_a_result(tmp_path: Path) -> None:
    result = ["README.md", "adapter/adapter_model.safetensors", "config.json", "figures/a.png", "modeling_selfattn.py"]
    others = [
        ".results.json.77",
        "arguments.json",
        "checkpoint-8/model.safetensors",
        "checkpoint-8/optimizer.pt",
        "predictions-test.jsonl",
        "runs/events.out.tfevents.1",
        "training_args.bin",
    ]
    for name in (*result, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(files_to_push(tmp_path)) == result
    assert set(files_to_push(tmp_path, predictions=True)) == {*result, "predictions-test.jsonl"}


def test_what_is_left_of_an_earlier_push_and_what_is_not_ours() -> None:
    remote = [
        ".gitattributes",
        "LICENSE",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/notes.md",
        "adapter_config.json",
        "arguments.json",
        "config.json",
        "last-checkpoint/adapter_config.json",
        "last-checkpoint/adapter_model.safetensors",
        "model.safetensors",
        "old_selfattn.py",
        "onnx/model.safetensors",
        "training_args.bin",
    ]
    stale = stale_files(remote, ["config.json", "model.safetensors"])
    assert stale == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter_config.json",
        "arguments.json",
        "old_selfattn.py",
        "training_args.bin",
    ]


def test_the_command_that_repeats_a_push() -> None:
    target = PushTarget(REPO, revision="it's", create_pr=True, token=FAKE)
    command = push_command(Path("my runs/a"), target)
    assert FAKE not in command and FAKE not in repr(target)
    program, flag, code = shlex.split(command)
    assert (program, flag) == ("python", "-c")
    assert code.endswith(f"""push_run('my runs/a', '{REPO}', revision="it's", create_pr=True))""")


def test_a_folder_without_a_finished_run_is_refused(folder: Path) -> None:
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match="it has no results.json"):
        push_run(folder, REPO)


def test_where_a_result_goes_decides_nothing_of_the_run() -> None:
    settings: dict[str, Any] = {"model": "m", "output_dir": "runs/mine", "train": "rows.csv", "learning_rate": 1e-3}
    push = {"push_to_hub": True, "hub_token": FAKE, "hub_revision": "side", "hub_private_repo": True}
    more = {"hub_commit_message": "Mine", "hub_predictions": True}
    mine, pushed = (
        text_arguments(settings),
        text_arguments({**settings, **push, **more}),
    )
    assert mine.without_places() == pushed.without_places()
    assert FAKE not in json.dumps(pushed.without_places())
    assert push_target(mine) is None
    expected = PushTarget("mine", True, "side", commit_message="Mine", predictions=True, token=FAKE)
    assert push_target(pushed) == expected and isinstance(pushed, TextClassificationArguments)
