"""Settings of a run as TOML: ``--config run.toml``, and ``--print-config``, which writes one."""
