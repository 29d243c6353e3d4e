"""The commands of analyze.py, and what they share."""
