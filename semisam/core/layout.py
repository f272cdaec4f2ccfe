"""Names of the files in a run's folder, for those that must not import torch to find them."""

from __future__ import annotations

SETTINGS = "settings.json"
SPLIT = "split.json"
MODEL = "model.pt"
CARD = "model.json"
CASES = "cases.csv"
RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
LOG = "train.jsonl"
LOCK = ".lock"
PROGRESS = "progress.json"
ERROR = "error.json"
NOTES = "notes.json"
