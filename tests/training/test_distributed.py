"""One process, several steps and two processes give the same run: every recipe, every launcher, as a user types it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import text_arguments
from tiny_models import BACKBONES, tiny_text, tiny_tokenizer
from transformers import AutoModel
from warm_python import warm_environment, warm_launcher

from hf_selfattn import (
    NerArguments,
    RunArguments,
    SentimentArguments,
    TextClassificationArguments,
    build_arguments,
    run,
)

ROOT = Path(__file__).parents[2]
ROWS = {"train": 50, "validation": 19, "test": 17}  # no multiples of a batch, so that processes share them unevenly
RECIPES: dict[str, type[RunArguments]] = {
    "text_classification": TextClassificationArguments,
    "sentiment": SentimentArguments,
    "ner": NerArguments,
}
SHARED: dict[str, Any] = {
    "bf16": False,
    "disable_tqdm": True,
    "seed": 0,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "per_device_eval_batch_size": 4,
    "backbone": {"hidden_dropout_prob": 0.0},  # each process draws its own dropout
    "heads": {"head_dim": 8, "group_dim": 8, "num_groups": 4, "block_size": 8, "subsequence_stride": 4},
}
SHARED["heads"]["classifier_dropout"] = 0.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone, and rows for each recipe; every fifth text is longer than the backbone's window."""
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    AutoModel.from_config(BACKBONES["bert"]).save_pretrained(folder / "backbone")
    tiny_tokenizer().save_pretrained(folder / "backbone")
    for seed, (split, count) in enumerate(ROWS.items()):
        texts = [tiny_text(70 if i % 5 == 0 else 4 + i % 7, seed=1000 * seed + i) for i in range(count)]
        rows = [{"text": f"w{10 + i % 3} {text}", "label": f"{i % 3 + 1}"} for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tags = ("O", "B-PER", "O", "B-LOC")
        sentences = [[f"{word} {tags[int(word[1:]) % 4]}" for word in text.split()] for text in texts]
        (folder / f"{split}.conll").write_text("\n\n".join("\n".join(lines) for lines in sentences) + "\n")
    return folder


def settings(recipe: str, folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    ending = "conll" if recipe == "ner" else "jsonl"
    special: dict[str, dict[str, Any]] = {
        "text_classification": {"baseline": False},
        "sentiment": {"problem": "ordinal", "baseline": False, "lexicon": False},
        "ner": {"heads": {**SHARED["heads"], "decoding": "crf"}},
    }
    files = {split: str(folder / f"{split}.{ending}") for split in ROWS}
    place = {"model": str(folder / "backbone"), "output_dir": str(folder / f"{recipe}-{name}")}
    return {**place, **files, **SHARED, **special[recipe], **changes}


def words_of(given: dict[str, Any]) -> list[str]:
    """The settings as a user types them; JSON is YAML."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(launcher: list[str], recipe: str, given: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    words = [*launcher, f"recipes/{recipe}.py", *words_of(given)]
    surroundings = warm_environment(PYTHONPATH=str(ROOT), **environment)
    return subprocess.Popen(
        words, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    try:
        for process in processes:
            said = process.communicate(timeout=300)[0]
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in processes:
            process.kill()


def accelerate(*options: str) -> list[str]:
    return [*warm_launcher("accelerate"), "launch", *options]


def by_accelerate(recipe: str, given: dict[str, Any]) -> None:
    options = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0")
    plain = ("--mixed_precision", "no", "--dynamo_backend", "no")
    finish(start(accelerate(*options, *plain), recipe, given, ACCELERATE_USE_CPU="true"))


def by_config_file(recipe: str, given: dict[str, Any]) -> None:
    finish(start(accelerate("--config_file", "hf_selfattn/launch/cpu_2.yaml"), recipe, given))


def by_torchrun(recipe: str, given: dict[str, Any]) -> None:
    finish(start([*warm_launcher("torchrun"), "--nproc_per_node", "2", "--standalone"], recipe, given))


def on_two_machines(recipe: str, given: dict[str, Any]) -> None:
    port = str(free_port())
    place = ("--config_file", "hf_selfattn/launch/two_machines.yaml", "--main_process_port", port)
    finish(*(start(accelerate(*place, "--machine_rank", rank), recipe, given) for rank in "01"))


def results_of(recipe: str, folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{recipe}-{name}" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one(folder: Path) -> Callable[[str], dict[str, Any]]:
    """The results of one process, of each recipe once."""
    known: dict[str, dict[str, Any]] = {}

    def results(recipe: str) -> dict[str, Any]:
        if recipe not in known:
            given = settings(recipe, folder, "one", per_device_train_batch_size=16)
            known[recipe] = run(build_arguments(given, RECIPES[recipe]))
        return known[recipe]

    return results


def numbers(results: dict[str, Any], *names: str) -> list[float]:
    return [entry[name] for name in names for entry in results["training"]["history"] if name in entry]


def assert_same_run(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Loss and gradient norm of every step, every metric of every evaluation, and the final scores."""
    assert len(numbers(theirs, "loss")) == 2 * 4  # 50 rows by 16, twice
    # `Trainer`'s own eval_loss is a mean of batch means, in which rows that fill up a batch of a process have a part.
    unlike = {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    scores = {name for entry in theirs["training"]["history"] for name in entry if name.startswith("eval_")} - unlike
    assert len(scores) >= 4
    for name in ("loss", "grad_norm", "learning_rate", *scores):
        assert numbers(mine, name) == pytest.approx(numbers(theirs, name), abs=1e-5), name
    for split, record in theirs["splits"].items():
        found = mine["splits"][split]
        assert found["rows"] == record["rows"] == ROWS[split]
        assert found["scores"].keys() == record["scores"].keys()
        for metric, score in record["scores"].items():
            assert found["scores"][metric]["value"] == pytest.approx(score["value"], abs=1e-5), metric


def assert_each_row_once(folder: Path, recipe: str, name: str) -> None:
    for split in ("validation", "test"):
        lines = (folder / f"{recipe}-{name}/predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["row"] for line in lines] == list(range(ROWS[split]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_four_steps_of_four_rows_are_one_of_sixteen(
    recipe: str, folder: Path, one: Callable[[str], dict[str, Any]]
) -> None:
    given = settings(recipe, folder, "steps", per_device_train_batch_size=4, gradient_accumulation_steps=4)
    results = run(build_arguments(given, RECIPES[recipe]))
    assert results["training"]["processes"] == 1
    assert_same_run(results, one(recipe))


@pytest.mark.parametrize(
    ("recipe", "launch"),
    [
        ("text_classification", by_accelerate),
        ("text_classification", by_torchrun),
        ("sentiment", by_accelerate),
        ("sentiment", by_torchrun),
        ("ner", by_config_file),
        ("ner", by_torchrun),
        ("ner", on_two_machines),
    ],
)
def test_two_processes_are_one(
    recipe: str, launch: Callable[..., None], folder: Path, one: Callable[[str], dict[str, Any]]
) -> None:
    launch(recipe, settings(recipe, folder, launch.__name__, per_device_train_batch_size=8))
    results = results_of(recipe, folder, launch.__name__)
    assert results["training"]["processes"] == 2
    assert_same_run(results, one(recipe))
    assert_each_row_once(folder, recipe, launch.__name__)


def test_a_stream_is_shared_by_two_processes(folder: Path) -> None:
    """Over two passes, the first of which ends within a batch."""
    stream = {"streaming": True, "max_steps": 8, "streaming_buffer": 20, "eval_steps": 4, "save_steps": 4}
    given = settings("text_classification", folder, "stream", **stream, per_device_train_batch_size=10)
    alone = run(text_arguments(given))
    given = settings("text_classification", folder, "shared", **stream, per_device_train_batch_size=5)
    by_torchrun("text_classification", given)
    shared = results_of("text_classification", folder, "shared")
    assert shared["training"]["processes"] == 2 and shared["train"] == alone["train"]
    for name in ("loss", "grad_norm", "eval_macro_f1"):
        assert len(numbers(alone, name)) in (8, 2)
        assert numbers(shared, name) == pytest.approx(numbers(alone, name), abs=1e-5)


def test_two_phases_are_shared_by_two_processes(folder: Path) -> None:
    changes = {"tuning": "probe+lora", "feature_cache": str(folder / "kept"), "feature_dtype": "float32"}
    given = settings("text_classification", folder, "phases", **changes, per_device_train_batch_size=16)
    alone = run(text_arguments(given))
    given = settings("text_classification", folder, "phases-shared", **changes, per_device_train_batch_size=8)
    by_torchrun("text_classification", given)
    shared = results_of("text_classification", folder, "phases-shared")
    assert [phase["processes"] for phase in shared["training"]["phases"].values()] == [2, 2]
    assert_same_run(shared, alone)
    first = [{"training": results["training"]["phases"]["probe"]} for results in (shared, alone)]
    assert numbers(first[0], "loss") == pytest.approx(numbers(first[1], "loss"), abs=1e-5)


@pytest.mark.parametrize("asked", [("--cpu", "--num_processes", "2"), ("--config_file", "MULTI_CPU")])
def test_a_launcher_that_starts_fewer_processes_is_noticed(asked: tuple[str, ...], folder: Path) -> None:
    (folder / "multi_cpu.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n")
    options = [str(folder / "multi_cpu.yaml") if word == "MULTI_CPU" else word for word in asked]
    given = settings("ner", folder, "lone")
    process = start(accelerate(*options), "ner", given)
    said = process.communicate(timeout=300)[0]
    assert process.returncode != 0 and not (folder / "ner-lone").exists()
    assert "started this one alone" in said and "--multi_gpu --num_processes 2" in said


@pytest.fixture(scope="module")
def checks(folder: Path) -> list[dict[str, Any]]:
    """What two processes found in `process_checks.py`."""
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")])}
    environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    words = [
        *warm_launcher("torchrun"),
        "--nproc_per_node",
        "2",
        "--standalone",
        "tests/support/process_checks.py",
        str(folder),
    ]
    subprocess.run(words, cwd=ROOT, check=True, env=warm_environment(**environment), timeout=300)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("task", ["single_label", "token"])
def test_a_sharded_step_is_an_unsharded_one(task: str, lora: bool, checks: list[dict[str, Any]]) -> None:
    for rank in checks:
        found = rank["sharding"][f"{task}, lora={lora}"]
        assert found["blocks"] == ["BertEmbeddings", "BertLayer", "SelfAttnHeads", "SelfAttnLayer"]
        assert found["sharded"] >= 5  # embeddings, two layers, our heads and the rest
        assert found["local"] < 0.52 * found["all"]
        for name in ("loss", "norm"):
            assert found[name][0] == pytest.approx(found[name][1], abs=1e-5)
        assert found["weights"] < 1e-5


def test_a_machine_tokenises_once(checks: list[dict[str, Any]]) -> None:
    assert [rank["written"] for rank in checks] == [1, 0]


def test_each_process_writes_its_share_of_the_features(checks: list[dict[str, Any]]) -> None:
    shares = [rank["features"]["written"] for rank in checks]
    assert sum(shares) == checks[0]["features"]["of"] and abs(shares[0] - shares[1]) <= 1
    assert all(rank["features"]["right"] for rank in checks)
