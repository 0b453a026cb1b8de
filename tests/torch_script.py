"""A user's script, for torchrun: argv are the shards and the run folder."""

import sys

import eyespot

run = eyespot.recipe(
    "mae_tiny",
    steps=2,
    run_dir=sys.argv[2],
    data={"shards": sys.argv[1], "batch_size": 16},
    device="cpu",
    track=False,
    picture_every=0,
    log_every=1,
)
print(eyespot.fit(run).outcome)
