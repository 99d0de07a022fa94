"""Viewers in a real browser. A package, so that browser and servers end with its last test."""
