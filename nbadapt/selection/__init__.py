"""Which way is best for these rows: candidates on one split, by one measure, within one budget."""
