"""Decisions about a corpus: from raw sources to a versioned manifest."""
