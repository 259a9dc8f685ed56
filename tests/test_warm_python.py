"""A warm interpreter is one like any other, but for the time of its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from warm_python import warm_python

SHOW = """
import os, sys
import numpy as np
theirs = {"datasets", "huggingface_hub", "peft", "transformers"} & {*sys.modules}
at_hand = "hf_selfattn" in sys.modules or bool(theirs and "HF_MINE" in os.environ)
print(__name__, sys.argv[-1], os.environ.get("HF_MINE"), os.getcwd(), sys.stdin.read(), at_hand)
print("to stderr", file=sys.stderr)
sys.exit(int(sys.argv[-1]))
"""


@pytest.mark.parametrize("mine", [{}, {"HF_MINE": "a b"}], ids=["stocked", "bare"])
@pytest.mark.parametrize("form", ["-c", "-m", "script"])
def test_words_environment_folder_and_files_are_the_callers(form: str, mine: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    words = {"-c": ["-c", SHOW], "-m": ["-m", "shown"], "script": ["shown.py"]}[form]
    given = {**os.environ, **mine}
    answers = [
        subprocess.run([python, *words, "3"], cwd=tmp_path, env=given, input="in", capture_output=True, text=True)
        for python in (warm_python(), sys.executable)
    ]
    assert answers[0].stdout == f"__main__ 3 {mine.get('HF_MINE')} {tmp_path} in False\n"
    assert answers[0].stderr == "to stderr\n" and answers[0].returncode == 3
    assert (answers[0].stdout, answers[0].stderr) == (answers[1].stdout, answers[1].stderr)


def test_modules_are_those_of_the_callers_path_and_no_two_draw_the_same(tmp_path: Path) -> None:
    (tmp_path / "hf_selfattn.py").write_text("print('blocked')")
    code = "import hf_selfattn; import numpy; print(numpy.random.random())"
    command = [warm_python(), "-c", code]
    given = {**os.environ, "PYTHONPATH": str(tmp_path)}
    one, other = (subprocess.run(command, cwd="/", env=given, capture_output=True, text=True).stdout for _ in range(2))
    assert one.startswith("blocked") and other.startswith("blocked") and one != other


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_signals_end_both(name: str) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    with subprocess.Popen([warm_python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        process.send_signal(signal.Signals[name])
        assert process.wait(timeout=10) == -signal.Signals[name]
        assert process.stdout.read() == ""  # the other end is closed: the process has ended, too
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(number, 0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_process_that_ends_itself_by_a_signal(name: str) -> None:
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    assert subprocess.run([warm_python(), "-c", code]).returncode == -signal.Signals[name]


def test_an_error_is_a_traceback_and_an_unknown_option_is_refused() -> None:
    for words, said in ((["-c", "1 / 0"], "ZeroDivisionError"), (["-O", "-c", "1"], "start sys.executable")):
        done = subprocess.run([warm_python(), *words], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr.splitlines()[-1]
