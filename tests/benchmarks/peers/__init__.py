"""What others would use for the same job, each written as its own documentation advises."""
