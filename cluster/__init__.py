"""Where and how a command runs; the console command. The top floor: nothing imports it."""
