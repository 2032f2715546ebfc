"""How variants are judged: quality in the target engine, gates, and the threshold for falling back."""
