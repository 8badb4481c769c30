"""Results of other tools: reading theirs, writing ours in their form."""
