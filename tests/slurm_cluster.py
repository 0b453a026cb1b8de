"""A real SLURM cluster on this machine, up in a second: one controller, and nodes that can be killed and cut off.

Every node is a set of namespaces that one small process (its init) holds:

- network: an address of its own on a bridge, so that its link can be cut;
- host name and /etc/hosts: ``node1``, ``node2``, ... find each other by name, and this machine's files stay untouched;
- mounts: a file or folder can look different on one node;
- processes: what runs on a node has ids of its own, and dies with the node.

Files are shared (it is one machine), as on a cluster with a shared file system; so is /dev/shm. The controller and the
inits die with the process that started them, even when that is killed, and nothing outlives them but a bridge and a
mount, which the next cluster of the same number removes. The number is the first that nobody holds, so several test
processes have a cluster each. There is no accounting (``sacct`` fails), as on many real clusters. Partitions: ``main``
(the default) and ``urgent``, whose jobs preempt those of ``main``: SLURM requeues these.

Needs root and Debian's slurm-wlm, munge and iproute2.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Self

HOME = Path("/run/eyespot-slurm")
PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "munged": "munge", "ip": "iproute2"}
SMALL_MEGABYTES = 60
SETTINGS = """
ClusterName=eyespot
SlurmctldHost=head({head})
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2,max_rpc_cnt=0,nohold_on_prolog_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SlurmdTimeout=10
KillWait=30
JobRequeue=1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
"""


def missing() -> str | None:
    """Why no cluster can be started here, in one line; None where it can."""
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program, path=_path()) is None})
    if packages:
        return f"no SLURM to test on: apt-get install {' '.join(packages)}"
    if os.geteuid() != 0:
        return "no SLURM to test on: its nodes are namespaces, which root alone may make"
    trial = subprocess.run(
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
    )
    if trial.returncode:
        return f"no SLURM to test on: this machine makes no namespaces ({trial.stderr.strip()})"
    return None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class SlurmCluster:
    """One cluster; ``with SlurmCluster(num_nodes=3) as slurm`` starts and stops it."""

    folder: Path
    """Settings, state and logs (log/slurmctld.log, log/node1.log, ...) of the cluster."""
    head: str
    """This machine's address as the nodes see it: where a test puts servers."""
    environment: dict[str, str]
    """What a process needs to talk to this cluster: hand it to ``subprocess`` as ``env``."""

    def __init__(self, num_nodes: int = 3) -> None:
        self.nodes = tuple(f"node{index}" for index in range(1, num_nodes + 1))
        self._inits: dict[str, subprocess.Popen[str]] = {}
        self._controller: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._bound: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def small(self) -> Path:
        """A folder on a file system of its own that is full after 60 megabytes, on every node."""
        return self.folder / "small"

    def start(self) -> None:
        """Starts it all, and waits until every node is idle."""
        self._take_number()
        self._sweep()
        for name in ("state", "spool", "log", "small"):
            (self.folder / name).mkdir(parents=True)
        _do("mount", "-t", "tmpfs", "-o", f"size={SMALL_MEGABYTES}m", "eyespot", str(self.small))
        hosts = [f"{self.head} head {socket.gethostname()}", *(f"{self.address(node)} {node}" for node in self.nodes)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        settings = SETTINGS.format(folder=self.folder, head=self.head, port=26800 + self._number)
        lines = [f"NodeName={node} NodeAddr={self.address(node)} CPUs=16 RealMemory=16000" for node in self.nodes]
        (self.folder / "slurm.conf").write_text(settings + "\n".join(lines) + "\n")
        _start_munge()
        _do("ip", "link", "add", self._bridge, "type", "bridge")
        _do("ip", "address", "add", f"{self.head}/24", "dev", self._bridge)
        _do("ip", "link", "set", self._bridge, "up")
        self._controller = subprocess.Popen(
            _dies_with_us("unshare", "--uts", "sh", "-c", "hostname head; exec slurmctld -D -c"),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in self.nodes:
            self._start_node(node)
        self._wait(
            self._all_idle, 120, lambda: f"the nodes are not idle:\n{self.run('sinfo', '-N', '-l', check=False)}"
        )

    def stop(self) -> None:
        """Ends every process of the cluster and takes away what it made; a second call does nothing."""
        if self._lock is None:
            return
        for init in self._inits.values():
            init.kill()
            init.wait()
        if self._controller is not None:
            self._controller.terminate()  # ends its helper too
            try:
                self._controller.wait(10)
            except subprocess.TimeoutExpired:
                self._controller.kill()
        self._inits, self._controller, self._bound = {}, None, {}
        self._sweep()
        self._lock.close()
        self._lock = None

    def run(self, *command: str, check: bool = True) -> str:
        """What a command of SLURM says (``sbatch``, ``scontrol``, ...).

        Raises:
            AssertionError: it failed, and ``check`` is on.
        """
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr.strip()}"
        return (done.stdout + done.stderr).strip()

    def on(self, node: str, *command: str, check: bool = True) -> str:
        """What a command says that runs on a node (in its namespaces, not as a job)."""
        return self.run(*self._enter(node), *command, check=check)

    def address(self, node: str) -> str:
        """The node's address."""
        return f"10.77.{self._number}.{10 + int(node.removeprefix('node'))}"

    @property
    def dead_address(self) -> str:
        """An address on the nodes' network at which nobody is, until ``revive`` gives it to this machine."""
        return f"10.77.{self._number}.2"

    def revive(self) -> None:
        """This machine answers at ``dead_address`` from now on."""
        _do("ip", "address", "add", f"{self.dead_address}/24", "dev", self._bridge)

    def state(self, job: str) -> str:
        """What SLURM calls the job's state now: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, ..."""
        return dict(
            word.split("=", 1) for word in self.run("scontrol", "show", "job", job, "-o").split() if "=" in word
        )["JobState"]

    def wait_for(self, job: str, states: str | Collection[str], seconds: float = 120) -> str:
        """Waits until the job is in one of these states, and returns it.

        Raises:
            AssertionError: it is not, after so long; shows what SLURM says of it.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        seen = ""

        def there() -> bool:
            nonlocal seen
            seen = self.state(job)
            return seen in wanted

        self._wait(there, seconds, lambda: f"not {wanted}:\n{self.run('scontrol', 'show', 'job', job, check=False)}")
        return seen

    def node_pids(self, node: str, words: str = "") -> list[int]:
        """The processes on a node whose command line holds ``words``, as this machine numbers them.

        SLURM's own are left out: what is listed are those of jobs, also those that a killed slurmd has left behind.
        """
        own = self._own_pids(node)
        found = [(pid, name, line) for pid, name, line in self._processes(node) if pid not in own]
        return [pid for pid, name, line in found if words in line and name not in ("slurmd", "slurmstepd")]

    def kill_slurmd(self, node: str) -> None:
        """The node's slurmd dies; the jobs' processes live on. SLURM notices after some ten seconds."""
        for pid in self._slurmd_pids(node):
            os.kill(pid, signal.SIGKILL)
        self._wait(lambda: not self._slurmd_pids(node), 30, lambda: f"slurmd of {node} lives")

    def start_slurmd(self, node: str) -> None:
        """Starts the node's slurmd (again)."""
        self.run(*self._enter(node), "slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """The power goes: every process on the node dies at once, and so does its network."""
        self._inits[node].kill()
        self._inits.pop(node).wait()
        self._bound.pop(node, None)

    def cut(self, node: str) -> None:
        """Pulls the network cable; the node's processes live on."""
        _do("ip", "link", "set", self._cable(node), "down")

    def join(self, node: str) -> None:
        """Plugs the network cable in."""
        _do("ip", "link", "set", self._cable(node), "up")

    def bind(self, node: str, source: Path, target: Path, *, read_only: bool = False) -> None:
        """On this node alone, ``target`` (a file or a folder that exists) shows what lies at ``source``."""
        self.on(node, "mount", "--bind", str(source), str(target))
        self._bound.setdefault(node, []).append(str(target))
        if read_only:
            self.on(node, "mount", "-o", "remount,bind,ro", str(target))

    def unbind(self, node: str) -> None:
        """Takes back every ``bind`` on this node."""
        for target in reversed(self._bound.pop(node, [])):
            self.on(node, "umount", "--lazy", target)

    def reset(self) -> None:
        """Between tests: no jobs, no processes of jobs, nothing bound, every node up and idle, the small disk empty."""
        self.run("scancel", "--user", "root", check=False)
        for node in self.nodes:
            if node not in self._inits:
                self._start_node(node)
                continue
            for pid in self.node_pids(node):
                _kill(pid)
            self.unbind(node)
            self.join(node)
            if not self._slurmd_pids(node):
                self.start_slurmd(node)
        for path in self.small.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._wait(self._no_jobs, 120, lambda: f"jobs are left:\n{self.run('squeue', check=False)}")
        for node in self.nodes:  # one that was down, drained or suspected
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self._wait(
            self._all_idle, 120, lambda: f"the nodes are not idle:\n{self.run('sinfo', '-N', '-l', check=False)}"
        )

    def _take_number(self) -> None:
        """The first number that no living process holds."""
        HOME.mkdir(mode=0o700, exist_ok=True)
        for number in range(64):
            lock = (HOME / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._lock, self._number = lock, number
            break
        else:
            raise RuntimeError(f"64 clusters run already, says {HOME}")
        self.folder = HOME / str(self._number)
        self.head, self._bridge = f"10.77.{self._number}.1", f"eyespot{self._number}"
        self.environment = dict(os.environ, PATH=_path(), SLURM_CONF=str(self.folder / "slurm.conf"))

    def _sweep(self) -> None:
        """Removes what a cluster of this number has left."""
        while subprocess.run(["umount", "--lazy", str(self.folder / "small")], capture_output=True).returncode == 0:
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        for link in (self._bridge, *(path.name for path in Path("/sys/class/net").glob(f"eye{self._number}n*"))):
            subprocess.run(["ip", "link", "delete", link], capture_output=True)

    def _start_node(self, node: str) -> None:
        script = f"""hostname {node} && mount --bind {self.folder}/hosts /etc/hosts && ip link set lo up && echo ready
            sleep infinity & wait"""
        namespaces = ("--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        init = subprocess.Popen(
            _dies_with_us("unshare", *namespaces, "sh", "-c", script),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._inits[node] = init
        assert init.stdout is not None
        assert init.stdout.readline() == "ready\n", f"{node} does not start"
        cable = self._cable(node)
        subprocess.run(["ip", "link", "delete", cable], capture_output=True)  # of a node that was killed
        end = ("peer", "name", "eth0", "netns", str(self._init_pid(node)))
        _do("ip", "link", "add", cable, "type", "veth", *end)
        _do("ip", "link", "set", cable, "master", self._bridge, "up")
        self.on(node, "ip", "address", "add", f"{self.address(node)}/24", "dev", "eth0")
        self.on(node, "ip", "link", "set", "eth0", "up")
        self.start_slurmd(node)

    def _cable(self, node: str) -> str:
        return f"eye{self._number}n{node.removeprefix('node')}"

    def _init_pid(self, node: str) -> int:
        """The node's process 1, as this machine numbers it."""
        outer = self._inits[node].pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _own_pids(self, node: str) -> set[int]:
        """The node's init and what it sleeps with; children that it was given by the dead are not its own."""
        init = self._init_pid(node)
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        return {init, int(children[0])} if children else {init}

    def _enter(self, node: str) -> list[str]:
        return ["nsenter", "--target", str(self._init_pid(node)), "--net", "--uts", "--mount", "--pid", "--"]

    def _slurmd_pids(self, node: str) -> list[int]:
        return [pid for pid, name, _ in self._processes(node) if name == "slurmd"]

    def _processes(self, node: str) -> list[tuple[int, str, str]]:
        """Number, name and command line of all processes on a node but zombies."""
        space = Path(f"/proc/{self._init_pid(node)}/ns/pid").readlink()
        found = []
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
            try:
                if (folder / "ns/pid").readlink() == space and (line := (folder / "cmdline").read_bytes()):
                    words = line.replace(b"\0", b" ").decode(errors="replace")
                    found.append((int(folder.name), (folder / "comm").read_text().strip(), words))
            except OSError:
                continue  # it has ended meanwhile
        return found

    def _all_idle(self) -> bool:
        return self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split() == ["idle"] * len(
            self.nodes
        )

    def _no_jobs(self) -> bool:
        return not self.run("squeue", "-h")

    def _wait(self, there: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"after {seconds:g} seconds: {why()}"
            time.sleep(0.1)


def _dies_with_us(*command: str) -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", *command]


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _start_munge() -> None:
    """All clusters share one munged; it stays."""
    with (HOME / "munge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge")
        _do("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--force")
