"""Data in: video readers, clips, folders of videos, framing, and drawn faces."""
