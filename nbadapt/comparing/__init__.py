"""Runs side by side: what each one is and cost, how they differ, their curves in one figure, and their removal."""
