"""The settings files of `accelerate launch` that come with the package, one a case, and how a user gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import write_text


@dataclass
class LaunchFilesArguments:
    """Write the settings files of `accelerate launch`: two processes on CPUs, GPUs, two machines, FSDP2, DeepSpeed.

    Args:
        folder: that takes them; a file that you changed stays as it is.
    """

    folder: str = "launch"


def write_launch_files(arguments: LaunchFilesArguments) -> list[Path]:
    """Write the launch files into a folder and return their paths; each is named with what it is for."""
    paths = []
    for source in sorted(Path(__file__).parent.glob("*.yaml")):
        path, text = Path(arguments.folder) / source.name, source.read_text(encoding="utf-8")
        is_kept = path.exists() and path.read_text(encoding="utf-8") != text
        if not is_kept:
            write_text(path, text)
        print(f"{path}{' (yours, kept)' if is_kept else ''}  {text.splitlines()[0].removeprefix('# ').rstrip(':,')}")
        paths.append(path)
    return paths
