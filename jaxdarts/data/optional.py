"""Packages that only some data sets need."""

import importlib
from types import ModuleType


def require(module: str, package: str, purpose: str) -> ModuleType:
    """Imports a module that a plain installation may lack.

    Args:
        module: name of the module.
        package: what `pip install` calls it.
        purpose: what needs it, as the subject of the error's sentence.

    Raises:
        ModuleNotFoundError: if it is missing, with the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs {module}: pip install {package} ({error})"
        ) from error
