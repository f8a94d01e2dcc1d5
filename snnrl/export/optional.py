"""Packages that only an export needs."""

from importlib import import_module
from typing import Any

from snnrl.errors import UserError


def optional(name: str) -> Any:
    """Return a package by its name.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"the package {name} is missing: pip install 'snnrl[export]'") from error
