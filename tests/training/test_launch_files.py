"""The files for `accelerate launch`: the launcher reads each and knows every option in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from warm_python import warm_environment, warm_launcher

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "hf_selfattn/launch").glob("*.yaml"))
KINDS = {
    "cpu_2": "MULTI_GPU",
    "gpus": "MULTI_GPU",
    "two_machines": "MULTI_GPU",
    "fsdp2": "FSDP",
    "zero2": "DEEPSPEED",
    "zero3": "DEEPSPEED",
}


def test_there_is_a_file_for_every_case() -> None:
    assert {path.stem for path in FILES} == KINDS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launcher_reads_it(path: Path) -> None:
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.distributed_type.value == KINDS[path.stem] and config.num_processes == 2
    assert config.mixed_precision == "no"  # else it would overrule the run
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()
    said = path.read_text(encoding="utf-8")
    assert f"accelerate launch --config_file launch/{path.name}" in said


def test_the_kinds_are_what_they_are_called() -> None:
    configs = {path.stem: load_config_from_file(str(path)) for path in FILES}
    assert configs["fsdp2"].fsdp_config["fsdp_version"] == 2
    assert [configs[f"zero{stage}"].deepspeed_config["zero_stage"] for stage in (2, 3)] == [2, 3]
    assert configs["two_machines"].num_machines == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpus", "fsdp2"])
def test_it_starts_two_processes_without_a_gpu(name: str, tmp_path: Path) -> None:
    """`test_distributed.py` trains with those for CPUs; these are started only, and join on CPUs."""
    script = tmp_path / "join.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from accelerate import PartialState\n"
        "state = PartialState(cpu=True)\n"
        "Path(sys.argv[1], f'{state.process_index} of {state.num_processes}').touch()\n"
        "state.wait_for_everyone()\n"  # who leaves at once may cut off one that is still joining
        "state.destroy_process_group()\n"
    )
    launcher = [*warm_launcher("accelerate"), "launch"]
    words = [*launcher, "--config_file", f"hf_selfattn/launch/{name}.yaml", str(script), str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, env=warm_environment(), timeout=120)
    assert {path.name for path in tmp_path.glob("* of *")} == {"0 of 2", "1 of 2"}
