from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import client_environment, run_with_hub, serve_hub
from hub_state import USER, Fault, Hub
from tiny_models import tiny_batch, tiny_model, tiny_text, tiny_tokenizer

REPO = f"{USER}/a-model"
BATCH = tiny_batch([70, 9])
TEXT = tiny_text(80)

CLIENT = """
import json, os
from pathlib import Path
from huggingface_hub import HfApi, get_session, hf_hub_download, snapshot_download
api, repo, answer = HfApi(), "tester/a-model", {}

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as caught:
        return type(caught).__name__

def write(folder, **files):
    for name, content in files.items():
        path = Path(folder, name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
"""


def ask(code: str, hub: Hub, home: Path, **how: Any) -> Any:
    """Run code in a client's process; return what it leaves in `answer`."""
    # Threads of Arrow's that read Parquet may abort a process that is winding up (apache/arrow, issue 45214).
    end = "print(); print(json.dumps(answer), flush=True); os._exit(0)"
    done = run_with_hub(f"{CLIENT}{textwrap.dedent(code)}\n{end}", hub, home, **how)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_folder_is_one_commit_and_the_same_folder_none(hub: Hub, tmp_path: Path) -> None:
    answer = ask(
        """
        answer["url"] = api.create_repo(repo)
        answer["again"] = [error(api.create_repo, repo), error(api.create_repo, repo, exist_ok=True)]
        write("f", readme=b"text", sub__weights=bytes(5000), empty=b"")
        for _ in range(2):
            answer["oid"] = api.upload_folder(folder_path="f", repo_id=repo, commit_message="mine").oid
        answer["files"] = api.list_repo_files(repo)
        answer["top"] = [entry.path for entry in api.list_repo_tree(repo)]
        answer["lfs"] = {s.rfilename: s.lfs is not None for s in api.model_info(repo, files_metadata=True).siblings}
        folder = Path(snapshot_download(repo))
        answer["same"] = [(folder / name).read_bytes() == Path("f", name).read_bytes() for name in os.listdir("f")
                          if name != "sub"] + [(folder / "sub/weights").read_bytes() == bytes(5000)]
        """,
        hub,
        tmp_path,
    )
    assert answer["url"] == f"{hub.url}/{REPO}"
    assert answer["again"] == ["HfHubHTTPError", None]
    assert answer["files"] == [".gitattributes", "empty", "readme", "sub/weights"]
    assert answer["top"] == [".gitattributes", "empty", "readme", "sub"]
    assert [name for name, large in answer["lfs"].items() if large] == ["sub/weights"]
    assert answer["same"] == [True] * 3
    assert [commit.title for commit in hub.history(REPO)] == ["mine", "initial commit"]
    assert hub.history(REPO)[0].oid == answer["oid"]
    assert hub.calls["upload"] == 1

    gone = ask(
        """
        api.delete_repo(repo)
        answer = [error(api.model_info, repo), error(api.delete_repo, repo)]
        answer.append(error(api.delete_repo, repo, missing_ok=True))
        """,
        hub,
        tmp_path,
    )
    assert gone == ["RepositoryNotFoundError", "RepositoryNotFoundError", None]
    assert hub.repos == {}


def test_branches_tags_commits_and_pull_requests(hub: Hub, tmp_path: Path) -> None:
    answer = ask(
        """
        def put(text, **where):
            return api.upload_file(path_or_fileobj=text.encode(), path_in_repo="d/x", repo_id=repo, **where)

        def get(revision):
            return Path(hf_hub_download(repo, "d/x", revision=revision)).read_text()

        api.create_repo(repo)
        first = put("one").oid
        api.create_branch(repo, branch="side/line")
        api.create_tag(repo, tag="v1", tag_message="first")
        put("two")
        put("three", revision="side/line")
        proposal = put("four", create_pr=True)
        answer["texts"] = [get(r) for r in (first, "v1", "main", "side/line", proposal.pr_revision)]
        put("five", revision=proposal.pr_revision)
        answer["proposal"] = [get("refs/pr/1"), proposal.pr_num, put("six", create_pr=True).pr_num]
        refs = api.list_repo_refs(repo, include_pull_requests=True)
        answer["refs"] = [sorted(r.ref for r in kind) for kind in (refs.branches, refs.tags, refs.pull_requests)]
        answer["titles"] = len(api.list_repo_commits(repo)), len(api.list_repo_commits(repo, revision="v1"))
        answer["errors"] = [
            error(put, "late", parent_commit=first),
            error(put, "no", revision="no-branch"),
            error(put, "no", revision="v1"),
            error(api.create_branch, repo, branch="side/line"),
            error(api.create_tag, repo, tag="v1"),
            error(api.create_tag, repo, tag="v1", exist_ok=True),
            error(api.delete_file, "no", repo),
        ]
        api.delete_folder("d", repo)
        api.delete_tag(repo, tag="v1")
        api.delete_branch(repo, branch="side/line")
        answer["left"] = api.list_repo_files(repo), error(get, "v1")
        """,
        hub,
        tmp_path,
    )
    assert answer["texts"] == ["one", "one", "two", "three", "four"]
    assert answer["proposal"] == ["five", 1, 2]
    assert answer["refs"] == [
        ["refs/heads/main", "refs/heads/side/line"],
        ["refs/tags/v1"],
        ["refs/pr/1", "refs/pr/2"],
    ]
    assert answer["titles"] == [3, 2]
    assert answer["errors"] == [
        "HfHubHTTPError",
        "RevisionNotFoundError",
        "BadRequestError",
        "HfHubHTTPError",
        "HfHubHTTPError",
        None,
        "RemoteEntryNotFoundError",
    ]
    assert answer["left"] == [[".gitattributes"], "RevisionNotFoundError"]


def test_who_may_read_and_write(hub: Hub, tmp_path: Path) -> None:
    hub.users["hf_" + "b" * 34] = "stranger"
    ask(
        """
        api.create_repo(repo, private=True)
        api.create_repo("tester/open")
        for name in (repo, "tester/open"):
            api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="x", repo_id=name)
        """,
        hub,
        tmp_path,
    )
    questions = """
        url = f"{os.environ['HF_ENDPOINT']}/tester/open/resolve/main/x"
        tail = get_session().get(url, headers={"Range": "bytes=7-"})
        answer = [
            error(api.whoami),
            error(hf_hub_download, repo, "x"),
            error(hf_hub_download, "tester/open", "x"),
            error(hf_hub_download, "tester/open", "y"),
            error(hf_hub_download, "tester/open", "x", revision="no"),
            error(hf_hub_download, "tester/none", "x"),
            error(api.upload_file, path_or_fileobj=b"", path_in_repo="y", repo_id="tester/open"),
            error(api.create_repo, "tester/new"),
            [tail.status_code, tail.text, tail.headers["Content-Range"]],
        ]
    """
    missing = ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"]
    part = [206, "789", "bytes 7-9/10"]
    hidden, refused = "RepositoryNotFoundError", "HfHubHTTPError"
    stranger = ask(questions, hub, tmp_path / "stranger", token="hf_" + "b" * 34)
    assert stranger == [None, hidden, None, *missing, refused, refused, part]
    nobody = ask(questions, hub, tmp_path / "nobody", token="")
    assert nobody == ["LocalTokenNotFoundError", hidden, None, *missing, refused, refused, part]
    owner = ask(questions, hub, tmp_path / "owner")
    assert owner == [None, None, None, *missing, None, None, part]
    wrong = ask("answer = [error(api.whoami), error(api.model_info, 'tester/open')]", hub, tmp_path, token="hf_wrong")
    assert wrong == [refused, refused]

    ask("api.update_repo_settings(repo, private=False)", hub, tmp_path)
    assert ask("answer = api.model_info(repo).private", hub, tmp_path, token="") is False


def test_a_card_is_checked_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    answer = ask(
        r"""
        api.create_repo(repo)
        put = lambda text: api.upload_file(path_or_fileobj=text, path_in_repo="README.md", repo_id=repo)
        answer = [error(put, b"---\na: [\n---\n"), error(put, b"---\na: 1\n---\n# Text\n")]
        """,
        hub,
        tmp_path,
    )
    assert answer == ["ValueError", None]
    assert len(hub.history(REPO)) == 2


@pytest.mark.parametrize("kind", [500, "drop"])
def test_an_upload_that_fails_once_is_repeated(kind: int | str, hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(Fault("upload", kind, last=1))
    ask(
        """
        api.create_repo(repo)
        api.upload_folder(folder_path=write("f", weights=bytes(300_000)), repo_id=repo)
        """,
        hub,
        tmp_path,
    )
    assert hub.calls["upload"] == 2
    assert hub.files(REPO)["weights"] == bytes(300_000)


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (Fault("commit", 500), "HfHubHTTPError"),
        (Fault("commit", "drop"), "RemoteProtocolError"),
        (Fault("upload", 507, first=2), "RuntimeError"),
    ],
)
def test_a_failed_push_leaves_the_repository_as_it_was(fault: Fault, caught: str, hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(fault)
    code = """
        api.create_repo(repo, exist_ok=True)
        folder = write("f", card=b"text", weights=bytes(300_000), more=bytes(100))
        answer = error(api.upload_folder, folder_path=folder, repo_id=repo)
    """
    assert ask(code, hub, tmp_path) == caught
    assert list(hub.files(REPO)) == [".gitattributes"]
    hub.faults.clear()
    assert ask(code, hub, tmp_path) is None
    assert set(hub.files(REPO)) == {".gitattributes", "card", "weights", "more"}


@pytest.mark.parametrize("route", ["upload", "commit"])
def test_a_client_killed_in_the_middle_of_a_push(route: str, hub: Hub, tmp_path: Path) -> None:
    code = """
api.create_repo(repo, exist_ok=True)
api.upload_folder(folder_path=write("f", weights=bytes(300_000)), repo_id=repo)
"""
    hub.faults.append(Fault(route, "hang", last=1))
    environment = client_environment(hub, tmp_path)
    client = subprocess.Popen([sys.executable, "-c", CLIENT + code], env=environment, cwd=tmp_path)
    assert hub.hanging.wait(timeout=60)
    client.kill()
    client.wait()
    assert list(hub.files(REPO)) == [".gitattributes"]
    run_with_hub(CLIENT + code, hub, tmp_path)
    assert hub.files(REPO)["weights"] == bytes(300_000)


def test_a_data_set_is_pushed_loaded_and_found_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    push = f"from datasets import Dataset; Dataset.from_dict({rows}).push_to_hub('tester/rows', split='test')"
    ask(push, hub, tmp_path / "pusher")
    files = hub.files("tester/rows", kind="datasets")
    assert any(path.endswith(".parquet") for path in files) and b"dataset_info" in files["README.md"]

    load = "from datasets import load_dataset; answer = load_dataset('tester/rows', split='test').to_dict()"
    assert ask(load, hub, tmp_path / "reader") == rows
    hub.repos.clear()
    seen = len(hub.requests)
    assert ask(load, hub, tmp_path / "reader", offline=True) == rows
    assert len(hub.requests) == seen


def test_the_token_reaches_no_log_and_no_file(hub: Hub, tmp_path: Path) -> None:
    loud = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug"}
    hub.faults.append(Fault("upload", 500, last=1))
    code = """
api.create_repo(repo)
api.upload_folder(folder_path=write("f", weights=bytes(5000), card=b"text"), repo_id=repo)
snapshot_download(repo)
print(error(api.model_info, "tester/none"))
"""
    done = run_with_hub(CLIENT + code, hub, tmp_path, env=loud)
    assert "RepositoryNotFoundError" in done.stdout and "curl" in done.stderr
    assert hub.token not in done.stdout + done.stderr + "".join(hub.requests)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(hub.token.encode() in path.read_bytes() for path in written)
    assert not any(hub.token.encode() in content for content in hub.files(REPO).values())


# A model by name: saved here, pushed by one process, opened by others.


@pytest.fixture(scope="module")
def hub_with_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub whose model stands at `v1` with the weights of seed 0 and at `main` with those of seed 1."""
    folder = tmp_path_factory.mktemp("model")
    names = {"id2label": {0: "left", 1: "right", 2: "up"}, "label2id": {"left": 0, "right": 1, "up": 2}}
    with serve_hub() as hub:
        for seed in (0, 1):
            tiny_model(seed=seed, **names).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            code = f"""
            api.create_repo(repo, exist_ok=True)
            api.upload_folder(folder_path={str(folder)!r}, repo_id=repo)
            {"" if seed else 'api.create_tag(repo, tag="v1")'}
            """
            ask(code, hub, tmp_path_factory.mktemp("pusher"))
        yield hub


OPEN = """
import torch
from transformers import AutoModelForSequenceClassification, pipeline

def logits(**options):
    model = AutoModelForSequenceClassification.from_pretrained(repo, **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # a mapped file's odd addresses round differently in the last bit
    with torch.no_grad():
        found = model(**{name: torch.tensor(rows) for name, rows in BATCH.items()}).logits.tolist()
    return [type(model).__module__.split(".")[0], found]
"""


def open_code(code: str) -> str:
    batch = {name: values.tolist() for name, values in BATCH.items()}
    return f"BATCH, TEXT = {batch}, {TEXT!r}\n{OPEN}{textwrap.dedent(code)}"


def expected(seed: int) -> list[list[float]]:
    with torch.no_grad():
        return tiny_model(seed=seed)(**BATCH).logits.tolist()


def test_a_model_opens_by_name_where_the_package_is(hub_with_model: Hub, tmp_path: Path) -> None:
    code = """
    import hf_selfattn
    answer["logits"] = [logits(), logits(revision="v1"), logits(trust_remote_code=True)]
    answer["text"] = pipeline("text-classification", model=repo, top_k=None)([TEXT])[0]
    """
    answer = ask(open_code(code), hub_with_model, tmp_path)
    installed = [["hf_selfattn", expected(seed)] for seed in (1, 0, 1)]
    assert answer["logits"] == installed
    assert {entry["label"] for entry in answer["text"]} == {"left", "right", "up"}

    seen = len(hub_with_model.requests)
    assert ask(open_code(code), hub_with_model, tmp_path, offline=True)["logits"] == installed
    assert len(hub_with_model.requests) == seen


def test_a_model_opens_by_name_where_the_package_is_not(hub_with_model: Hub, tmp_path: Path) -> None:
    code = """
    answer["package"] = error(__import__, "hf_selfattn")
    answer["no flag"] = error(logits)
    answer["logits"] = [logits(trust_remote_code=True, revision=r, code_revision=r) for r in ("main", "v1")]
    answer["files"] = sorted(path.name for path in Path("modules").rglob("*_selfattn.py"))
    """
    answer = ask(open_code(code), hub_with_model, tmp_path, package=False)
    assert answer["package"] == "ModuleNotFoundError" and answer["no flag"] == "ValueError"
    assert answer["logits"] == [["transformers_modules", expected(seed)] for seed in (1, 0)]
    assert "modeling_selfattn.py" in answer["files"]
