"""The vocabulary every room shares: records, settings, prompts, object store, manifests, registry, ledger, errors."""

__version__ = "0.1.0"
