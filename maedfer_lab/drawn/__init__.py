"""Drawn faces: an endless labelled data set of invented people."""
