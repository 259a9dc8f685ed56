"""Features of rows on disk: memory-mapped safetensors shards, in full precision, half of it, or 8 bits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..files import whole_or_nothing

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
KEY_BYTES = 16
SUFFIX = ".safetensors"
SECONDS_OF_A_SHARD = 3600.0  # no process writes one for so long


class Place(NamedTuple):
    """Where the features of a row stand.

    Attributes:
        shard: its file.
        start: first token of the row in it.
        stop: the token after its last.
    """

    shard: Path
    start: int
    stop: int


class FeatureStore:
    """The shards of a folder. Each row stands there under a key that says what it was made of.

    A shard names the rows that it holds and is renamed to its place when it is whole, so what a killed process left
    there counts, and several processes may write at once. The file's name follows from its rows.

    Args:
        folder: of the shards; it is made with the first of them.
        dtype: a name of `DTYPES`.

    Attributes:
        rows: the places of the rows that `fill` knows by their numbers.
    """

    def __init__(self, folder: Path, dtype: str):
        self.folder, self.dtype = folder, dtype
        self.rows: list[Place] = []
        self.opened: dict[Path, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "opened": {}}  # a worker of a data loader maps the files itself

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureStore:
        return self  # copies of a data set read the features that are prepared later, too

    def places(self) -> dict[bytes, Place]:
        """Return where the features of each row stand, by key.

        A file that is not whole, which only a failing disk leaves, is deleted: its rows are missing.
        """
        found: dict[bytes, Place] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                with safe_open(path, framework="pt") as shard:
                    keys, lengths = shard.get_tensor("keys").numpy(), shard.get_tensor("lengths")
            except SafetensorError:
                path.unlink(missing_ok=True)
                continue
            stops = lengths.cumsum(0).tolist()
            starts = [0, *stops[:-1]]
            found.update(
                (key.tobytes(), Place(path, start, stop)) for key, start, stop in zip(keys, starts, stops, strict=True)
            )
        return found

    def add(self, keys: Sequence[bytes], rows: Sequence[Tensor]) -> None:
        """Write a shard.

        Args:
            rows: features (T, L, D) of each.

        Raises:
            ValueError: if the type cannot hold the features, or the disk does not take them.
        """
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES),
            "lengths": torch.tensor([len(row) for row in rows]),
            **packed(torch.cat(list(rows)), self.dtype),
        }
        path = self.folder / (hashlib.sha256(b"".join(keys)).hexdigest()[:32] + SUFFIX)
        try:
            with whole_or_nothing(path) as side:
                save_file(tensors, side)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"The features cannot be written to {self.folder} ({error}). Give feature_cache=FOLDER on another "
                "disk; what was written before is kept."
            ) from error

    def fill(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return rows of a data set with the features (T, L, D) of each where the number of its place stood."""
        if "features" not in rows:
            return rows
        return {**rows, "features": [self.read(self.rows[number]) for number in rows["features"]]}

    def clear_unfinished(self) -> None:
        """Delete what processes that were killed left half-written; another run may be writing younger files."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):  # renamed or deleted by that run meanwhile
                    if path.suffix != SUFFIX and time.time() - path.stat().st_mtime > SECONDS_OF_A_SHARD:
                        path.unlink()

    def read(self, place: Place) -> Tensor:
        """Return the features (T, L, D) of a row, as they are stored or, from 8 bits, in float32."""
        if place.shard not in self.opened:
            self.opened[place.shard] = load_file(place.shard)  # mapped, not read
        shard = self.opened[place.shard]
        values = shard["values"][place.start : place.stop]
        return values * shard["scales"][place.start : place.stop, :, None] if "scales" in shard else values


def packed(features: Tensor, dtype: str) -> dict[str, Tensor]:
    """Return features as they are stored; in 8 bits with one scale for each token and layer.

    In 8 bits a value is off by at most 1/254 of the greatest magnitude in its token and layer.

    Args:
        features: (N, L, D) of N tokens.

    Raises:
        ValueError: if a value is not finite, as it is or in this type.
    """
    if dtype == "int8":
        scales = (features.float().abs().amax(dim=-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        stored = {"values": (features.float() / scales[..., None]).round().to(torch.int8), "scales": scales}
        is_finite = scales.isfinite().all()
    else:
        stored = {"values": features.to(DTYPES[dtype])}
        is_finite = stored["values"].isfinite().all()
    if not is_finite:
        raise ValueError(
            f"A feature of the backbone is not finite in feature_dtype={dtype}: the greatest magnitude is "
            f"{features.float().abs().max():.3g}. Set feature_dtype=float32; if it fails, too, the backbone is broken."
        )
    return stored


def bytes_of_token(dtype: str, num_layers: int, hidden_size: int) -> int:
    """Return how many bytes the features of a token take."""
    scale = 4 if dtype == "int8" else 0
    return num_layers * (hidden_size * DTYPES[dtype].itemsize + scale)
