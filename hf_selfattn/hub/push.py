"""Push a finished run to the hub in one commit, and see that what arrived there is what was sent."""

from __future__ import annotations

import filecmp
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import ClassVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

from ..arguments import RunArguments
from ..files import read_json, write_text
from ..modeling.adapter_selfattn import ADAPTER_CONFIG
from .card import model_card
from .results import ARGUMENTS_FILE, CARD_FILE, RESULTS_FILE, RUN_STATE_FILE
from .sanitize import one_line

# What a run leaves in its folder beside its result, by the name of a file or folder: checkpoints and what only a
# continued training reads, pickles among it. The names of files that are not whole begin with a dot or underscore.
NOT_PUSHED = (
    *(".*", "_*", "checkpoint-*", "runs", "probe", "sweep", "auto"),
    *(ARGUMENTS_FILE, RUN_STATE_FILE, "trainer_state.json", "*.db", "*.bin", "*.pt", "*.pth", "*.pkl"),
)
PREDICTIONS = "predictions-*.jsonl"

# What an earlier push, or `Trainer` with a checkpoint, left in a repository and the result has no more.
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, "training_args.bin")
STALE_FILES = (*WEIGHT_FILES, "*_selfattn.py", ARGUMENTS_FILE, RUN_STATE_FILE)


@dataclass(frozen=True)
class PushTarget:
    """Where and how a run is pushed; the fields are the options of `push_run`."""

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    commit_message: str = "Model and results"
    predictions: bool = False
    token: str | None = field(default=None, repr=False)


@dataclass
class PushArguments:
    """Push the result of a finished run to the hub, with the token of your login or of HF_TOKEN.

    Args:
        folder: the output_dir of a finished run.
        repo_id: name of the repository, made where there is none; without a namespace it is your own.
        private: whether a repository that is made here is private.
        revision: branch, made where there is none.
        create_pr: propose the commit instead of making it.
        commit_message: first line of the commit.
        predictions: push the predictions row by row, too.
    """

    required: ClassVar[tuple[str, ...]] = ("folder", "repo_id")

    folder: str = ""
    repo_id: str = ""
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    commit_message: str = PushTarget.commit_message
    predictions: bool = False


def push_folder(arguments: PushArguments) -> str:
    """Push the result of a finished run and return the address of the commit or pull request, which is printed."""
    address = push_run(**asdict(arguments))
    print(f"Pushed to {address}")
    return address


def push_target(arguments: RunArguments) -> PushTarget | None:
    """Return where the result of a recipe goes, or None where it stays."""
    given = arguments.options
    if not given.get("push_to_hub"):
        return None
    if arguments.makes_several_models:
        raise ValueError(
            "push_to_hub=true needs one model, but several seeds or folds make one each. Leave push_to_hub out, and "
            "push the one you want afterwards: hf_selfattn.push_run(FOLDER, NAME)."
        )
    if arguments.hub_create_pr and given.get("hub_strategy", "end") != "end":
        raise ValueError(
            f"hub_create_pr=true proposes the result, but hub_strategy={given['hub_strategy']!r} pushes checkpoints "
            "to the branch itself. Leave one of them out."
        )
    return PushTarget(
        repo_id=given.get("hub_model_id") or Path(arguments.output_dir).absolute().name,
        private=given.get("hub_private_repo"),
        revision=given.get("hub_revision"),
        create_pr=arguments.hub_create_pr,
        commit_message=arguments.hub_commit_message or PushTarget.commit_message,
        predictions=arguments.hub_predictions,
        token=given.get("hub_token"),
    )


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = PushTarget.commit_message,
    predictions: bool = False,
    token: str | None = None,
) -> str:
    """Push the result of a finished run, compare what arrived, and return the address of the commit or pull request.

    One commit brings model, tokenizer, code, card, `results.json` and what else the result is made of; no checkpoints
    and no pickles. It deletes the files of an earlier model that are not replaced.

    Args:
        folder: the output_dir of a finished run.
        repo_id: name of the repository, made where there is none; without a namespace it is the user's own.
        private: whether a repository that is made here is private; the hub's default where it is None.
        revision: branch, made where there is none.
        create_pr: propose the commit instead of making it.
        commit_message: first line of the commit.
        predictions: push the predictions row by row, too.
        token: that of the user's login where it is None.

    Raises:
        ValueError: if the folder holds no finished run, the repository cannot be written to, or the push fails.
    """
    target = PushTarget(repo_id, private, revision, create_pr, commit_message, predictions, token)
    for name in ("config.json", RESULTS_FILE):
        if not (Path(folder) / name).is_file():
            raise ValueError(f"{folder} holds no finished run: it has no {name}. Give the output_dir of a run.")
    return push(Path(folder), open_repository(target))


def open_repository(target: PushTarget) -> PushTarget:
    """Make the repository and the branch where there are none, and return the target with the full name."""
    api = HfApi(token=target.token)
    with explained(target, "log in with `hf auth login`, or set HF_TOKEN to a valid token"):
        api.whoami()
    with explained(target, "use a token that may write there, or choose another repository by `hub_model_id=NAME`"):
        repo_id = api.create_repo(target.repo_id, private=target.private, exist_ok=True).repo_id
        if not target.create_pr:
            api.auth_check(repo_id, write=True)
            if target.revision not in (None, "main") and not str(target.revision).startswith("refs/"):
                api.create_branch(repo_id, branch=str(target.revision), exist_ok=True)
    return replace(target, repo_id=repo_id)


@contextmanager
def explained(target: PushTarget, remedy: str) -> Iterator[None]:
    """Turn an error of the hub's client, of whatever kind, into one that says how to mend it."""
    try:
        yield
    except Exception as error:
        # Errors of the network, whichever library the hub's client asks, and that of its offline mode.
        if any(kind.__name__ in ("TransportError", "ConnectionError") for kind in type(error).__mro__):
            remedy = "see that the hub can be reached (network, HF_ENDPOINT, HF_HUB_OFFLINE)"
        raise ValueError(
            f"Nothing can be pushed to {target.repo_id} ({reason(error, target)}). Before you try again: {remedy}."
        ) from error


def push(folder: Path, target: PushTarget) -> str:
    """Push the result of a run to an open repository, pull it back, compare it, and return its address."""
    api = HfApi(token=target.token)
    try:
        name_card(folder, target.repo_id)
        files = files_to_push(folder, target.predictions)
        stale = stale_files(api.list_repo_files(target.repo_id, revision=target.revision), files)
        added = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in files]
        commit = api.create_commit(
            target.repo_id,
            [*added, *(CommitOperationDelete(path_in_repo=path) for path in stale)],
            commit_message=target.commit_message,
            revision=target.revision,
            create_pr=target.create_pr,
        )
        check_arrived(folder, files, target, commit)
    except Exception as error:
        raise ValueError(
            f"The push to {target.repo_id} failed ({reason(error, target)}). The result in {folder} is whole, and the "
            f"repository holds no half of it. To push again, without training, give the recipe's command again, or\n"
            f"  {push_command(folder, target)}"
        ) from error
    return commit.pr_url or commit.commit_url


def reason(error: Exception, target: PushTarget) -> str:
    """Return an error in one line that holds no token."""
    text = one_line(f"{type(error).__name__}: {error}")
    for token in (target.token, os.environ.get("HF_TOKEN")):
        text = text.replace(token, "(token)") if token else text
    return text


def name_card(folder: Path, repo_id: str) -> None:
    """Write the name of the repository into the model card, unless the user has changed the card."""
    card, results = folder / CARD_FILE, read_json(folder / RESULTS_FILE)
    if not card.is_file() or card.read_text(encoding="utf-8") == model_card(results):
        write_text(card, model_card(results, name=repo_id))


def files_to_push(folder: Path, predictions: bool = False) -> list[str]:
    """Return the files that are the result of a run, by their paths inside its folder."""
    left_out = NOT_PUSHED if predictions else (*NOT_PUSHED, PREDICTIONS)
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.as_posix() for path in paths if not any(fnmatch(part, p) for part in path.parts for p in left_out)]


def stale_files(remote: list[str], files: list[str]) -> list[str]:
    """Return the files of an earlier push that would be taken for a part of the new model.

    They stand at the top or in the folder of an adapter; a user's own files are none of them, nor are checkpoints.
    """
    folders = {".", *(str(PurePosixPath(path).parent) for path in remote if path.endswith(f"/{ADAPTER_CONFIG}"))}
    folders -= {folder for folder in folders if fnmatch(folder, "checkpoint-*") or folder == "last-checkpoint"}
    return [
        path
        for path in remote
        if path not in files
        and str(PurePosixPath(path).parent) in folders
        and any(fnmatch(PurePosixPath(path).name, pattern) for pattern in STALE_FILES)
    ]


def check_arrived(folder: Path, files: list[str], target: PushTarget, commit: CommitInfo) -> None:
    """Pull every file back, past the cache, and compare it with what was sent."""
    for path in files:
        with TemporaryDirectory() as fresh:
            pulled = hf_hub_download(
                target.repo_id, path, revision=commit.pr_revision or commit.oid, cache_dir=fresh, token=target.token
            )
            if not filecmp.cmp(pulled, folder / path, shallow=False):
                raise ValueError(f"{path} came back from the hub with another content")


def push_command(folder: Path, target: PushTarget) -> str:
    """Return the command that pushes a finished run; the token is left to the user's login."""
    default = asdict(PushTarget(target.repo_id))
    options = {name: value for name, value in asdict(target).items() if value != default[name] and name != "token"}
    words = [repr(str(folder)), repr(target.repo_id), *(f"{name}={value!r}" for name, value in options.items())]
    code = f"from hf_selfattn import push_run; print(push_run({', '.join(words)}))"
    return f"python -c {shlex.quote(code)}"


@contextmanager
def logged_in(target: PushTarget | None) -> Iterator[None]:
    """Let the token of a target stand in the environment, where `Trainer` finds it when it pushes checkpoints.

    Given as `hub_token`, `Trainer` would write it into every checkpoint (`training_args.bin`).
    """
    before = os.environ.get("HF_TOKEN")
    if target is not None and target.token:
        os.environ["HF_TOKEN"] = target.token
    try:
        yield
    finally:
        if before is not None:
            os.environ["HF_TOKEN"] = before
        elif target is not None and target.token:
            del os.environ["HF_TOKEN"]
