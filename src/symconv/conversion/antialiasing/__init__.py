"""Strided networks made to commute with shifts: polyphase sampling, blurring, dilation."""

from symconv.conversion.antialiasing.entry import antialias
from symconv.conversion.antialiasing.notes import Note, Notes

__all__ = ["Note", "Notes", "antialias"]
