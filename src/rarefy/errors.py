"""Everything rarefy raises on purpose.

::

    RarefyError
    ├── InputError          what was given cannot be used            exit status 2
    │   ├── SettingsError   a recipe or a setting; holds every problem found
    │   ├── DataError       images, labels, arrays, folders
    │   ├── ModelError      a network that cannot be built or run, or whose weights do not fit
    │   ├── StepError       a step that cannot take the network as it is
    │   ├── RunError        a run folder that cannot be read, continued, or trusted
    │   └── PackError       a pack that is truncated, corrupted or not a pack
    ├── ExportError         the network cannot be written as asked   exit status 1
    └── DemandError         a demand that was not met                exit status 1

Every message says what was expected, what came, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class RarefyError(Exception):
    """The root: catch this to catch everything rarefy raises on purpose."""

    exit_status = 1


class InputError(RarefyError):
    """What was given cannot be used."""

    exit_status = 2


class SettingsError(InputError, ValueError):
    """One or more settings are wrong; `problems` has a line for each.

    A `ValueError` too, so that pydantic collects those of settings inside settings.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "" if count == 1 else f"{count} problems:\n  "
        super().__init__(head + "\n  ".join(self.problems))


class DataError(InputError):
    """Images, labels, arrays or folders that cannot be used."""


class ModelError(InputError):
    """A network that cannot be built or run, or whose weights do not fit."""


class StepError(InputError):
    """A step that cannot take the network as it is; names the layers and the remedy."""


class RunError(InputError):
    """A run folder that cannot be read or continued."""


class PackError(InputError):
    """A pack that is truncated, corrupted, or not a pack at all."""


class ExportError(RarefyError):
    """The network cannot be written in the form asked for."""


class DemandError(RarefyError):
    """A demand (a speed-up, an accuracy, a claim to verify) that was not met."""
