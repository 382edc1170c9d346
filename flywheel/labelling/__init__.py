"""People's review in the tools they annotate with: Label Studio through its API, Prodigy through its files.

What curation offers (`flywheel.ledger.review`) is pushed as tasks with what the model said as prediction. What people decide comes back
when Label Studio's webhook knocks, when the stage `review` asks, or from a file; a decision is a record of the ledger like any other.
"""
