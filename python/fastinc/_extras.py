"""Optional dependencies: imported where first used, and missed with a message that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say which extra of fastinc brings it.

    Parameters
    ----------
    module
        The module's dotted name.
    extra
        The extra of the fastinc distribution that installs it.
    purpose
        What it is needed for, as it should begin the error message: ``"reading Parquet files"``.

    Returns
    -------
    ModuleType
        The imported module.

    Raises
    ------
    ImportError
        When the module's distribution is not installed. A distribution that is installed but broken
        raises its own error: "pip install" would be the wrong advice for it.

    Examples
    --------
    >>> require("json", extra="demo", purpose="writing reports").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise ImportError(
            f"{purpose} needs {top}, which is not installed: pip install 'fastinc[{extra}]'", name=top
        ) from error
