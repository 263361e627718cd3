"""Fetches a known model, when and only when a person asks for it.

    plan ─▶ what is missing, how large it is, its licence, the free disk ─ a person agrees ─▶ download

Bytes gather in a hidden folder beside the model's place, each file under its hash, so that a download goes on where an
earlier one was cut, and never with the bytes of another version. Only when all are there and right they move into
place. Files that a user has there already stay as they are.
"""

from t2v.download.catalogue import Known, known
from t2v.download.errand import Errand
from t2v.download.planning import Plan, plan
from t2v.download.transfer import Progress, Watch, download

__all__ = ["Errand", "Known", "Plan", "Progress", "Watch", "download", "known", "plan"]
