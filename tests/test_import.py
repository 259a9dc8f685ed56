"""What importing the package costs beside the classes that it registers, and what it leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_model, tiny_tokenizer

import hf_selfattn

BASES = """
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers import PreTrainedConfig, PreTrainedModel
"""


def process(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    cpu = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], env=cpu, check=True, capture_output=True, text=True)


def answer(code: str) -> str:
    return process(code).stdout


def test_opening_a_configuration_imports_no_training_library(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    code = "import sys, hf_selfattn; from transformers import AutoConfig; "
    code += f"print(AutoConfig.from_pretrained({str(tmp_path)!r}).model_type, *sys.modules)"
    kind, *modules = answer(code).split()
    assert kind == "selfattn"
    heavy = {"datasets", "evaluate", "matplotlib", "optuna", "pandas", "peft", "sklearn"}
    assert not heavy & set(modules)
    assert {name.split(".")[1] for name in modules if name.startswith("hf_selfattn.")} == {"modeling"}


def test_no_import_prints_anything() -> None:
    """Transformers says which argument of a model has no documentation, bitsandbytes which kernel is missing."""
    done = process(
        f"import {', '.join(f'hf_selfattn.{home}' for home in hf_selfattn.PUBLIC)}\nfrom hf_selfattn import *"
    )
    assert (done.stdout, done.stderr) == ("", "")


TRAINS = {"bitsandbytes", "evaluate", "matplotlib", "optuna", "peft", "sklearn", "transformers.trainer"}
READS = {"datasets", "hf_selfattn.tasks", "pandas"}


SPARED = {
    "--help": {*TRAINS, *READS},
    "export --help": {*TRAINS, *READS},
    "predict --help": TRAINS,
    "predict model input=rows.csv output=answers.csv prefix=new_": TRAINS,
}
# argv: commands. What they share is imported once, and a child of its own carries out each.
COMMANDS = """
import os, sys
from hf_selfattn.__main__ import main

for command in sys.argv[1:]:
    if not os.fork():
        sys.argv[1:] = command.split()
        try:
            main()
        except SystemExit as end:
            assert not end.code, end
        print("\\nMODULES", *sys.modules, flush=True)
        break
    assert os.wait()[1] == 0, command
"""


def test_a_command_imports_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither help nor an answer needs what trains; PEFT would import bitsandbytes, where that is installed."""
    monkeypatch.chdir(tmp_path)
    tiny_model("single_label").save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    Path("rows.csv").write_text("text,label\n" + "".join(f"w{n},{'ab'[n % 2]}\n" for n in range(40)))
    said = process(COMMANDS, *SPARED).stdout.splitlines()
    imported = [{*line.split()} for line in said if line.startswith("MODULES ")]
    for (command, spared), modules in zip(SPARED.items(), imported, strict=True):
        assert "hf_selfattn.__main__" in modules and not spared & modules, command
    assert Path("answers.csv").is_file()


@pytest.mark.slow
def test_the_import_costs_little_beside_the_classes_that_it_registers() -> None:
    """Both parts stand in one process; in the quietest of several the share is at its truest."""
    code = f"from time import process_time as now\nbegin = now(){BASES}between = now()\nimport hf_selfattn\n"
    code += "print((now() - begin) / (between - begin))"
    assert any(float(answer(code)) <= 1.05 for _ in range(5))


def test_every_public_name_is_found_when_it_is_asked_for() -> None:
    for name in hf_selfattn.__all__:
        assert getattr(hf_selfattn, name) is not None and name in dir(hf_selfattn)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        hf_selfattn.nothing  # noqa: B018
