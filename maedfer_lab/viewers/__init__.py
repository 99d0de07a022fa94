"""Viewers for notebooks and dashboards: reconstruction, masks, attention; and what they save."""

from maedfer_lab.viewers.attention import AttentionViewer
from maedfer_lab.viewers.masking import MaskingViewer
from maedfer_lab.viewers.reconstruction import ReconstructionViewer

__all__ = ["AttentionViewer", "MaskingViewer", "ReconstructionViewer"]
