"""Pictures and pages, from plain numbers."""
