"""Several sources in one stream: what a person asks for, who comes at which position, and the shards as one folder."""
