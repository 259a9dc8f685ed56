"""Labelled sound: prompts of a telephone exchange with their texts, and clips of four sources in three languages."""

from __future__ import annotations

import gzip
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
from sklearn.model_selection import GroupKFold

from .archives import Archive, Source, read_member, read_members
from .images import TUXPAINT
from .rows import SPLIT_SEEDS, Row, write_rows

LANGUAGES = ("en", "es", "fr")
VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison", "fr": "fr_CA_f_June"}
ORIGINS = ("asterisk", "tuxpaint", "ktuberling", "klettres")  # seeds 0 to 2 hold out the first, 3 to 5 the second …
MOST_CLIPS, SECONDS = 60, (0.3, 10.0)  # of a language in a source, and how long a clip is
TEST_FOLDS, VALIDATION_FOLDS = 5, 8
Clips = Iterator[tuple[str, str, bytes]]  # language, file name, content


def prompts(texts: Path, sounds: Path, language: str) -> Iterator[tuple[str, bytes, str]]:
    """Yield name, content and text of the recordings of Asterisk; notes on noises are no texts."""
    lines = gzip.decompress(read_member(texts, f"*/core-sounds-{language}.txt.gz")).decode("utf-8", "replace")
    contents = read_members(sounds, f"./usr/share/asterisk/sounds/{VOICES[language]}/*.wav")
    folder = f"./usr/share/asterisk/sounds/{VOICES[language]}"
    for line in lines.splitlines():
        found = re.fullmatch(r"([^;:][^:]*):\s*(.+)", line.strip())
        if found and found[2][0] not in "[(<" and (content := contents.get(f"{folder}/{found[1]}.wav")):
            yield found[1], content, found[2]


def unpack_asterisk(archives: list[Path], folder: Path) -> None:
    """Writes three splits by distinct text, train-0.jsonl … test-2.jsonl; no sound is tested in two of them."""
    rows = []
    for name, content, text in prompts(*archives, "en"):
        spoken = " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())
        if spoken and not re.search(r"[\d\[\](<]", text):
            rows.append({"sound": write_sound(folder, f"{name}.wav", content), "transcript": spoken})
    folds = grouped_folds(rows, TEST_FOLDS, SPLIT_SEEDS[0])
    for seed in SPLIT_SEEDS:
        rest = [row for number, fold in enumerate(folds) if number != seed for row in fold]
        validation, *train = grouped_folds(rest, VALIDATION_FOLDS, seed)
        parts = {"train": [row for fold in train for row in fold], "validation": validation, "test": folds[seed]}
        for part, chosen in parts.items():
            write_rows(folder / f"{part}-{seed}.jsonl", chosen)


def grouped_folds(rows: list[Row], count: int, seed: int) -> list[list[Row]]:
    """Cuts rows into parts of about equal size, all rows of a text in one."""
    folds = GroupKFold(count, shuffle=True, random_state=seed).split(rows, groups=[row["transcript"] for row in rows])
    return [[rows[number] for number in chosen] for _, chosen in folds]


def write_sound(folder: Path, name: str, content: bytes) -> str:
    """Writes a file below `sounds` and returns its path in the folder."""
    path = Path("sounds", name)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
    return path.as_posix()


def asterisk_clips(archives: list[Path]) -> Clips:
    for language, texts, sounds in zip(LANGUAGES, archives[::2], archives[1::2], strict=True):
        for name, content, _ in prompts(texts, sounds, language):
            yield language, f"{name.replace('/', '-')}.wav", content


def tuxpaint_clips(archive: Path) -> Clips:
    for name, content in read_members(archive, "*/tuxpaint/stamps/*_desc*.ogg").items():
        found = re.fullmatch(r".*/stamps/(.*)_desc(?:_([a-zA-Z_@]+))?\.ogg", name)
        if found and (found[2] or "en") in LANGUAGES:
            yield found[2] or "en", f"{found[1].replace('/', '-')}.ogg", content


def ktuberling_clips(archive: Path) -> Clips:
    """Names of objects, one voice for each language."""
    root = "./usr/share/ktuberling/sounds"
    contents = read_members(archive, f"{root}/*")
    for language in LANGUAGES:
        theme = ElementTree.fromstring(contents[f"{root}/{language}.soundtheme"])
        for sound in sorted({sound.get("file", "") for sound in theme.iter("sound")}):
            if content := contents.get(f"{root}/{sound}"):
                yield language, PurePosixPath(sound).name, content


def klettres_clips(archive: Path) -> Clips:
    """Letters and syllables; the English ones of two countries."""
    root = "./usr/share/klettres"
    for folder, language in {"en": "en", "en_GB": "en", "es": "es", "fr": "fr"}.items():
        for name, content in read_members(archive, f"{root}/{folder}/*/*.ogg").items():
            yield language, "-".join(PurePosixPath(name).parts[-3:]), content


def unpack_languages(archives: list[Path], folder: Path) -> None:
    """Writes train-0.jsonl … test-11.jsonl: three splits for each source, which is tested and not trained on."""
    *asterisk, tuxpaint, ktuberling, klettres = archives
    clips = (
        asterisk_clips(asterisk),
        tuxpaint_clips(tuxpaint),
        ktuberling_clips(ktuberling),
        klettres_clips(klettres),
    )
    rows = {origin: chosen_clips(folder, origin, found) for origin, found in zip(ORIGINS, clips, strict=True)}
    seeds = iter(range(len(ORIGINS) * len(SPLIT_SEEDS)))
    for tested in ORIGINS:
        others = [origin for origin in ORIGINS if origin != tested]
        for chooses, seed in zip(others, seeds, strict=False):
            trained = [row for origin in others if origin != chooses for row in rows[origin]]
            for part, chosen in {"train": trained, "validation": rows[chooses], "test": rows[tested]}.items():
                write_rows(folder / f"{part}-{seed}.jsonl", chosen)


def chosen_clips(folder: Path, origin: str, clips: Clips) -> list[Row]:
    """Writes so many clips of each language of a source, drawn at random, each sound once, and returns their rows."""
    import soundfile

    found: dict[str, dict[bytes, str]] = defaultdict(dict)
    for language, name, content in clips:
        if SECONDS[0] <= soundfile.info(io.BytesIO(content)).duration <= SECONDS[1]:
            found[language].setdefault(content, name)
    draw, rows = np.random.default_rng(SPLIT_SEEDS[0]), []
    for language in LANGUAGES:
        sounds = [(name, content) for content, name in found[language].items()]
        for number in draw.permutation(len(sounds))[:MOST_CLIPS]:
            name, content = sounds[number]
            path = write_sound(folder, f"{origin}/{language}/{name}", content)
            rows.append({"sound": path, "label": language, "source": origin})
    return [rows[number] for number in draw.permutation(len(rows))]


def deb(package: str, sha256: str, version: str = "1.6.1-1") -> Archive:
    return Archive(package, version, sha256, "deb")


ENGLISH = (
    deb("asterisk-core-sounds-en", "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50"),
    deb("asterisk-core-sounds-en-wav", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"),
)

SOUNDS = {
    "asterisk": Source(
        "481 English prompts of Asterisk with their texts, one speaker, 8 kHz, 0.24 hours, three fixed splits by text",
        "CC-BY-SA-3.0",
        ENGLISH,
        unpack_asterisk,
    ),
    "languages": Source(
        "clips of English, Spanish and French out of Asterisk, Tux Paint, KTuberling and KLettres, at most 60 of each "
        "language and source; twelve fixed splits, three for each source, which is tested and not trained on",
        "CC-BY-SA-3.0 (Asterisk), GPL-2 (Tux Paint), GPL-2+ (KTuberling, KLettres)",
        (
            *ENGLISH,
            deb("asterisk-core-sounds-es", "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74"),
            deb("asterisk-core-sounds-es-wav", "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903"),
            deb("asterisk-core-sounds-fr", "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056"),
            deb("asterisk-core-sounds-fr-wav", "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e"),
            TUXPAINT,
            deb("ktuberling-data", "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed", "4:22.12.3-1"),
            deb("klettres-data", "1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8", "4:22.12.3-1"),
        ),
        unpack_languages,
    ),
}
