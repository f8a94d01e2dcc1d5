"""Tables of what operations cost: YAML, a source beside each figure."""
