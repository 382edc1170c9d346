"""One documented exception tree. Each class fixes the exit code of the stage contract.

    FlywheelError
    ├── ContractError    2   the config, an upstream manifest or an argument is wrong; never retried
    │   └── NotFound         an id that nothing has
    ├── DataError        3   the data is not good enough; never retried
    ├── TransientError  75   something outside is down or full; waiting helps; retried
    └── Preempted      143   stopped by SIGTERM, after a checkpoint; retried and resumed

Every error says where, what and how to mend it, in one sentence each.
"""

from __future__ import annotations

import errno


class FlywheelError(Exception):
    """Base class. `where` names the file, field or service; `mend` is what the reader should do next."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """Where, what and the mend on one line."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = " ".join(text.split())
        if text and text[-1] not in ".!?":
            text += "."
        return f"{text} {self.mend}".strip()


class ContractError(FlywheelError):
    """The config, an argument or an upstream manifest does not fit."""

    exit_code = 2


class NotFound(ContractError):
    """An id that nothing has."""


class DataError(FlywheelError):
    """The data is not good enough to go on with."""

    exit_code = 3


class TransientError(FlywheelError):
    """Something outside failed in a way that waiting or a retry can cure."""

    exit_code = 75


class Preempted(FlywheelError):
    """SIGTERM came; the state is saved and a retry goes on from it."""

    exit_code = 143


RETRYABLE_EXIT_CODES = frozenset({TransientError.exit_code, Preempted.exit_code})


def from_os_error(error: OSError) -> FlywheelError:
    """Turn what the operating system says into one of ours.

    A full disk or a closed connection is transient; a missing or forbidden file is a contract error.
    """
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError("the disk is full", where=where, mend="Free some space (`flywheel status` shows the store), then retry.")
    if isinstance(error, ConnectionError | TimeoutError):
        return TransientError(f"the connection failed ({error})", where=where, mend="Check that the service is up with `make status`, then retry.")
    if isinstance(error, FileNotFoundError):
        return ContractError("there is no such file", where=where, mend="Check the path in the config.")
    if isinstance(error, PermissionError):
        return ContractError("permission denied", where=where, mend="Give this user the right to read and write it.")
    return TransientError(f"the operating system says: {error}", where=where, mend="Retry; if it stays, look at the machine.")


STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "azure", "adlfs")


def from_store_error(error: Exception, where: str = "") -> FlywheelError | None:
    """Turn what an object store's client raises into one of ours; None for any other error."""
    if type(error).__module__.split(".")[0] not in STORE_CLIENTS:
        return None
    if "Credentials" in type(error).__name__:
        return ContractError(f"no right to use the object store ({error})", where=where, mend="Give this process the store's credentials.")
    return TransientError(f"the object store does not answer ({error})", where=where, mend="Retry; if it stays, check the address and the network.")
