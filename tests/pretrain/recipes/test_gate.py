from eyespot.pretrain.recipes.gate import RESNET, SHORT, Gate
from eyespot.pretrain.recipes.rotation import rotation_r18_cifar10

GATE = Gate(rotation_r18_cifar10, RESNET, steps=400, batch_size=128, changes="--optim.lr 2e-3")


def test_its_changes_come_last_so_that_they_win():
    beginning = (
        "rotation_r18_cifar10 --steps 400 --data.batch-size 128 --encoder.name test_resnet --encoder.no-small-stem"
    )
    assert GATE.settings == f"{beginning} {SHORT} --optim.lr 2e-3"
    assert GATE.settings.index("--optim.lr 1e-3") < GATE.settings.index("--optim.lr 2e-3")


def test_without_changes_nothing_follows():
    assert Gate(rotation_r18_cifar10, RESNET, steps=4, batch_size=8).settings.endswith(SHORT)
