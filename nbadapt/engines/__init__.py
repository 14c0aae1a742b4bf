"""What does the work: training loops and generation, shared by the methods."""
