from __future__ import annotations

import socket

import evaluate
import numpy as np
import pytest
import transformers
from datasets import Dataset
from sklearn import metrics as reference

from hf_selfattn import as_evaluate_module, score

TRUTH, PREDICTED = [0, 1, 2, 1, 0, 2, 2, 1], [0, 1, 1, 1, 0, 2, 0, 1]


@pytest.fixture(autouse=True)
def network_is_cut(monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class StubPipeline:
    """Answers what the text says, as a text classification pipeline would."""

    task = "text-classification"

    def __call__(self, inputs, **_):
        return [{"label": f"class {entry['text'][-1]}", "score": 0.9} for entry in inputs]


def test_combine_takes_the_modules():
    names = ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "micro_f1", "mcc"]
    combined = evaluate.combine([as_evaluate_module(name) for name in names])
    values = combined.compute(predictions=PREDICTED, references=TRUTH)
    assert values == pytest.approx(
        {
            "accuracy": reference.accuracy_score(TRUTH, PREDICTED),
            "balanced_accuracy": reference.balanced_accuracy_score(TRUTH, PREDICTED),
            "macro_f1": reference.f1_score(TRUTH, PREDICTED, average="macro"),
            "weighted_f1": reference.f1_score(TRUTH, PREDICTED, average="weighted"),
            "micro_f1": reference.f1_score(TRUTH, PREDICTED, average="micro"),
            "mcc": reference.matthews_corrcoef(TRUTH, PREDICTED),
        }
    )
    in_batches = evaluate.combine([as_evaluate_module(name) for name in names], force_prefix=True)
    in_batches.add_batch(predictions=PREDICTED[:3], references=TRUTH[:3])
    in_batches.add_batch(predictions=np.array(PREDICTED[3:]), references=np.array(TRUTH[3:]))
    assert in_batches.compute() == pytest.approx({f"{name}_{name}": value for name, value in values.items()})


@pytest.mark.parametrize("strategy", ["simple", "bootstrap"])
def test_the_evaluator_takes_them(strategy, monkeypatch):
    # evaluate 0.4.6 looks this name up for a pipeline object, though Transformers 5 has dropped it.
    if not hasattr(transformers, "TFPreTrainedModel"):
        monkeypatch.setattr(transformers, "TFPreTrainedModel", type("Dropped", (), {}), raising=False)
    data = Dataset.from_dict({"text": [f"text {label}" for label in PREDICTED], "label": TRUTH})
    metrics = evaluate.combine([as_evaluate_module("accuracy"), as_evaluate_module("macro_f1")])
    result = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=StubPipeline(),
        data=data,
        metric=metrics if strategy == "simple" else as_evaluate_module("accuracy"),
        label_mapping={"class 0": 0, "class 1": 1, "class 2": 2},
        strategy=strategy,
        n_resamples=50,
        random_state=0,
    )
    if strategy == "bootstrap":
        assert result["accuracy"]["score"] == 0.75
        assert result["accuracy"]["confidence_interval"][0] < 0.75
    else:
        assert result["accuracy"] == 0.75
        assert result["macro_f1"] == pytest.approx(reference.f1_score(TRUTH, PREDICTED, average="macro"))


def test_modules_equal_score_for_every_problem():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 50)
    truth = (probabilities.cumsum(axis=1) > rng.random((50, 1))).argmax(axis=1)
    labels, indicators = probabilities.argmax(axis=1), np.eye(3, dtype=int)[truth]
    cases = [
        ("single_label_classification", truth, probabilities, labels),
        ("ordinal", truth, probabilities, labels),
        ("multi_label_classification", indicators, probabilities, (probabilities >= 0.5).astype(int)),
        ("regression", truth + 0.5, probabilities[:, 0], probabilities[:, 0]),
    ]
    for problem, references, outputs, answers in cases:
        scores = score(problem, references, outputs, None, top_one_if_none=False, resamples=5)
        for metric in (name for name in scores if "/" not in name):
            of_outputs = metric in ("ece", "brier", "nll", "roc_auc", "mean_average_precision")
            module = as_evaluate_module(metric, problem)
            predictions = (outputs if of_outputs else answers).tolist()
            found = module.compute(predictions=predictions, references=references.tolist())
            assert found == pytest.approx({metric: scores[metric].value}), (problem, metric)


def test_undefined_is_absent_and_bad_input_refused():
    module = as_evaluate_module("roc_auc")
    assert module.compute(predictions=[[0.6, 0.4], [0.3, 0.7]], references=[0, 0]) == {}
    with pytest.raises(ValueError, match="metric is 'f1', but single_label_classification has accuracy"):
        as_evaluate_module("f1")
    with pytest.raises(ValueError, match="metric of ordinal: pass problem="):
        as_evaluate_module("quadratic_kappa")
    with pytest.raises(ValueError, match="problem is 'binary'"):
        as_evaluate_module("accuracy", "binary")
    with pytest.raises(ValueError, match="label ids from 0, but there is -1"):
        as_evaluate_module("accuracy").compute(predictions=[0, -1], references=[0, 1])
    with pytest.raises(ValueError, match="Mismatch"):
        as_evaluate_module("accuracy").compute(predictions=[0], references=[0, 1])
