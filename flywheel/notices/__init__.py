"""What people are told: that a run ended, failed, waits for a yes, is late. One message each, by the channels of `notices.yaml`.

    tell("result", key="result flywheel scheduled__…", facts)     kept in the ledger, then sent
    deliver()                                                     again what did not get through, or waited for the morning

Nobody is told twice: the key is the message's identity, and the ledger's table `notices` has it before it is sent. A channel that is away is
tried again; nothing that is sent holds up a run. Our own few posts rather than a library: Slack's and Teams' addresses must be free to
be a gateway's, and a test's.
"""

from flywheel.notices.config import KINDS, Kind, Notices, load
from flywheel.notices.outbox import deliver, recent, tell

__all__ = ["KINDS", "Kind", "Notices", "deliver", "load", "recent", "tell"]
