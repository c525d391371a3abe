"""Build the image of the Dockerfile and try it as a cluster runs it: no rights, read-only root, one volume.

Usage: python -m tests.dist.image [--debian] [--engine podman|docker]

With `--debian`, or where no registry gives the base image, mmdebstrap makes one from Debian's packages (podman only,
as root; 3 minutes the first time). The image, and that base, stay under names of their own: what is said at the end
removes them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectron_migrate import __version__
from spectron_migrate.local.testing import RunningServer, running_server
from tests.support.proxy import Fault, Seen, misbehaving

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/spectron-migrate:image-test"
DEBIAN_BASE = "localhost/spectron-migrate-base:debian"
PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip"
PRIVATE = (
    ".env",
    "keys.env",
    "dump/memories.jsonl",
    ".spectron-migrate/ledger.db",
    "spectron_migrate/__pycache__/x.pyc",
)
"""What may lie beside the sources on somebody's machine."""
TOOLS = ("gcc", "cc", "make", "git", "curl", "wget")
CERTIFICATES = Path("/etc/ssl/certs")

_LICENCES = """
import json, sys
from importlib.metadata import distributions
def licence(about):
    named = [each.split(" :: ")[-1] for each in about.get_all("Classifier") or [] if each.startswith("License ::")]
    said = about["License-Expression"] or ", ".join(named) or about["License"]
    return said.strip().splitlines()[0] if said else None
print(json.dumps({each.metadata["Name"]: licence(each.metadata) for each in distributions(path=[sys.argv[1]])}))
"""


class Engine:
    """podman or docker, as far as a trial needs it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._run: list[str] = []
        self._before: list[str] = []
        self.build_options: list[str] = []
        if name == "podman":
            self._run = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096", "--read-only-tmpfs=false"]
        if name == "podman" and Path("/sys/fs/cgroup/unified").exists():
            # crun refuses the mixture of both kinds of control groups; a trial needs none of them.
            self._before = ["unshare", "-m", "sh", "-c", 'umount /sys/fs/cgroup/unified; exec "$0" "$@"']
            self._run.append("--cgroups=disabled")
            self.build_options = ["--isolation", "chroot"]

    def __call__(
        self, *words: str | Path, check: bool = True, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [self.name, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and ended.returncode:
            told = " ".join(map(str, words))
            raise SystemExit(f"{self.name} {told}\nexit code {ended.returncode}\n{ended.stderr[-3000:]}")
        return ended

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """`run --rm` in the foreground, with no more rights than the manifests give."""
        rights = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"]
        return subprocess.Popen(
            [*self._before, self.name, "run", "--rm", *self._run, *rights, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def inside(self, image: str, *words: str) -> str:
        """What a program of the image says on stdout; raises SystemExit where it fails."""
        process = self.start("--entrypoint", words[0], image, *words[1:])
        out, said = process.communicate(timeout=120)
        if process.returncode:
            raise SystemExit(f"{words} ended with {process.returncode}: {said}")
        return out.strip()


def engine(asked: str | None) -> Engine:
    """The first that works here; raises SystemExit saying what is missing."""
    for name in [asked] if asked else ["podman", "docker"]:
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True, check=False).returncode:
            return Engine(name)
    raise SystemExit(
        "the image was NOT tried: neither podman nor a running docker is here "
        "(Debian: apt-get install podman crun, and mmdebstrap where no registry is reached)"
    )


def base_image(run: Engine, *, debian: bool) -> str:
    """The name of an image to build upon: what the Dockerfile names, else one made here."""
    (line,) = [each for each in (ROOT / "Dockerfile").read_text().splitlines() if each.startswith("ARG BASE=")]
    named = line.removeprefix("ARG BASE=")
    if not debian and not run("pull", "--quiet", named, check=False).returncode:
        return named
    if run.name != "podman" or not shutil.which("mmdebstrap"):
        raise SystemExit(
            f"the image was NOT tried: {named} cannot be had, and without podman and mmdebstrap none is made"
        )
    if run("image", "inspect", DEBIAN_BASE, check=False).returncode:
        _make_base(run)
    return DEBIAN_BASE


def _make_base(run: Engine) -> None:
    """A Debian with Python that looks as the official image does: `python` and a `pip` that installs."""
    hook = 'ln -s /usr/bin/python3 "$1/usr/local/bin/python"; rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED'
    with tempfile.TemporaryDirectory() as name:
        rootfs = Path(name) / "base.tar"
        words = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            f"--customize-hook={hook}",
            "trixie",
            str(rootfs),
        ]
        subprocess.run(words, check=True, capture_output=True)
        run("import", "--change", "ENV LANG=C.UTF-8", rootfs, DEBIAN_BASE)


def build(run: Engine, base: str) -> None:
    """Build from sources with private files beside them, and see that none was even sent."""
    with tempfile.TemporaryDirectory() as name:
        context = Path(name)
        for each in ("pyproject.toml", "README.md", "LICENSE", "Dockerfile", ".dockerignore"):
            shutil.copy(ROOT / each, context)
        shutil.copytree(
            ROOT / "spectron_migrate", context / "spectron_migrate", ignore=shutil.ignore_patterns("__pycache__")
        )
        expected = {f"/src/{path.relative_to(context)}" for path in context.rglob("*") if path.is_file()}
        expected -= {"/src/Dockerfile", "/src/.dockerignore"}
        for each in PRIVATE:
            (context / each).parent.mkdir(parents=True, exist_ok=True)
            (context / each).write_text("a memory, or a key")
        more: list[str | Path] = [*run.build_options, "--build-arg", f"BASE={base}"]
        if run.name == "podman" and CERTIFICATES.exists():
            more += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]  # for a registry that this host trusts
        run("build", *more, "--target", "build", "--tag", f"{IMAGE}-build", context)
        run("build", *more, "--tag", IMAGE, context)
    sent = run.inside(f"{IMAGE}-build", "find", "/src", "-type", "f")
    assert expected == set(sent.split()), expected ^ set(sent.split())


def inspect(run: Engine, base: str) -> None:
    """What the image says of itself."""
    (told,) = json.loads(run("image", "inspect", IMAGE).stdout)
    config = told["Config"]
    assert ("10001:10001", ["/data"], "SIGTERM", ["spectron-migrate"]) == (
        config["User"],
        list(config["Volumes"]),
        config["StopSignal"],
        config["Entrypoint"],
    )
    labels = {name.rsplit(".", 1)[1]: value for name, value in config["Labels"].items() if "opencontainers" in name}
    assert ("Apache-2.0", __version__) == (labels["licenses"], labels["version"])
    assert [] == [
        each for each in config["Env"] if any(word in each.split("=")[0] for word in ("KEY", "SECRET", "TOKEN"))
    ]
    (below,) = json.loads(run("image", "inspect", base).stdout)
    print(f"{IMAGE}: {told['Size'] / 1e6:.0f} MB, {below['Size'] / 1e6:.0f} MB of them {base}")


def look_inside(run: Engine) -> None:
    """No tools, nothing to write to beside the volume, a licence for everything that came along."""

    def shell(script: str) -> str:
        return run.inside(IMAGE, "sh", "-c", f"{{ {script}; }} 2>&1 || true")

    assert "10001 10001" == shell("echo $(id -u) $(id -g)")
    assert "" == shell(f"for each in {' '.join(TOOLS)}; do command -v $each; done; ls /opt/venv/bin | grep pip")
    assert "" == shell("find /opt /usr /etc /var/lib -xdev -writable ! -type l 2> /dev/null")
    assert "" == shell(r"find / -xdev \( -name memories.jsonl -o -name ledger.db -o -name '*.env' \) 2> /dev/null")
    assert 2 == shell("touch /tmp/x /opt/venv/x").count("Read-only file system")
    assert "" == shell("touch /data/x && rm /data/x")
    packages = shell("ls -d /opt/venv/lib/python3*/site-packages")
    out = run.inside(IMAGE, "python", "-c", _LICENCES, packages)
    licences: dict[str, str | None] = json.loads(out)
    assert [] == [name for name, licence in licences.items() if not licence]
    kinds = sorted({str(licence) for licence in licences.values()})
    print(f"{len(licences)} packages, each with its licence: {'; '.join(kinds)}")


class Trial:
    """Commands in containers that share one volume, beside a local Spectron."""

    def __init__(self, run: Engine, server: RunningServer, folder: Path) -> None:
        self.run = run
        self.server = server
        self.volume = f"spectron-migrate-image-test-{os.getpid()}"
        self.folder = folder

    def container(self, *words: str, endpoint: str | None = None, key: str | None = None) -> list[str | Path]:
        environment = {
            "SPECTRON_ENDPOINT": endpoint or self.server.base_url,
            "SPECTRON_CONTEXT": self.server.context,
            "SPECTRON_API_KEY": key or self.server.api_key,
            "MEM0_API_KEY": "m0-key",
        }
        given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        return [*given, "--volume", f"{self.volume}:/data", "--volume", f"{self.folder}:/config:ro", IMAGE, *words]

    def expect(self, code: int, *words: str, **led: str) -> dict[str, Any]:
        """Run it; the exit code that the container ends with is expected, and told."""
        process = self.run.start(*self.container(*words, "--json", **led))
        out, said = process.communicate(timeout=300)
        assert code == process.returncode, (words, out, said)
        told: dict[str, Any] = json.loads(out)
        assert code == told["exit_code"]
        return told

    def signalled(self, signal: str, when: Callable[[Seen], bool], *words: str) -> dict[str, Any]:
        """Signal the container once a request is seen; process 1 in there is ours alone."""
        name = f"{self.volume}-signalled"
        sent: list[str] = []

        def choose(seen: Seen) -> Fault:
            if not sent and when(seen):
                sent.append(signal)
                self.run("kill", "--signal", signal, name)
            return "none"

        with misbehaving(self.server.base_url, choose) as proxy:
            led = self.container(*words, "--json", endpoint=proxy.base_url)
            process = self.run.start("--name", name, *led)
            began = time.monotonic()
            out, said = process.communicate(timeout=120)
        assert out, said
        told: dict[str, Any] = json.loads(out)
        assert (process.returncode, 130 if signal == "INT" else 143) == (told["exit_code"], process.returncode), said
        assert time.monotonic() - began < 60
        return told


@contextmanager
def trial(run: Engine) -> Iterator[Trial]:
    """A server, a volume, and a folder with settings and memories; all of it goes afterwards."""
    with tempfile.TemporaryDirectory() as name, running_server(Path(name) / "spectron", context="image") as server:
        folder = Path(name) / "config"
        folder.mkdir()
        rows = [{"id": str(number), "memory": f"Likes tea number {number}", "user_id": "anna"} for number in range(300)]
        (folder / "get_all.json").write_text(json.dumps(rows))
        folder.chmod(0o755)
        Path(name).chmod(0o755)
        made = Trial(run, server, folder)
        try:
            yield made
        finally:
            run("volume", "rm", "--force", made.volume)


def play(on: Trial) -> None:
    """Export, replay that is stopped and goes on, dual-verify: exit codes and signals as documented."""
    out, _ = on.run.start(IMAGE, "--version").communicate(timeout=60)
    assert f"spectron-migrate {__version__}\n" == out
    on.expect(2, "replay", "--dump", "nowhere.json")
    assert 300 == on.expect(0, "export", "--from", "/config/get_all.json")["memories"]
    on.expect(6, "replay", key="sk-of-somebody-else")
    on.expect(8, "replay", "--limit", "3")
    for signal in ("TERM", "INT"):
        told = on.signalled(signal, lambda seen: seen.path.endswith("/facts") and seen.number > 20, "replay")
        assert (0, True) == (told["in_doubt"], 0 < told["remaining"] < 300)
    assert (0, 300) == (on.expect(0, "replay")["remaining"], on.expect(0, "replay")["already"])
    on.signalled("TERM", lambda seen: seen.path.endswith("/query"), "dual-verify", "--sample", "50")
    verdict = on.expect(0, "dual-verify", "--sample", "20", "--accept", "recall", "--report", "verify.md")
    assert ("GO", 300) == (verdict["verdict"], verdict["integrity"]["present"])
    look = on.run.start(
        "--volume", f"{on.volume}:/data", "--entrypoint", "sh", IMAGE, "-c", "ls -ld /data/dump /data/.spectron-migrate"
    )
    modes = look.communicate(timeout=60)[0].split("\n")
    assert 2 == sum(line.startswith("drwx------") and " migrate migrate " in line for line in modes), modes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debian", action="store_true", help="make the base image from Debian's packages")
    parser.add_argument("--engine", choices=["podman", "docker"])
    asked = parser.parse_args()
    run = engine(asked.engine)
    began = time.perf_counter()
    base = base_image(run, debian=asked.debian)
    build(run, base)
    print(f"built with {run.name} on {base} in {time.perf_counter() - began:.0f} s", flush=True)
    inspect(run, base)
    look_inside(run)
    with trial(run) as on:
        play(on)
    print("exported, replayed, stopped by SIGTERM and SIGINT and gone on, verified: every exit code as documented")
    print(f"to remove it: {run.name} rmi {IMAGE} {IMAGE}-build {DEBIAN_BASE if base == DEBIAN_BASE else ''}".rstrip())


if __name__ == "__main__":
    main()
