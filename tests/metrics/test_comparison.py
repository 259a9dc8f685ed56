from __future__ import annotations

import json

import numpy as np
import pytest

from hf_selfattn.metrics import compare, paired_bootstrap, score

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def answers(truth, share_right, rng):
    guess = rng.integers(3, size=len(truth))
    return np.eye(3)[np.where(rng.random(len(truth)) < share_right, truth, guess)]


def naive_paired(truth, outputs_a, outputs_b, resamples, seed):
    rng = np.random.default_rng(seed)
    right_a, right_b = outputs_a.argmax(axis=1) == truth, outputs_b.argmax(axis=1) == truth
    difference = right_a.mean() - right_b.mean()
    extreme, drawn = 0, []
    for _ in range(resamples):
        rows = rng.integers(len(truth), size=len(truth))
        drawn.append(right_a[rows].mean() - right_b[rows].mean())
        extreme += abs(drawn[-1] - difference) >= abs(difference) - 1e-12
    return difference, (1 + extreme) / (1 + resamples), np.quantile(drawn, [0.025, 0.975])


def test_paired_bootstrap_equals_a_naive_loop():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=250)
    outputs_a, outputs_b = answers(truth, 0.75, rng), answers(truth, 0.68, rng)
    test = paired_bootstrap(SINGLE, "accuracy", truth, outputs_a, outputs_b, resamples=4000)
    difference, p_value, bounds = naive_paired(truth, outputs_a, outputs_b, 4000, seed=9)
    assert test.difference == pytest.approx(difference) == test.value_a - test.value_b
    assert test.p_value == pytest.approx(p_value, abs=0.03)
    assert (test.low, test.high) == pytest.approx(tuple(bounds), abs=0.012)
    back = paired_bootstrap(SINGLE, "accuracy", truth, outputs_b, outputs_a, resamples=4000)
    assert back.difference == -test.difference and back.p_value == test.p_value


def test_equal_systems_and_unlike_systems():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    good, bad = answers(truth, 0.9, rng), answers(truth, 0.3, rng)
    same = paired_bootstrap(SINGLE, "macro_f1", truth, good, good, resamples=200)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    unlike = paired_bootstrap(SINGLE, "macro_f1", truth, good, bad, resamples=500)
    assert unlike.p_value == pytest.approx(1 / 501) and unlike.low > 0.3
    assert unlike.value_a == pytest.approx(score(SINGLE, truth, good, None, resamples=10)["macro_f1"].value)
    assert "macro_f1: " in str(unlike) and unlike.as_dict()["metric"] == "macro_f1"


def test_a_true_null_is_rejected_as_often_as_promised():
    rng = np.random.default_rng(0)
    p_values = []
    for seed in range(400):
        truth = rng.choice(3, 200, p=[0.6, 0.3, 0.1])
        systems = [answers(truth, 0.8, rng) for _ in range(2)]
        p_values.append(paired_bootstrap(SINGLE, "macro_f1", truth, *systems, resamples=200, seed=seed).p_value)
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.42 <= np.mean(np.array(p_values) <= 0.5) <= 0.58


def test_unknown_and_undefined_metrics_are_refused():
    outputs = np.array([[0.9, 0.1], [0.8, 0.2]])
    with pytest.raises(ValueError, match="metric is 'f1', but .*macro_f1"):
        paired_bootstrap(SINGLE, "f1", [0, 1], outputs, outputs)
    with pytest.raises(ValueError, match="'roc_auc' is undefined"):
        paired_bootstrap(SINGLE, "roc_auc", [0, 0], outputs, outputs)


def write_results(folder, references, outputs, rows=None, **fields):
    folder.mkdir()
    rows = range(len(references)) if rows is None else rows
    lines = [
        json.dumps({"row": row, "reference": reference, "output": output})
        for row, reference, output in zip(rows, references, outputs, strict=True)
    ]
    (folder / "predictions-test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"problem": SINGLE, "label_names": ["a", "b", "c"]} | fields
    content["splits"] = {"test": {"predictions_file": "predictions-test.jsonl"}}
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "results.json"


def test_results_files_are_compared_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=120)
    outputs_a, outputs_b = answers(truth, 0.8, rng), answers(truth, 0.6, rng)
    path_a = write_results(tmp_path / "a", truth.tolist(), outputs_a.tolist())
    order = rng.permutation(120)
    path_b = write_results(tmp_path / "b", truth[order].tolist(), outputs_b[order].tolist(), rows=order.tolist())
    expected = paired_bootstrap(SINGLE, "f1/b", truth, outputs_a, outputs_b, ["a", "b", "c"], resamples=100)
    assert compare(path_a, path_b, "f1/b", resamples=100) == expected


def test_results_files_of_multi_label_use_their_own_thresholds(tmp_path):
    truth, outputs = [[1, 0], [0, 1], [1, 1]], [[0.4, 0.1], [0.1, 0.4], [0.4, 0.35]]
    fields = {"problem": MULTI, "label_names": ["a", "b"]}
    path_a = write_results(tmp_path / "a", truth, outputs, thresholds=[0.3, 0.3], **fields)
    path_b = write_results(tmp_path / "b", truth, outputs, top_one_if_none=False, **fields)
    test = compare(path_a, path_b, "micro_f1", resamples=50)
    assert (test.value_a, test.value_b) == (1, 0)


def test_results_files_that_do_not_match_are_refused(tmp_path):
    truth, outputs = [0, 1, 2], np.eye(3).tolist()
    path = write_results(tmp_path / "a", truth, outputs)

    def refused(name, message, *data, split="test", **options):
        with pytest.raises(ValueError, match=message):
            compare(path, write_results(tmp_path / name, *data, **options), "accuracy", split=split)

    refused("reference", "reference of row 1 is 1 in .*, but 2", [0, 2, 2], outputs)
    refused("fewer", r"answers row 2, but .* does not \(1 such rows\)", truth[:2], outputs[:2])
    refused("other", "row 2", truth, outputs, rows=[0, 1, 7])
    refused("twice", "line 3 answers row 1 again", truth, outputs, rows=[0, 1, 1])
    refused("labels", r"label_names is \['a', 'b', 'c'\]", truth, outputs, label_names=["x", "b", "c"])
    refused("problem", "problem is", truth, outputs, problem="ordinal")
    refused("split", "'splits' of .* has no 'movies'; it has 'test'", truth, outputs, split="movies")
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="broken.json is no JSON file"):
        compare(path, broken, "accuracy")
    broken.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="has no 'problem'"):
        compare(path, broken, "accuracy")
    (tmp_path / "a" / "predictions-test.jsonl").write_text('{"row": 0}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1 has no 'reference'"):
        compare(path, path, "accuracy")
