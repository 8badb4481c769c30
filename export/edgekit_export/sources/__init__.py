"""Model sources: what a person names, turned into weights, configuration and tokenizer."""

from edgekit_export.sources.open import open_source
from edgekit_export.sources.source import ModelSource

__all__ = ["ModelSource", "open_source"]
