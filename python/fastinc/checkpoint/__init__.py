"""Save and load tables and recommenders: whole or not at all.

A checkpoint is a folder: ``manifest.json`` (format version, what it is, parameters, stream position, and the size
and SHA-256 of the arrays' file) and one safetensors file. The arrays are written first, under a new name; renaming
the new manifest into place is the moment the checkpoint changes. A crash before it leaves the old one whole.
"""

from fastinc.checkpoint._folder import load, save

__all__ = ["load", "save"]
