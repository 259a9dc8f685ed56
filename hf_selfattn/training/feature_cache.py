"""The backbone's features, computed once and kept on disk: a frozen backbone gives the same ones in every epoch."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..adapters import base_model
from ..files import whole_or_nothing
from ..metrics.inputs import Array
from ..modeling.backbone_selfattn import weights_hash
from ..tasks.backbone import Collate, Inputs
from .progress import Line, Stopwatch

# Of a batch that the backbone reads; on a CPU what fits into its caches is read a quarter faster.
BATCH_TOKENS, BATCH_TOKENS_ON_CPU = 8192, 2048
IMAGES_ON_CPU = 4  # the first maps of more images leave the caches: MobileNetV2 then takes three times as long
SHARD_BYTES = 2**27
MEGABYTE = 10**6
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
KEY_BYTES = 16
SUFFIX = ".safetensors"
SECONDS_OF_A_SHARD = 3600.0  # no process writes one for so long


def default_folder() -> Path:
    """Return the folder that takes features where none is named: beside the rows that Datasets has tokenised."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_selfattn"


class Place(NamedTuple):
    """Where the features of a row stand."""

    shard: Path  # its file
    start: int  # first token of the row in it
    stop: int  # the token after its last


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
        """Write a shard of the features (T, L, D) of rows."""
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


class CachedFeatures:
    """The features of the rows of some splits: what `SelfAttnHeads` reads of each token.

    They are found by the backbone's weights, the processor, windows, layers, type and the row's own content, never by
    a name: other splits, seeds and runs share them, and what changed is computed anew.

    Args:
        splits: encoded splits by name.
        inputs: how the backbone reads their rows.
        folder: takes the features.
        dtype: they are stored in, a name of `DTYPES`; with `bfloat16` the backbone runs in it, too.
        num_layers: that are kept, of which a model may mix fewer, but two at least; those that it mixes where it is
            not given.

    Raises:
        ValueError: if the tokenizer gives no attention mask.
    """

    def __init__(
        self, splits: Mapping[str, Dataset], inputs: Inputs, folder: Path, dtype: str, num_layers: int | None = None
    ):
        if "input_ids" in inputs.columns and "attention_mask" not in inputs.columns:
            raise ValueError("The tokenizer gives no attention_mask. Set feature_cache=false.")
        self.inputs, self.folder, self.dtype, self.num_layers = inputs, folder, dtype, num_layers
        self.store = FeatureStore(folder, dtype)
        columns = [name for name in inputs.columns if name in next(iter(splits.values())).column_names]
        plain = [split.with_format(None) for split in splits.values()]
        self.read = concatenate_datasets([split.select_columns(columns) for split in plain])
        self.keys = keys_of(self.read, inputs)
        self.lengths = [length for split in plain for length in split["length"]]
        self.rows: dict[str, Dataset] = {}
        needed = inputs.columns if inputs.beside_features is None else inputs.beside_features
        needless = [name for name in columns if name not in needed]
        first = 0
        for name, split in splits.items():
            numbers = np.arange(first, first := first + len(split))
            kept = split.remove_columns(needless).add_column("features", numbers)
            self.rows[name] = kept.with_transform(self.store.fill)

    def prepare(self, model: nn.Module, device: torch.device | str) -> dict[str, Any]:
        """Compute the features that are not there yet, and return what was there and what it took."""
        with mixing(model, self.num_layers):
            return self.find(model, device)

    def find(self, model: nn.Module, device: torch.device | str) -> dict[str, Any]:
        """Find or compute the features of the layers that the model mixes, and return what it took."""
        watch, state = Stopwatch(), PartialState()
        if not self.inputs.says_length and self.lengths:
            self.lengths = self.lengths_of(model, torch.device(device))
        self.store.folder = self.folder / f"{features_fingerprint(model, self.inputs.state)}-{self.dtype}"
        missing = self.missing()
        record = self.announce(missing, base_model(model).config)
        state.wait_for_everyone()  # all know what is missing before one writes
        self.compute(missing[state.process_index :: state.num_processes], model, device)
        state.wait_for_everyone()
        with state.local_main_process_first():  # machines that share no disk
            self.compute(self.missing(), model, device)
            if state.is_local_main_process:
                self.store.clear_unfinished()
        places = self.store.places()
        self.store.rows = [places[key] for key in self.keys]
        return {**record, **watch.record()}

    def means(self) -> dict[str, Array]:
        """Return (N, D) the mean over all positions of the last layer, of the rows of each split, once prepared."""
        return {
            name: np.stack([row["features"][:, -1].float().mean(dim=0).numpy() for row in split])
            for name, split in self.rows.items()
        }

    def lengths_of(self, model: nn.Module, device: torch.device) -> list[int]:
        """Return how long the features of rows are that do not say it: about as long as those of the first one."""
        was_training = model.training
        model.to(device).eval()
        (first,) = features_of(model, on_device(self.inputs.collate([self.read[0]]), device))
        model.train(was_training)
        return [len(first)] * len(self.lengths)

    def missing(self) -> list[int]:
        """Return the rows without features, the shortest first; of equal rows one."""
        there = self.store.places()
        first_of = {key: number for number, key in reversed(list(enumerate(self.keys))) if key not in there}
        return sorted(first_of.values(), key=lambda number: (self.lengths[number], number))

    def announce(self, missing: Sequence[int], config: Any) -> dict[str, Any]:
        """Say how large the features are, and return it; an error names a disk with less room than that."""
        per_token = bytes_of_token(self.dtype, config.num_mixed_layers, config.hidden_size)
        needed = per_token * sum(self.lengths[number] for number in missing)
        record = {
            "rows": len(self.keys),
            "tokens": sum(self.lengths),
            "dtype": self.dtype,
            "computed_rows": len(missing),
            "written_bytes": needed,
        }
        PartialState().print(
            f"Features of the frozen backbone ({config.num_mixed_layers} x {config.hidden_size} {self.dtype} per "
            f"token): {len(missing):,} of {len(self.keys):,} rows are computed, {needed / MEGABYTE:,.1f} MB are "
            f"written to {self.store.folder}",
            flush=True,
        )
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if needed > (free := shutil.disk_usage(there).free):
            raise ValueError(
                f"The features take {needed / MEGABYTE:,.0f} MB, and {there} has {free / MEGABYTE:,.0f} MB left. Give "
                "feature_cache=FOLDER on a larger disk, feature_dtype=int8, or feature_cache=false to run the "
                "backbone in every step."
            )
        return record

    def compute(self, numbers: Sequence[int], model: nn.Module, device: torch.device | str) -> None:
        """Run the backbone on rows and write what the heads would read."""
        if not numbers:
            return
        config = base_model(model).config
        tokens_of_shard = SHARD_BYTES // bytes_of_token(self.dtype, config.num_mixed_layers, config.hidden_size)
        device = torch.device(device)
        batch_tokens = BATCH_TOKENS_ON_CPU if device.type == "cpu" else BATCH_TOKENS
        if device.type == "cpu" and not self.inputs.says_length:
            batch_tokens = min(batch_tokens, IMAGES_ON_CPU * max(self.lengths))
        line, done = Line(None if PartialState().is_main_process else False), 0
        was_training = model.training
        model.to(device).eval()
        for shard in portions(numbers, self.lengths, tokens_of_shard):
            rows: list[Tensor] = []
            for batch_rows in portions(shard, self.lengths, batch_tokens):
                batch = on_device(self.inputs.collate([self.read[number] for number in batch_rows]), device)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
                    rows += features_of(model, batch)
                done += len(batch_rows)
                line.show(f"features: {done:,} of {len(numbers):,} rows")
            self.store.add([self.keys[number] for number in shard], rows)
        line.clear()
        model.train(was_training)


def on_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a batch whose tensors are on a device."""
    return {name: values.to(device) for name, values in batch.items()}


@contextmanager
def mixing(model: nn.Module, num_layers: int | None) -> Iterator[None]:
    """Let the backbone of a model show so many layers for a while, or those that the model mixes."""
    config = base_model(model).config
    before = config.num_mixed_layers
    config.num_mixed_layers = num_layers or before
    try:
        yield
    finally:
        config.num_mixed_layers = before


@torch.no_grad()
def features_of(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the features (T, L, D) of each row that the heads read: the last L hidden states, windows merged."""
    found = base_model(model).base_model.backbone_features(**batch)
    features = torch.stack([found.in_input_order(layer) for layer in found.layers], dim=2).cpu()
    mask = found.real_positions()
    if mask is None:
        return list(features)
    return [values[kept] for values, kept in zip(features, mask.cpu(), strict=True)]


def features_fingerprint(model: nn.Module, state: Any) -> str:
    """Return a hash of all that features depend on beside a row's content and the type they are stored in.

    Args:
        state: of the processor.
    """
    config = base_model(model).config
    backbone = config.backbone_config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        backbone.pop(name, None)
    parts = {
        "weights": config.backbone_hash or weights_hash(base_model(model).base_model.backbone),
        "dtype": str(base_model(model).dtype),
        "backbone": backbone,
        "window": [config.subsequence_length, config.subsequence_stride, config.tiles, config.mirrored],
        "frame": [config.prefix_token_ids, config.suffix_token_ids],
        "layers": config.num_mixed_layers,
        "processor": state,
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keys_of(rows: Dataset, inputs: Inputs) -> list[bytes]:
    """Return for each row a hash of what the model reads of it."""
    keys = []
    for batch in rows.with_format("numpy").iter(batch_size=1000):
        names = sorted(batch)
        for values in zip(*(batch[name] for name in names), strict=True):
            digest = hashlib.blake2b(digest_size=KEY_BYTES)
            for name, value in zip(names, values, strict=True):
                digest.update(name.encode() + inputs.as_bytes(value))
            keys.append(digest.digest())
    return keys


def portions(numbers: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield consecutive rows that have at most so many tokens together, or one row that has more."""
    portion: list[int] = []
    total = 0
    for number in numbers:
        if portion and total + lengths[number] > most:
            yield portion
            portion, total = [], 0
        portion.append(number)
        total += lengths[number]
    if portion:
        yield portion


def feature_collator(collate: Collate, num_layers: int) -> Collate:
    """Return what makes a batch of rows, and pads the features of their last layers where they have some."""

    def with_features(rows: list[dict[str, Any]]) -> Any:
        if "features" not in rows[0]:
            return collate(rows)
        features = [row["features"][:, -num_layers:] for row in rows]
        batch = collate([{name: values for name, values in row.items() if name != "features"} for row in rows])
        if "attention_mask" not in batch:
            return {**batch, **padded_features(features)}
        mask = batch["attention_mask"].bool()
        padded = features[0].new_zeros(*mask.shape, *features[0].shape[1:])
        padded[mask] = torch.cat(features)
        batch["features"] = padded
        return batch

    return with_features


def padded_features(features: list[Tensor]) -> dict[str, Tensor]:
    """Return features (T, L, D) of images or sounds as a batch, those of different lengths with a mask."""
    if len({len(values) for values in features}) == 1:
        return {"features": torch.stack(features)}
    mask = nn.utils.rnn.pad_sequence([values.new_ones(len(values), dtype=torch.long) for values in features], True)
    return {"features": nn.utils.rnn.pad_sequence(features, True), "feature_mask": mask}


def packed(features: Tensor, dtype: str) -> dict[str, Tensor]:
    """Return features (N, L, D) of N tokens as they are stored; in 8 bits with one scale for each token and layer.

    In 8 bits a value is off by at most 1/254 of the greatest magnitude in its token and layer.
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
