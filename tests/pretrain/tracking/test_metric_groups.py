from eyespot.pretrain.tracking.metric_groups import grouped


def test_every_name_has_one_place():
    names = "loss lr grad_norm samples_seen data_wait_share peak_memory_gb images_per_second time_share/data accuracy"
    places = [grouped(name) for name in names.split()]
    assert places == [
        *("train/loss", "optim/lr", "optim/grad_norm", "train/samples_seen", "system/data_wait_share"),
        *("system/peak_memory_gb", "system/images_per_second", "system/time_share/data", "train/accuracy"),
    ]
    assert [grouped(place) for place in places] == places
