"""Where and how a command runs; the console command."""
