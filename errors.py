"""The roots of every error tree in the package. Each error names who should hear it.

    AutoGPTError
    ├── UserError          a person: one clear line (what, where, what to do) and an exit code
    │   ├── UsageError     a wrong command, file or goal; exit code 2
    │   └── ModelUnavailable   no usable model; exit code 2
    ├── ToolError          the model: the loop turns it into an observation and goes on
    └── DefectError        a developer: a promise of ours is broken; a traceback is right

Folders grow their own short trees from these roots. Broad ``except`` belongs in two places
only: around a tool's body and at the command line's edge.
"""

from __future__ import annotations


class AutoGPTError(Exception):
    """Base of all errors raised on purpose by this package."""


class UserError(AutoGPTError):
    """Something a person can put right; the message is the one line they read."""

    exit_code = 1


class UsageError(UserError):
    """A wrong command, goal file, grant or input."""

    exit_code = 2


class ModelUnavailable(UserError):
    """No model could be loaded; the message says what to fetch and how."""

    exit_code = 2


class ToolError(AutoGPTError):
    """A tool could not do what was asked; the model reads the message and may try otherwise."""


class DefectError(AutoGPTError):
    """An invariant of this package does not hold; never caused by input alone."""
