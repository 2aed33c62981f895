"""Save and load tables, indices and recommenders: whole or not at all; or log them, each append what changed.

A checkpoint is a folder: ``manifest.json`` (format version, what it is, parameters, stream position, and the size
and SHA-256 of the arrays' file) and one safetensors file. The arrays are written first, under a new name; renaming
the new manifest into place is the moment the checkpoint changes. A crash before it leaves the old one whole.

A :class:`Log` is a folder, too: bases ``base-<number>``, each a checkpoint, and segments ``increments-<first
number>.log`` of records, each of which carries the SHA-256 of the one before it. Its newest state is that of the newest
base and the increments after it.
"""

from fastinc.checkpoint._entries import Entry
from fastinc.checkpoint._folder import load, save
from fastinc.checkpoint._lock import LockedError
from fastinc.checkpoint._log import Log
from fastinc.checkpoint._restoring import DamageWarning
from fastinc.checkpoint._serving import export_int8

__all__ = ["DamageWarning", "Entry", "LockedError", "Log", "export_int8", "load", "save"]
