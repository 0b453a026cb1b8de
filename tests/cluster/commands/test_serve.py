"""eyespot serve as a person starts and ends it."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from released_runs import write_release
from served import as_process, multipart, picture

from eyespot.cluster.cli import main
from eyespot.cluster.commands import serve


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["serve", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EYESPOT_SERVE_TOKEN", raising=False)
    assert "no such folder" in refuse(capsys, str(tmp_path / "none"), "--port", "0")
    assert "so it is no release" in refuse(capsys, str(tmp_path), "--port", "0")
    assert "EYESPOT_SERVE_TOKEN to a secret" in refuse(capsys, "any", "--host", "0.0.0.0")
    assert "--max-batch" in refuse(capsys, "any", "--max-batch", "0")
    monkeypatch.setenv("EYESPOT_SERVE_TOKEN", "short")
    assert "must be 16 ASCII characters" in refuse(capsys, "any")
    monkeypatch.delenv("EYESPOT_SERVE_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Address already in use" in refuse(capsys, "any", "--port", port)


def test_nobody_is_let_in_before_it_can_answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EYESPOT_SERVE_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = free.getsockname()

    def loading(*_: object) -> tuple[None, dict[str, str]]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, 5)
        with pytest.raises(OSError), socket.socket() as other:
            other.bind(place)
        other = socket.socket()  # as a second server does
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(place)
        other.listen()
        quicker.append(other)
        return None, {}

    quicker: list[socket.socket] = []
    monkeypatch.setattr(serve, "_server", loading)
    assert "Address already in use" in refuse(capsys, "any", "--port", str(place[1]))
    quicker[0].close()


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish(number: signal.Signals, tmp_path: Path):
    folder = write_release(tmp_path / "digits")
    secret = "a-secret-of-many-letters"
    with as_process(str(folder), "--max-batch", "2", EYESPOT_SERVE_TOKEN=secret) as (client, process):
        assert client.ask("/info").json()["name"] == "digits-run"
        body, kind = multipart(*[picture(seed, (900, 900)) for seed in range(6)])
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(client.ask, "/embed", body, kind) for _ in range(4)]
            while "eyespot_in_flight 4" not in client.ask("/metrics").body.decode():
                time.sleep(0.005)
            process.send_signal(number)
            assert [len(each.result().json()["features"]) for each in asked] == [6] * 4
        assert process.wait(30) == 0
        assert process.stderr is not None and process.stderr.read() == ""
        with pytest.raises(OSError):
            client.ask("/health")


@pytest.mark.thorough
def test_garbage_leaves_it_alive(tmp_path: Path):
    folder = write_release(tmp_path / "digits")
    with as_process(str(folder)) as (client, process):
        wanted = client.embed(picture(1))

        def hurt(place: int) -> None:
            good = picture(place, (60, 60), "JPEG")
            for cut in range(place, len(good), 400):
                damaged = bytearray(good)
                damaged[cut] ^= 0xFF
                assert client.ask("/embed", bytes(damaged)).status in (200, 422)
                assert client.ask("/embed", good[:cut] or b"x").status == 422
            with client.connect() as connection:
                connection.sendall(bytes(range(256)) * 9)
                connection.recv(1000)

        threads = [threading.Thread(target=hurt, args=(place,)) for place in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert (client.embed(picture(1)) == wanted).all() and process.poll() is None
