"""Finished runs of every problem, each trained once in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from finished_runs import TEXT_PROBLEMS, train, train_tagger


@pytest.fixture(scope="session")
def finished(tiny_backbone: str, wordpiece: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a finished run of each problem; a test that changes one copies it."""
    folder = tmp_path_factory.mktemp("finished")
    runs = {
        problem: train(tiny_backbone, folder / problem, problem, baseline=problem != "multi_label_classification")
        for problem in TEXT_PROBLEMS
    }
    return {**runs, "named_entities": train_tagger(wordpiece, folder / "named_entities")}
