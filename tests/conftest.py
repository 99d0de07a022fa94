"""Fixtures that several test files share."""

from pathlib import Path

import pytest
from making_videos import moving_frames, write_video


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """Five short videos of moving colours."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(5):
        write_video(folder / f"clip {i}.mp4", moving_frames(40, seed=i))
    return folder
