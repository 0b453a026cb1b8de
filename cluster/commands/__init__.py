"""One file per subcommand of the console command: main(argv) -> exit code."""
