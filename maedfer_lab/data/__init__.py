"""Data in: video readers, clips, folders and tables of videos, their doctor, and drawn faces."""
