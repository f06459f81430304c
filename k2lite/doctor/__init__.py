"""What this machine has and lacks, one finding after the other."""
