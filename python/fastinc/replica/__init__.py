"""Replicas: another process serves a model from the log that its leader appends to, and keeps in step.

Nothing connects the two but the folder: a replica reads files, takes no lock, and may be started, stopped and killed
at any time.
"""

from fastinc.replica._replica import Lag, Replica, follow

__all__ = ["Lag", "Replica", "follow"]
