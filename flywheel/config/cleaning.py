"""What may be learned from: the config of `clean`."""

from __future__ import annotations

from pydantic import Field

from flywheel.config.section import Section, Share


class Clean(Section):
    """Reject what should not be learned from; everything rejected is in quarantine with line and reason."""

    min_output_chars: int = Field(2, ge=0)
    max_output_chars: int = Field(8000, ge=1)
    near_duplicates: Share = Field(0.9, description="Jaccard similarity of 3-word shingles from which two records are one; 1 turns it off")
    max_rejected: Share = Field(0.5, description="Above this share of rejected records the run stops (exit 3)")
    min_records: int = Field(20, ge=1, description="Fewer clean training records stop the run (exit 3)")
