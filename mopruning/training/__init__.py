"""What every training program does, whatever it trains: flags, log, checkpoints, progress."""
