"""Training: one loop for all structures (import `symconv.train.loop`)."""
