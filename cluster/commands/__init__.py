"""One file per command of ``eyespot --help``, under its name: main(argv) -> exit code. Nothing else lives here."""
