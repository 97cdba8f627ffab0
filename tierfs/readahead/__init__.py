"""What to fetch before it is asked for, and what to evict."""
