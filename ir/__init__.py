"""The sparse graph IR: what carries a sparse network between frameworks. For now it reads and writes weight files."""
