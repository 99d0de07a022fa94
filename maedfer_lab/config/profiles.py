"""Profiles of the notebooks, and the folders that the environment names."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from maedfer_lab.config.model import choose
from maedfer_lab.config.presets import base, demo, tiny
from maedfer_lab.config.recipe import PretrainConfig
from maedfer_lab.config.study import CORE_HOURS, StudyConfig, quick_study, smoke_study, study


@dataclass(frozen=True)
class Profile:
    """How much the notebooks do: their runs and expected minutes."""

    name: str
    pretrain: PretrainConfig
    study: StudyConfig
    minutes: dict[str, float] = field(default_factory=dict)

    def describe(self, notebook: str, device: str = "cpu") -> str:
        """The first line of a notebook: profile, data, device and expected minutes."""
        data = self.pretrain.data
        minutes = self.minutes[notebook]
        return (
            f"profile {self.name} ({', '.join(PROFILES)}: set MAEDFER_PROFILE); "
            f"data: {'synthetic faces' if data is None else data} (set MAEDFER_DATA); "
            f"device: {device}; about {minutes:g} minute{'s' * (minutes != 1)} on two CPU cores"
        )


PROFILES = ("smoke", "quick", "study", "full")


def _profiles() -> dict[str, Profile]:
    # One thread each, two side by side, as `make reproduce` runs them.
    slow = {"01": 0.2, "02": 0.2, "03": 0.2, "05": 0.3, "06": 0.6, "07": 0.8, "09": 0.2, "11": 0.4}
    quick = {**slow, "04": 9, "08": 2, "10": 0.5}
    brief = replace(demo(), optim=replace(demo().optim, steps=1500))  # of 2,000: within minutes
    hours = 60 * CORE_HOURS / 2
    known = (
        Profile("smoke", tiny(), smoke_study(), dict.fromkeys([*slow, "04", "08", "10"], 0.25)),
        Profile("quick", brief, quick_study(), quick),
        Profile("study", demo(), study(), {**quick, "08": hours, "10": hours}),
        Profile("full", base(), study(), {**quick, "04": 24 * 60, "06": 16, "07": 3, "08": hours,
                                          "10": hours}),
    )  # fmt: skip
    return {profile.name: profile for profile in known}


def profile(name: str | None = None) -> Profile:
    """The profile named by `MAEDFER_PROFILE` (default quick), on the data of `MAEDFER_DATA`."""
    known = _profiles()
    name = name or os.environ.get("MAEDFER_PROFILE") or "quick"
    chosen = known[choose("MAEDFER_PROFILE", name, PROFILES)]
    return replace(chosen, pretrain=replace(chosen.pretrain, data=data_folder()))


def data_folder() -> Path | None:
    """The folder of real videos named by `MAEDFER_DATA`, or None for synthetic faces."""
    value = os.environ.get("MAEDFER_DATA")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_absolute():  # relative to the project's folder, also from notebooks/
        folder = project_folder() / folder
    if not folder.is_dir():
        raise FileNotFoundError(
            f"MAEDFER_DATA={value} is not a folder; give one with videos in it, or unset the "
            "variable to use synthetic faces"
        )
    return folder.resolve()


def project_folder() -> Path:
    """The checkout that contains the working directory, else the working directory itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "maedfer_lab").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def environment(threads: int) -> dict[str, str]:
    """The environment for a process limited to this many CPU threads."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    least = min(threads, int(own)) if own.isdecimal() and int(own) else threads
    return {**os.environ, "OMP_NUM_THREADS": str(least)}


def num_cores() -> int:
    """CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def uses_fast_kernels() -> bool:
    """Whether models use the optimised CPU kernels (`fast`): unless `MAEDFER_FAST` is 0."""
    return os.environ.get("MAEDFER_FAST") != "0"


def is_in_app() -> bool:
    """Whether this process serves `make app`, whose visitor may not own the machine."""
    return "VOILA_REQUEST_URL" in os.environ


def keep_temporary_files_in(folder: str) -> None:
    """Let this process and its children put their temporary files in `folder`."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def output_folder() -> Path:
    """Where runs/ and figures/ are written: `MAEDFER_OUTPUT`, else the project's folder."""
    value = os.environ.get("MAEDFER_OUTPUT")
    return (project_folder() / Path(value).expanduser()).resolve() if value else project_folder()
