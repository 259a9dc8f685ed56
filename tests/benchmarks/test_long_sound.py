"""Joined recordings: their pieces add up, and words of both readings are set against each other in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.speed import long_sound


def test_pieces_are_whole_prompts_and_as_long_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounds").mkdir()
    for number in range(3):
        soundfile.write(tmp_path / f"sounds/{number}.wav", np.full(9 * 16_000, (number + 1) / 10), 16_000)
    monkeypatch.setattr(long_sound, "fetch", lambda name: tmp_path)
    found = list(long_sound.pieces(1.0))
    assert [len(piece) / 16_000 for piece in found] == [18, 18, 24]
    whole = np.concatenate(found)
    assert np.allclose(whole[:: 9 * 16_000], [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1], atol=1e-3)


def test_words_that_both_readings_share_are_compared() -> None:
    whole = [("a", 0.0, 0.4), ("b", 1.0, 1.4), ("x", 2.0, 2.2), ("c", 3.0, 3.4)]
    parts = [("a", 0.1, 0.4), ("b", 1.0, 1.7), ("c", 3.0, 3.4), ("d", 4.0, 4.1)]
    found = long_sound.compared(whole, parts)
    assert (found["whole"], found["piecewise"], found["shared"], found["near"]) == (4, 4, 3, 2)
    again = long_sound.compared([("a", 0.0, 0.4), ("a", 60.0, 60.4)], [("a", 60.1, 60.5), ("a", 30.0, 30.4)])
    assert (again["shared"], again["near"]) == (1, 1), "the same word at another time is another one"
    assert found["seconds_off_greatest"] == pytest.approx(0.3) and found["seconds_off_median"] == pytest.approx(0.1)


def test_words_of_pieces_stand_where_they_are_in_the_whole() -> None:
    def recognise(sound: np.ndarray, return_timestamps: str) -> dict[str, object]:
        return {"chunks": [{"text": "w", "timestamp": (0.5, 0.75)}]}

    found = long_sound.piecewise(recognise, [np.zeros(16_000, np.float32), np.zeros(8_000, np.float32)])
    assert found == [("w", 0.5, 0.75), ("w", 1.5, 1.75)]
